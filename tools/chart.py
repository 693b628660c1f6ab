"""Write the chart's generated parts: its copy of the SFTJob definition, and its README's table of values."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
CHART = ROOT / "charts" / "sftjob-operator"
DEFINITION = ROOT / "crds" / "sftjobs.yaml"
BEGIN = "<!-- values: written by make generate -->\n"
END = "<!-- end of values -->\n"


class ChartError(Exception):
    """The values cannot be documented; the message gives the reason."""


def rows(values: str) -> Iterator[tuple[str, str, str]]:
    """Dotted name, default as JSON, and description of every value: the comment directly above its key.

    Raises:
        ChartError: a value has no comment.
    """
    root = yaml.compose(values)
    if not isinstance(root, yaml.MappingNode):
        raise ChartError("values.yaml holds no values")
    yield from _rows(root, values.splitlines(), "")


def _rows(node: yaml.MappingNode, lines: list[str], prefix: str) -> Iterator[tuple[str, str, str]]:
    for key, value in node.value:
        name, comment = f"{prefix}{key.value}", _comment(lines, key.start_mark.line)
        if comment:
            yield name, json.dumps(yaml.safe_load(yaml.serialize(value))), comment
        elif isinstance(value, yaml.MappingNode) and value.value:
            yield from _rows(value, lines, f"{name}.")
        else:
            raise ChartError(f"values.yaml: {name} has no comment: write one above it")


def _comment(lines: list[str], line: int) -> str:
    """The comment that ends directly above a line."""
    found: list[str] = []
    while line > 0 and (match := re.match(r"\s*# ?(.*)", lines[line - 1])):
        found.insert(0, match[1])
        line -= 1
    return " ".join(found)


def readme(text: str, values: str) -> str:
    """The README with a regenerated table of values.

    Raises:
        ChartError: a value has no comment.
    """
    table = [f"| `{name}` | `{default}` | {comment} |\n" for name, default, comment in rows(values)]
    before, _, rest = text.partition(BEGIN)
    return "".join(
        [before, BEGIN, "| value | default | description |\n|---|---|---|\n", *table, END, rest.partition(END)[2]]
    )


def main() -> None:
    """Write both files."""
    (CHART / "files" / DEFINITION.name).write_bytes(DEFINITION.read_bytes())
    page = CHART / "README.md"
    values = (CHART / "values.yaml").read_text(encoding="utf-8")
    page.write_text(readme(page.read_text(encoding="utf-8"), values), encoding="utf-8")


if __name__ == "__main__":
    main()
