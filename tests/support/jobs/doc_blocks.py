"""Fenced blocks of the documents, and which test runs each.

The comment `<!-- runnable: tests/FOLDER/test_NAME.py -->` on its own line before a block means that this test runs it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[3]
DOCUMENTS: Final = sorted([*ROOT.glob("*.md"), ROOT / "crds/README.md", *ROOT.glob("docs/**/*.md")])
_BLOCK: Final = re.compile(
    r"(?:^<!-- runnable: (?P<runner>\S+) -->\n\n?)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE
)


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block. `runner` is the test that runs it, None if none does."""

    document: str
    language: str
    text: str
    runner: str | None

    @property
    def lines(self) -> list[str]:
        """Its lines that are not blank."""
        return [line.strip() for line in self.text.splitlines() if line.strip()]


def blocks() -> Iterator[Block]:
    """All blocks of all documents, in order."""
    for path in DOCUMENTS:
        name = str(path.relative_to(ROOT))
        for found in _BLOCK.finditer(path.read_text(encoding="utf-8")):
            yield Block(document=name, language=found["language"], text=found["text"], runner=found["runner"])


def runnable_by(test: str) -> list[Block]:
    """The blocks that name the test file `test`, which is its `__file__`."""
    name = str(Path(test).relative_to(ROOT))
    return [block for block in blocks() if block.runner == name]
