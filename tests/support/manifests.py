"""Manifests as kubectl reads them, and the sentence that a bad one must be refused with."""

import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DEFINITION = ROOT / "crds" / "sftjobs.yaml"
SAMPLES = sorted((ROOT / "crds" / "samples").glob("*.yaml"))
INVALID = sorted((ROOT / "tests" / "crd" / "invalid").glob("*.yaml"))
IMMUTABLE = ROOT / "tests" / "crd" / "immutable"


class _Loader(yaml.SafeLoader):
    """Reads 2e-4 as a number, as kubectl does and PyYAML does not."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+"), list("-+0123456789.")
)


def load_manifest(path: Path) -> dict[str, Any]:
    """The one document of a manifest."""
    manifest: dict[str, Any] = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    return manifest


def expected_sentence(path: Path) -> str:
    """What the first line says that a user must read: `# expect: SENTENCE`."""
    first, _, _ = path.read_text(encoding="utf-8").partition("\n")
    marker, _, sentence = first.partition("# expect: ")
    assert marker == "", f"{path.name} must begin with '# expect: ' and a sentence"
    assert sentence
    return sentence
