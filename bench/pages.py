"""The measured sections of docs/benchmarks.md, each between its own markers and written by its benchmark."""

import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import psutil

PAGE: Final = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"
END: Final = "<!-- end -->"


def begin(target: str) -> str:
    """The line before the section that `make TARGET` writes."""
    return f"<!-- begin: written by make {target} -->"


def machine() -> str:
    """This machine's description, without its name."""
    memory = psutil.virtual_memory().total / 2**30
    load = os.getloadavg()[0]
    return (
        f"{os.cpu_count()} cores ({platform.machine()}), {memory:.0f} GiB, {platform.system()}, "
        f"Python {platform.python_version()}, load {load:.1f} at the start"
    )


def section(target: str, machine_text: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A section with one table."""
    lines = [f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows)]
    return "\n".join([begin(target), "", f"Machine: {machine_text}.", "", *lines, "", END])


def replace_section(page: str, new: str) -> str:
    """`page` with the section that has the same first line as `new` replaced by `new`."""
    first = new.partition("\n")[0]
    head, _, rest = page.partition(first)
    return head + new + rest.partition(END)[2]
