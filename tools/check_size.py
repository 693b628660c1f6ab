"""Fail when a function or file exceeds the limits: 60 lines or 6 parameters a function, 450 lines a file."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

MAX_FUNCTION_LINES = 60
MAX_PARAMETERS = 6
MAX_FILE_LINES = 450


def oversized(path: Path) -> Iterator[str]:
    """One message for each function or file that is too large."""
    text = path.read_text(encoding="utf-8")
    if (lines := text.count("\n")) > MAX_FILE_LINES:
        yield f"{path}: {lines} lines, at most {MAX_FILE_LINES}"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            parameters = sum(argument.arg not in ("self", "cls") for argument in arguments)
            if length > MAX_FUNCTION_LINES:
                yield f"{path}:{node.lineno} {node.name}: {length} lines, at most {MAX_FUNCTION_LINES}"
            if parameters > MAX_PARAMETERS:
                yield f"{path}:{node.lineno} {node.name}: {parameters} parameters, at most {MAX_PARAMETERS}"


def main() -> None:
    """Check every Python file below the directories named on the command line."""
    found = [line for root in sys.argv[1:] for path in sorted(Path(root).rglob("*.py")) for line in oversized(path)]
    for line in found:
        print(line)
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
