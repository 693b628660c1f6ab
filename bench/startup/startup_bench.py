"""Seconds from the process start to the first step, and to the failure of a run with an invalid config.

Prints tables and writes them into docs/benchmarks.md.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from bench.pages import PAGE, machine, replace_section, section
from bench.trainer.cases import ON_CPU
from bench.trainer.trainer_bench import OURS, TUNED, alone, job, write_models
from sftjob_contract import names
from sftjob_contract.codec import encode

TARGET: Final = "bench-startup"
CASE: Final = replace(ON_CPU[0], packing=False)
STEPS: Final = 2
_PART: Final = re.compile(r"([a-z -]+?) (\d+\.\d)(?:,|$)")
BROKEN: Final[Mapping[str, Callable[[dict[str, Any]], str]]] = {
    "no JSON": lambda _config: "{",
    "an unknown field": lambda config: json.dumps({**config, "learningRate": 1}),
    "a field is missing": lambda config: json.dumps({key: config[key] for key in config if key != "training"}),
    "a value of the wrong type": lambda config: json.dumps({**config, "gpus": "two"}),
    "options that contradict each other": lambda config: json.dumps(
        {**config, "training": {**config["training"], "epochs": 1.0}}
    ),
    "an option that TRL does not have": lambda config: json.dumps(
        {**config, "training": {**config["training"], "extra": {"no_such_option": 1}}}
    ),
}
"""Mistakes in a run config, each with a config that contains it."""


def refused_after(text: str) -> float:
    """Seconds until the trainer refuses a run config."""
    with tempfile.TemporaryDirectory() as directory:
        config, volume = Path(directory) / "config.json", Path(directory) / "volume"
        volume.mkdir()
        config.write_text(text, encoding="utf-8")
        environ = {**os.environ, names.ENV_RUN_CONFIG: str(config), names.ENV_VOLUME: str(volume)}
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, *names.TRAINER_COMMAND[1:], "train"], env=environ, capture_output=True, check=False
        )
        seconds = time.perf_counter() - began
    if done.returncode != 65:
        raise RuntimeError(f"the config was not refused:\n{done.stderr.decode()[-2000:]}")
    return seconds


def parts(log: str) -> str:
    """The line of a trainer's log with the parts of the time to the first step, without the sum."""
    line = next(line for line in log.splitlines() if "the first step was done after" in line)
    return ", ".join(f"{name.strip()} {seconds}" for name, seconds in _PART.findall(line.partition(" s: ")[2]))


def rows(place: Path, repeats: int) -> list[list[str]]:
    """A row for the first step of each trainer, and one for each broken config."""
    write_models(place, [CASE.model])
    first: dict[str, list[float]] = {OURS: [], TUNED: []}
    durations: list[str] = []
    for _ in range(repeats):
        for trainer, seconds in first.items():
            measured = alone(trainer, CASE, place, STEPS)
            seconds.append(measured.first_step_seconds)
            durations += [parts(measured.log)] if trainer == OURS else []
    config = encode(job(CASE, place, STEPS))
    refused = {what: [refused_after(breaks(config)) for _ in range(repeats)] for what, breaks in BROKEN.items()}
    typical = statistics.median_low(first[OURS])
    return [
        ["first step, this trainer", f"{typical:.1f}", durations[first[OURS].index(typical)]],
        ["first step, plain TRL", f"{statistics.median_low(first[TUNED]):.1f}", ""],
        *([f"refused: {what}", f"{statistics.median(seconds):.2f}", ""] for what, seconds in refused.items()),
    ]


def main() -> None:
    """Run the benchmark, print the tables and write them into the docs."""
    parser = argparse.ArgumentParser(description="Measure how fast the trainer starts, and refuses.")
    parser.add_argument("--repeats", type=int, default=5, help="processes of each kind; the median counts")
    parser.add_argument("--no-write", action="store_true", help="leave docs/benchmarks.md as it is")
    arguments = parser.parse_args()
    machine_text = machine()
    with tempfile.TemporaryDirectory() as directory:
        found = rows(Path(directory), arguments.repeats)
    header = ("", "seconds", "of which")
    table = Table(*header)
    for cells in found:
        table.add_row(*cells)
    console = Console()
    console.print(f"Machine: {machine_text}")
    console.print(table)
    if not arguments.no_write:
        page = replace_section(PAGE.read_text(encoding="utf-8"), section(TARGET, machine_text, header, found))
        PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
