"""Manifests as kubectl reads them, and the sentences that a bad one must be refused with."""

import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[3]
DEFINITION = ROOT / "crds" / "sftjobs.yaml"
SAMPLES = sorted((ROOT / "crds" / "samples").glob("*.yaml"))
INVALID = sorted((ROOT / "tests" / "crd" / "invalid").glob("*.yaml"))
VALID = sorted((ROOT / "tests" / "crd" / "valid").glob("*.yaml"))
IMMUTABLE = ROOT / "tests" / "crd" / "immutable"
_EXPECT = "# expect: "


class _Loader(yaml.SafeLoader):
    """Reads 2e-4 as a number, as kubectl does and PyYAML does not."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+"), list("-+0123456789.")
)


def load_manifest(path: Path) -> dict[str, Any]:
    """The one document of a manifest."""
    return read_manifest(path.read_text(encoding="utf-8"))


def read_manifest(text: str) -> dict[str, Any]:
    """The one document of a YAML text."""
    manifest: dict[str, Any] = yaml.load(text, Loader=_Loader)
    return manifest


def expected_sentences(path: Path) -> list[str]:
    """What a bad manifest says at its top that a user must read, all of it: `# expect: SENTENCE` for each complaint."""
    lines = path.read_text(encoding="utf-8").splitlines()
    sentences = [line.removeprefix(_EXPECT) for line in lines if line.startswith(_EXPECT)]
    assert sentences, f"{path.name} must begin with '{_EXPECT}' and a sentence"
    return sentences
