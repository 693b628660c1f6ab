"""Fail when a text contains a word or phrase of tools/english.toml; the message has what to write instead."""

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LIST = ROOT / "tools" / "english.toml"
_GAP = r"(?:\s|#)+"
"""Between two words: also a line break, and the sign of a comment on the next line."""


def pattern(phrase: str) -> re.Pattern[str]:
    """The regular expression of a rule, or of a literal phrase."""
    return re.compile(phrase.replace(" ", _GAP), re.IGNORECASE)


def findings(text: str, rules: dict[str, str], right: list[str]) -> Iterator[tuple[int, str]]:
    """Line number and message of each use that no phrase of `right` contains."""
    exempt = [
        match.span() for phrase in right for match in pattern(re.escape(phrase).replace(r"\ ", " ")).finditer(text)
    ]
    for rule, instead in rules.items():
        for match in pattern(rule).finditer(text):
            if not any(start <= match.start() and match.end() <= end for start, end in exempt):
                line = text.count("\n", 0, match.start()) + 1
                yield line, f'"{" ".join(match.group().split())}": write {instead}'


def files(settings: dict[str, Any]) -> list[Path]:
    """The files to check, each once."""
    return sorted({path for glob in settings["files"] for path in ROOT.glob(glob) if path != LIST})


def main() -> None:
    """Check every file that the list names."""
    settings = tomllib.loads(LIST.read_text(encoding="utf-8"))
    found = [
        f"{path.relative_to(ROOT)}:{line} {message}"
        for path in files(settings)
        for line, message in sorted(findings(path.read_text(encoding="utf-8"), settings["rules"], settings["right"]))
    ]
    for line in found:
        print(line)
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
