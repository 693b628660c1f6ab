"""Effect of tuning on answers: the quickstart's model before and after, on questions that it was never trained on.

The two jobs of the quickstart run unmodified: the first trains every weight, the second trains LoRA on top of its
result. Each is measured by its own evaluations, before the first step and after the last. Prints a table and writes it
into docs/benchmarks.md.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml
from rich.console import Console
from rich.table import Table

from bench.pages import PAGE, machine, replace_section, section
from examples.quickstart.dataset import SEED, write
from sftjob_contract import layout, names
from sftjob_contract.codec import to_json
from sftjob_contract.run.config import Metric, RunConfig
from sftjob_operator.api import parse_job
from sftjob_operator.render import run_config
from sftjob_trainer.evaluation.text_metrics import measure

QUICKSTART: Final = Path(__file__).resolve().parents[2] / "examples" / "quickstart"
TARGET: Final = "bench-quality"
FULL: Final = "sftjob.yaml"
LORA: Final = "lora.yaml"
QUESTIONS: Final = 100
MAX_NEW_TOKENS: Final = 64
MEASURES: Final = ("evalLoss", "evalPerplexity", "evalRouge1", "evalRougeL", "evalExactMatch")
HEADER: Final = ("", "loss", "perplexity", "ROUGE-1", "ROUGE-L", "exact match", "seconds")
_DECIMALS: Final = {"evalPerplexity": 1}


@dataclass(frozen=True, kw_only=True)
class Size:
    """Size of a run: held-out questions to answer (the loss covers all), and optimizer steps.

    `steps` None: the quickstart's number of steps.
    """

    questions: int = QUESTIONS
    steps: int | None = None


@dataclass(frozen=True, kw_only=True)
class Result:
    """One row of the table: `measures` under the trainer's names, and the wall time of the run that produced it."""

    name: str
    measures: Mapping[str, float]
    seconds: float | None = None


def job(manifest: str, model: Path, data: Path, size: Size) -> RunConfig:
    """The run config of a quickstart job with local files, including answers to held-out questions."""
    published = yaml.safe_load((QUICKSTART / manifest).read_text(encoding="utf-8"))
    spec = dict(published["spec"])
    spec["model"] = {"source": str(model)}
    spec["dataset"] = {
        "source": str(data / "train.jsonl"),
        "evaluation": {"source": str(data / "evaluation.jsonl")},
    }
    if size.steps is not None:
        spec["training"] = {**spec["training"], "maxSteps": size.steps}
        spec["training"].pop("epochs", None)
    spec["evaluation"] = {
        "everySteps": 1_000_000,
        "metrics": [Metric.PERPLEXITY.value, Metric.ROUGE.value, Metric.EXACT_MATCH.value],
        "savePredictions": True,
        "maxNewTokens": MAX_NEW_TOKENS,
        "maxSamples": size.questions,
    }
    metadata = {"name": published["metadata"]["name"], "namespace": "bench", "uid": "bench"}
    return run_config(parse_job({"metadata": metadata, "spec": spec}))


def tune(config: RunConfig, volume: Path) -> float:
    """Run both stages on `volume`; returns their duration in seconds."""
    volume.mkdir()
    path = volume.with_suffix(".json")
    path.write_text(to_json(config), encoding="utf-8")
    environ = {**os.environ, names.ENV_RUN_CONFIG: str(path), names.ENV_VOLUME: str(volume)}
    started = time.perf_counter()
    for stage in (names.Stage.PREPARE, names.Stage.TRAIN):
        command = [sys.executable, *names.TRAINER_COMMAND[1:], stage.value]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{stage} of {config.job.name} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return time.perf_counter() - started


def evaluations(volume: Path) -> list[Mapping[str, float]]:
    """The measures of each evaluation, in step order."""
    lines = [json.loads(line) for line in (volume / layout.METRICS).read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if "evalLoss" in line]


def any_answer(volume: Path, data: Path) -> Mapping[str, float]:
    """Scores of answers to other questions, drawn from the training data: chance level, in the right style."""
    train = [json.loads(line) for line in (data / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    asked = [json.loads(line) for line in (volume / layout.PREDICTIONS).read_text(encoding="utf-8").splitlines()]
    draw = random.Random(SEED)  # noqa: S311 -- an order, not a secret
    drawn = [draw.choice(train)["messages"][-1]["content"] for _ in asked]
    references = [line["reference"] for line in asked]
    return {**measure(Metric.ROUGE, drawn, references), **measure(Metric.EXACT_MATCH, drawn, references)}


def results(place: Path, size: Size) -> list[Result]:
    """Tune twice in `place`, and measure."""
    data = place / "data"
    write(data)
    full, lora = place / "full", place / "lora"
    full_seconds = tune(job(FULL, data / "model", data, size), full)
    lora_seconds = tune(job(LORA, full / layout.OUTPUT_MODEL, data, size), lora)
    return [
        Result(name="a training answer, drawn at random", measures=any_answer(full, data)),
        Result(name="untuned", measures=evaluations(full)[0]),
        Result(name="every weight (sftjob.yaml)", measures=evaluations(full)[-1], seconds=full_seconds),
        Result(name="and LoRA on top (lora.yaml)", measures=evaluations(lora)[-1], seconds=lora_seconds),
    ]


def row(result: Result) -> list[str]:
    """One row of the table."""
    found: Mapping[str, Any] = result.measures
    numbers = [f"{found[name]:,.{_DECIMALS.get(name, 3)}f}" if name in found else "" for name in MEASURES]
    return [result.name, *numbers, "" if result.seconds is None else f"{result.seconds:.0f}"]


def show(console: Console, rows: Sequence[Sequence[str]]) -> None:
    """Print the table."""
    table = Table(*HEADER)
    for cells in rows:
        table.add_row(*cells)
    console.print(table)


def main() -> None:
    """Run the benchmark, print the table and write it into the docs."""
    parser = argparse.ArgumentParser(description="Measure what tuning does to answers.")
    parser.add_argument("--steps", type=int, help="optimizer steps of each run; as many as the quickstart if absent")
    parser.add_argument("--no-write", action="store_true", help="leave docs/benchmarks.md as it is")
    arguments = parser.parse_args()
    machine_text = machine()
    console = Console()
    console.print(f"Machine: {machine_text}")
    with tempfile.TemporaryDirectory() as directory:
        rows = [row(result) for result in results(Path(directory), Size(steps=arguments.steps))]
    show(console, rows)
    if not arguments.no_write:
        page = replace_section(PAGE.read_text(encoding="utf-8"), section(TARGET, machine_text, HEADER, rows))
        PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
