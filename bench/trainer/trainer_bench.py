"""Tokens per second of our trainer against plain TRL: the same model, rows, tokens, optimizer and steps.

Each measurement is a process of its own that writes a line when a step is done; this program watches the file, so that
all are timed by one clock. Prints a table and writes it into docs/benchmarks.md.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import track
from rich.table import Table

from cases import ON_CPU, ON_GPU, SHAPES, Case
from dataset import standard_library, write_model
from pages import PAGE, machine, replace_section, section
from sftjob_contract import layout, names
from sftjob_contract.codec import to_json
from sftjob_contract.config import RunConfig
from sftjob_operator.api import parse_job
from sftjob_operator.render import run_config

HERE: Final = Path(__file__).resolve().parent
TARGET: Final = "bench-trainer"
TRAINERS: Final = ("ours", "TRL tuned", "TRL defaults")
OURS, TUNED, DEFAULTS = TRAINERS
LEARNING_RATE: Final = 1e-3
OPTIMIZER: Final = "adamw_torch_fused"
SEED: Final = 42
_LORA: Final = {"rank": 16, "alpha": 32, "dropout": 0.0}
METHODS: Final = {
    "full": {"full": {}},
    "LoRA": {"lora": _LORA},
    "QLoRA": {"lora": _LORA, "quantization": {"bits": 4}},
}
LONGEST_SECONDS: Final = 900
POLL_SECONDS: Final = 0.005
MEGABYTE: Final = 1e6


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One process. `step_seconds` leaves out the first step, which pays for what is loaded lazily.

    `tokens` are those of one step and `mfu` is their share of the device's peak, where the trainer counts them;
    `log` is what it said.
    """

    step_seconds: float
    tokens: float | None
    first_step_seconds: float
    memory_bytes: int
    loss: float
    mfu: float | None = None
    log: str = ""


def job(case: Case, place: Path, steps: int) -> RunConfig:
    """The run config that the operator would write."""
    spec = {
        "model": {"source": str(place / case.model)},
        "dataset": {"source": str(place / "rows.jsonl"), "format": "text", "evaluation": {"fraction": 0}},
        "method": METHODS[case.method],
        "training": {
            "maxSteps": steps,
            "perDeviceBatchSize": case.batch,
            "gradientAccumulationSteps": case.accumulation,
            "learningRate": LEARNING_RATE,
            "scheduler": "constant",
            "weightDecay": 0.0,
            "optimizer": OPTIMIZER,
            "maxLength": case.max_length,
            "packing": case.packing,
            "gradientCheckpointing": False,
            "loggingSteps": 1,
            "seed": SEED,
        },
        "checkpoints": {"everySteps": steps},
        "resources": {"gpus": case.gpus},
    }
    metadata = {"name": "bench", "namespace": "bench", "uid": "bench"}
    return run_config(parse_job({"metadata": metadata, "spec": spec}))


def ours(case: Case, place: Path, work: Path, steps: int) -> tuple[list[str], dict[str, str], Path]:
    """Prepare, and the command that trains: its arguments, its environment, its file of steps."""
    config = work / "config.json"
    config.write_text(to_json(job(case, place, steps)), encoding="utf-8")
    volume = work / "volume"
    volume.mkdir()
    environ = {names.ENV_RUN_CONFIG: str(config), names.ENV_VOLUME: str(volume)}
    command = [sys.executable, *names.TRAINER_COMMAND[1:]]
    subprocess.run([*command, "prepare"], env={**os.environ, **environ}, check=True, capture_output=True)
    return [*command, "train"], environ, volume / layout.METRICS


def settings(case: Case, place: Path, work: Path, *, steps: int, tuned: bool) -> dict[str, Any]:
    """What the plain script is told."""
    return {
        "model": str(place / case.model),
        "data": str(place / "rows.jsonl"),
        "output": str(work / "output"),
        "steps_file": str(work / "steps.jsonl"),
        "steps": steps,
        "batch": case.batch,
        "accumulation": case.accumulation,
        "learningRate": LEARNING_RATE,
        "optimizer": OPTIMIZER,
        "maxLength": case.max_length,
        "packing": case.packing,
        "seed": SEED,
        "method": case.method,
        "cpu": case.gpus == 0,
        "tuned": tuned,
    }


def plain(case: Case, place: Path, work: Path, *, steps: int, tuned: bool) -> tuple[list[str], dict[str, str], Path]:
    """The plain script's arguments, environment and file of steps."""
    path = work / "settings.json"
    path.write_text(json.dumps(settings(case, place, work, steps=steps, tuned=tuned)), encoding="utf-8")
    environ = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HOME": str(work / "home")}
    return [sys.executable, str(HERE / "plain.py"), str(path)], environ, work / "steps.jsonl"


def measure(trainer: str, case: Case, place: Path, steps: int) -> Measured:
    """Run one trainer once."""
    with tempfile.TemporaryDirectory(dir=place) as directory:
        work = Path(directory)
        if trainer == OURS:
            command, environ, path = ours(case, place, work, steps)
        else:
            command, environ, path = plain(case, place, work, steps=steps, tuned=trainer == TUNED)
        log = work / "log"
        with log.open("wb") as output:
            started = time.perf_counter()
            process = subprocess.Popen(command, env={**os.environ, **environ}, stdout=output, stderr=output)
            seen = watch(process, path, steps)
        if steps not in seen:
            raise RuntimeError(f"{trainer} ended with {process.returncode}:\n{log.read_text()[-2000:]}")
        first, last = seen[1], seen[steps]
        return Measured(
            step_seconds=(last.time - first.time) / (steps - 1),
            tokens=None if last.tokens is None or first.tokens is None else (last.tokens - first.tokens) / (steps - 1),
            first_step_seconds=first.time - started,
            memory_bytes=last.memory_bytes,
            loss=last.loss,
            mfu=last.mfu,
            log=log.read_text(encoding="utf-8"),
        )


@dataclass(frozen=True, kw_only=True)
class Step:
    """A step that was seen: when, its loss, the most memory held so far, the tokens since the start, its MFU."""

    time: float
    loss: float
    memory_bytes: int
    tokens: int | None
    mfu: float | None


def watch(process: "subprocess.Popen[bytes]", path: Path, steps: int) -> dict[int, Step]:
    """When each step was done and what was told of it; what comes after the last one is not waited for."""
    seen: dict[int, Step] = {}
    deadline = time.perf_counter() + LONGEST_SECONDS
    while process.poll() is None and steps not in seen and time.perf_counter() < deadline:
        for line in lines(path):
            if "loss" in line and line["step"] not in seen:
                seen[line["step"]] = Step(
                    time=time.perf_counter(),
                    loss=line["loss"],
                    memory_bytes=line["peakMemoryBytes"],
                    tokens=line.get("tokens"),
                    mfu=line.get("mfu"),
                )
        time.sleep(POLL_SECONDS)
    process.kill()
    process.wait()
    return seen


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a file that is being written."""
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
            if line.endswith("\n"):
                yield json.loads(line)


def median(measured: Sequence[Measured], name: str) -> float:
    """The median of one measure."""
    return float(statistics.median(getattr(one, name) for one in measured))


def row(case: Case, measured: Mapping[str, Sequence[Measured]]) -> list[str]:
    """One row of the table."""
    seconds = {trainer: median(measured[trainer], "step_seconds") for trainer in TRAINERS}
    memory_of = {trainer: median(measured[trainer], "memory_bytes") for trainer in TRAINERS}
    first = {trainer: median(measured[trainer], "first_step_seconds") for trainer in TRAINERS}
    tokens, mfu = measured[OURS][0].tokens or 0.0, measured[OURS][-1].mfu
    return [
        case.name,
        *(f"{tokens / seconds[trainer]:,.0f}" for trainer in TRAINERS),
        f"{seconds[TUNED] / seconds[OURS]:.2f}",
        f"{seconds[DEFAULTS] / seconds[OURS]:.2f}",
        " / ".join(f"{first[trainer]:.1f}" for trainer in TRAINERS),
        " / ".join(f"{memory_of[trainer] / MEGABYTE:,.0f}" for trainer in TRAINERS),
        " / ".join(f"{median(measured[trainer], 'loss'):.4f}" for trainer in TRAINERS),
        "" if mfu is None else f"{mfu:.2f}",
    ]


HEADER: Final = (
    "",
    *(f"{trainer}, tokens/s" for trainer in TRAINERS),
    "ours : tuned",
    "ours : defaults",
    "first step, s",
    "memory, MB",
    "last loss",
    "MFU",
)


def write_models(place: Path, wanted: Sequence[str]) -> None:
    """Models with random weights and one tokenizer, and rows of text from the standard library's documentation."""
    import torch  # noqa: PLC0415 -- seconds to import
    import transformers  # noqa: PLC0415 -- same

    rows = standard_library()
    texts = [json.dumps({"text": f"{row.question} {row.answer}"}) for row in rows]
    (place / "rows.jsonl").write_text("\n".join(texts) + "\n", encoding="utf-8")
    write_model(place / "quickstart", rows)
    tokenizer = transformers.AutoTokenizer.from_pretrained(place / "quickstart")
    for name in wanted:
        family, shape = SHAPES[name]
        tokenizer.model_max_length = shape["max_position_embeddings"]
        given = {"vocab_size": len(tokenizer), "bos_token_id": None, "pad_token_id": 0, **shape}
        config = getattr(transformers, f"{family}Config")(eos_token_id=tokenizer.eos_token_id, **given)
        torch.manual_seed(SEED)
        dtype = torch.bfloat16 if "vocab_size" in shape else torch.float32
        transformers.AutoModelForCausalLM.from_config(config, dtype=dtype).save_pretrained(place / name)
        tokenizer.save_pretrained(place / name)


def compare(cases: Sequence[Case], steps: int, repeats: int, console: Console) -> list[list[str]]:
    """A row for each case; the trainers take turns, so that what else the machine does falls on all of them."""
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        write_models(place, sorted({case.model for case in cases}))
        measured: dict[Case, dict[str, list[Measured]]] = {case: {name: [] for name in TRAINERS} for case in cases}
        for _, case, trainer in track(list(product(range(repeats), cases, TRAINERS)), "Measuring", console=console):
            measured[case][trainer].append(measure(trainer, case, place, steps))
    return [row(case, of_case) for case, of_case in measured.items()]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description="Measure the trainer against plain TRL.")
    parser.add_argument("--steps", type=int, default=10, help="optimizer steps of each process")
    parser.add_argument("--repeats", type=int, default=3, help="processes of each kind; the median counts")
    parser.add_argument("--gpu", action="store_true", help="0.5B to 7B on one GPU, a table of its own")
    parser.add_argument("--no-write", action="store_true", help="leave docs/benchmarks.md as it is")
    arguments = parser.parse_args()
    machine_text = machine()
    console = Console()
    rows = compare(ON_GPU if arguments.gpu else ON_CPU, arguments.steps, arguments.repeats, console)
    table = Table(*HEADER)
    for cells in rows:
        table.add_row(*cells)
    console.print(f"Machine: {machine_text}")
    console.print(table)
    if not arguments.no_write:
        target = f"{TARGET}-gpu" if arguments.gpu else TARGET
        page = replace_section(PAGE.read_text(encoding="utf-8"), section(target, machine_text, HEADER, rows))
        PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
