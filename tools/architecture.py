"""Write the pictures of docs/architecture.md: which package imports which, and import-linter's layers of each."""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import grimp

ROOT: Final = Path(__file__).resolve().parents[1]
PAGE: Final = ROOT / "docs" / "architecture.md"
BEGIN: Final = "<!-- packages: written by make generate -->\n"
END: Final = "<!-- end -->\n"


def package_imports(packages: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of packages of which the first imports the second."""
    graph = grimp.build_graph(*packages)
    pairs = {
        (module.partition(".")[0], imported.partition(".")[0])
        for module in graph.modules
        for imported in graph.find_modules_directly_imported_by(module)
    }
    return sorted((package, imported) for package, imported in pairs if package != imported)


def package_picture(packages: Sequence[str], imports: Sequence[tuple[str, str]]) -> str:
    """A flowchart with an arrow for each import between packages."""
    arrows = [f"    {package} --> {imported}" for package, imported in imports]
    return _mermaid([*(f"    {package}" for package in packages), *arrows])


def layers_picture(layers: Sequence[str]) -> str:
    """A flowchart of layers, the highest first; modules in one box do not import each other."""
    boxes = [_box(layer) for layer in layers]
    lines = [f'    layer{number}["{box}"]' for number, box in enumerate(boxes)]
    return _mermaid([*lines, "    " + " --> ".join(f"layer{number}" for number in range(len(boxes)))])


def pictures(settings: Mapping[str, Any], imports: Sequence[tuple[str, str]]) -> Iterator[str]:
    """The generated part of the page: `settings` is the table tool.importlinter of pyproject.toml."""
    yield 'An arrow means "imports".\n\n' + package_picture(settings["root_packages"], imports)
    for contract in settings["contracts"]:
        if contract["type"] == "layers":
            yield f"{contract['name']} (modules in one box are independent):\n\n{layers_picture(contract['layers'])}"


def page(text: str, parts: Sequence[str]) -> str:
    """The page `text` with its generated part replaced."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{chr(10).join(parts)}\n{END}{after}"


def _box(layer: str) -> str:
    """A layer such as `a.b | a.c` as the text of its box: `b | c`."""
    return " | ".join(module.strip().partition(".")[2] or module.strip() for module in layer.split("|"))


def _mermaid(lines: Sequence[str]) -> str:
    return "```mermaid\nflowchart TB\n" + "\n".join(lines) + "\n```\n"


def main() -> None:
    """Write the page."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    parts = list(pictures(settings, package_imports(settings["root_packages"])))
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), parts), encoding="utf-8")


if __name__ == "__main__":
    main()
