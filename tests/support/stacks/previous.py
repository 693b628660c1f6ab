"""The previous release beside this version: its sources, taken out of this repository's history, and programs of it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from support.faults import python_image
from support.jobs.manifests import ROOT

RELEASE: Final = "a8c0daf8e0e5eb3d59f317b0738a5035215cd339"
"""Commit of the previous release: what is upgraded to this version, and what a rollback leads back to. The one place
that names it; a release moves it to the one before."""
PACKAGES: Final = ("contract", "operator", "trainer-image")
TAKE_OVER: Final = """
from sftjob_operator.api import parse_job, to_dict

def answer(body):
    return {name: part for name, part in to_dict(parse_job(body).status).items() if part not in ([], {})}
"""
"""For `asked`: the status of an SFTJob as its operator reads it, which is how it writes it back."""
_CHECKED: Final = """
import json, sys
import sftjob_contract
assert sftjob_contract.__file__.startswith(sys.argv[1]), f"{sftjob_contract.__file__} is not the previous release's"
"""
_CONVERSATION: Final = """
for line in sys.stdin:
    print(json.dumps(answer(json.loads(line))), flush=True)
"""


class NoPreviousReleaseError(RuntimeError):
    """The previous release is not in this clone; the text says how to get it."""


@dataclass(frozen=True)
class Previous:
    """Sources of the previous release below `root`, run by this environment's Python and libraries."""

    root: Path

    @property
    def definition(self) -> Path:
        """Its CustomResourceDefinition."""
        return self.root / "crds" / "sftjobs.yaml"

    @property
    def python_path(self) -> str:
        """PYTHONPATH with which Python imports its packages in place of this version's."""
        return os.pathsep.join(str(self.root / package / "src") for package in PACKAGES)

    @contextmanager
    def asked(self, program: str) -> Iterator[Callable[[Any], Any]]:
        """A process that runs `program`, Python source that defines `answer`, of JSON to JSON; what asks it."""
        text = f"{_CHECKED}\n{program}\n{_CONVERSATION}"
        environ = {**os.environ, "PYTHONPATH": self.python_path}
        command = [sys.executable, "-c", text, str(self.root)]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ, text=True
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            questions, answers = process.stdin, process.stdout

            def ask(question: Any) -> Any:
                questions.write(json.dumps(question) + "\n")
                questions.flush()
                line = answers.readline()
                assert line, "the previous release failed; its traceback is on stderr"
                return json.loads(line)

            yield ask

    def image(self, directory: Path) -> Path:
        """Make `directory` the programs of its trainer image, for the sandbox's `--image`."""
        return python_image(directory, self.python_path, faults=self.root / "tests" / "support" / "faults")


def extract_previous(directory: Path) -> Previous:
    """Write the sources of the previous release into `directory`.

    Raises:
        NoPreviousReleaseError: this clone does not have its commit.
    """
    archive = directory / "previous.tar"
    command = ["git", "-C", str(ROOT), "archive", "--output", str(archive), RELEASE, *PACKAGES, "crds", "tests"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NoPreviousReleaseError(
            f"the sources of the previous release, commit {RELEASE}, are not in this clone: {done.stderr.strip()}. "
            "In a shallow clone, run: git fetch --unshallow"
        )
    root = directory / "previous"
    root.mkdir()
    subprocess.run(["tar", "-xf", str(archive), "-C", str(root)], check=True)
    archive.unlink()
    return Previous(root)
