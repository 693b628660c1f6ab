"""Runs the shell blocks that the documents mark as runnable, line by line, on one local stack.

Only the two jobs of the quickstart are made shorter. A command with -w is stopped once it shows a job that trains or
has ended, as a person would stop it.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from sftjob_dev.stack import Stack
from support.jobs.doc_blocks import ROOT, runnable_by

BLOCKS = runnable_by(__file__)
STEPS = {"sftjob.yaml": 40, "lora.yaml": 10}
LINE_SECONDS = 180
SEEN = ("Running", "Succeeded")


@dataclass
class Terminal:
    """A directory and variables, as one terminal of a person has them."""

    directory: Path
    variables: dict[str, str] = field(default_factory=dict)

    def enter(self, line: str) -> str:
        """Run a line to its end; returns what it prints."""
        if line.startswith("export "):
            name, _, value = line.removeprefix("export ").partition("=")
            self.variables[name] = value
            return ""
        if line.endswith(" -w"):
            return self.watch(line)
        if " logs -f " in line:
            self.wait_for_pod(line.rsplit(maxsplit=1)[-1])
        done = subprocess.run(
            ["bash", "-c", line], cwd=self.directory, env=self.environ, capture_output=True, text=True, check=False,
            timeout=LINE_SECONDS,
        )  # fmt: skip
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        return done.stdout

    def watch(self, line: str) -> str:
        """Run a line until it shows a job that trains or has ended."""
        command = f"exec timeout {LINE_SECONDS} {line}"
        with subprocess.Popen(
            ["bash", "-c", command], cwd=self.directory, env=self.environ, stdout=subprocess.PIPE, text=True
        ) as watching:
            assert watching.stdout is not None
            shown = []
            for row in watching.stdout:
                shown.append(row)
                if any(phase in row for phase in SEEN):
                    watching.send_signal(signal.SIGINT)
                    return "".join(shown)
        pytest.fail(f"{line} showed no job that trains:\n{''.join(shown)}")

    def wait_for_pod(self, name: str) -> None:
        """Wait until a Pod's container has started, which a person sees before asking for its log."""
        end = time.monotonic() + LINE_SECONDS
        while time.monotonic() < end:
            if self.enter(f"kubectl get pod {name} --ignore-not-found -o jsonpath='{{.status.phase}}'") not in {
                "",
                "Pending",
            }:
                return
            time.sleep(0.2)
        pytest.fail(f"{name} did not start")

    @property
    def environ(self) -> dict[str, str]:
        """Variables of each command."""
        return {**os.environ, "HOME": str(self.directory), **self.variables}


def shortened(name: str) -> str:
    """A manifest of the quickstart with few steps."""
    manifest = yaml.safe_load((ROOT / "examples/quickstart" / name).read_text(encoding="utf-8"))
    training = manifest["spec"]["training"]
    training.pop("epochs", None)
    training["maxSteps"] = STEPS[name]
    return yaml.safe_dump(manifest)


@pytest.fixture(scope="module")
def terminal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    """A clone in which `make sandbox` runs."""
    clone = tmp_path_factory.mktemp("clone")
    shutil.copytree(ROOT / "examples", clone / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    for name in STEPS:
        (clone / "examples/quickstart" / name).write_text(shortened(name), encoding="utf-8")
    (clone / "crds").symlink_to(ROOT / "crds")
    (clone / ".venv").symlink_to(sys.prefix)
    with Stack(clone / ".sandbox"):
        yield Terminal(clone, {"KUBECONFIG": ".sandbox/kubeconfig"})


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "document", ["README.md", "docs/trying.md", "docs/is-it-learning.md", "docs/troubleshooting.md"]
)
def test_every_runnable_line_succeeds(document: str, terminal: Terminal) -> None:
    lines = [line for block in BLOCKS if block.document == document for line in block.lines]
    printed = {line: terminal.enter(line) for line in lines}
    assert printed
    for line, text in printed.items():
        if "kubectl get sft" in line:
            assert text.split()[:3] == ["NAME", "PHASE", "REASON"]
        if "kubectl describe" in line:
            assert "Conditions:" in text


def test_each_marked_block_is_in_one_of_these_documents() -> None:
    (mark,) = [mark for mark in test_every_runnable_line_succeeds.pytestmark if mark.name == "parametrize"]
    assert {block.document for block in BLOCKS} == set(mark.args[1])
    assert {block.language for block in BLOCKS} == {"sh"}
