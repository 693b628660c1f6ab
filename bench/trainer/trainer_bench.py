"""Tokens per second of the SFTJob trainer against plain TRL: the same model, rows, tokens, optimizer and steps.

Each trainer is a separate process that writes a line when a step is done. This program watches the file, so that one
clock times all of them, and lets only one run at a time. Prints a table and writes it into docs/benchmarks.md.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain, product
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench.pages import PAGE, machine, replace_section, section
from bench.trainer.cases import ON_CPU, ON_GPU, SHAPES, Case
from examples.quickstart.dataset import standard_library, write_model
from sftjob_contract import layout, names
from sftjob_contract.codec import to_json
from sftjob_contract.run.config import RunConfig
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
POLL_SECONDS: Final = 0.002
MEGABYTE: Final = 1e6


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Results of one process. `step_seconds` excludes the first step, which includes lazy loading.

    `tokens` are those of one step and `mfu` is their share of the device's peak, if the trainer counts them; `log` is
    its output.
    """

    step_seconds: tuple[float, ...]
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
    """Run Prepare, and return the train command: its arguments, its environment, its file of steps."""
    config = work / "config.json"
    config.write_text(to_json(job(case, place, steps)), encoding="utf-8")
    volume = work / "volume"
    volume.mkdir()
    environ = {names.ENV_RUN_CONFIG: str(config), names.ENV_VOLUME: str(volume)}
    command = [sys.executable, *names.TRAINER_COMMAND[1:]]
    subprocess.run([*command, "prepare"], env={**os.environ, **environ}, check=True, capture_output=True)
    return [*command, "train"], environ, volume / layout.METRICS


def settings(case: Case, place: Path, work: Path, *, steps: int, tuned: bool) -> dict[str, Any]:
    """Settings of the plain script."""
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


class Runner:
    """A trainer's process, which runs one step at a time and is stopped in between."""

    def __init__(self, process: "subprocess.Popen[bytes]", path: Path, log: Path) -> None:
        """The process writes a line for each step to `path`, and all other output to `log`."""
        self._process = process
        self._path = path
        self._log = log
        self._read = 0
        self._seconds: list[float] = []
        self._steps: list[dict[str, Any]] = []

    def go_on(self) -> None:
        """Let the process run until the next step is done.

        Raises:
            RuntimeError: the process ended, or took too long.
        """
        self._process.send_signal(signal.SIGCONT)
        began = time.perf_counter()
        while (step := self._next_step()) is None:
            if self._process.poll() is not None or time.perf_counter() - began > LONGEST_SECONDS:
                raise RuntimeError(f"no further step was seen:\n{self._log.read_text()[-2000:]}")
            time.sleep(POLL_SECONDS)
        self._seconds.append(time.perf_counter() - began)
        self._process.send_signal(signal.SIGSTOP)
        self._steps.append(step)

    def measured(self) -> Measured:
        """The results of all steps so far."""
        first, last = self._steps[0], self._steps[-1]
        tokens = last.get("tokens")
        return Measured(
            step_seconds=tuple(self._seconds[1:]),
            tokens=None if tokens is None else (tokens - first["tokens"]) / (len(self._steps) - 1),
            first_step_seconds=self._seconds[0],
            memory_bytes=last["peakMemoryBytes"],
            loss=last["loss"],
            mfu=last.get("mfu"),
            log=self._log.read_text(encoding="utf-8"),
        )

    def _next_step(self) -> dict[str, Any] | None:
        """The next complete line about a step, if there is one."""
        if not self._path.is_file():
            return None
        with self._path.open("rb") as file:
            file.seek(self._read)
            line = file.readline()
        if not line.endswith(b"\n"):
            return None
        self._read += len(line)
        metrics: dict[str, Any] = json.loads(line)
        return metrics if "loss" in metrics else self._next_step()


@contextmanager
def started(trainer: str, case: Case, place: Path, steps: int) -> Iterator[Runner]:
    """A newly started trainer, which is killed at the end."""
    with tempfile.TemporaryDirectory(dir=place) as directory:
        work = Path(directory)
        if trainer == OURS:
            command, environ, path = ours(case, place, work, steps)
        else:
            command, environ, path = plain(case, place, work, steps=steps, tuned=trainer == TUNED)
        log = work / "log"
        with (
            log.open("wb") as output,
            subprocess.Popen(command, env={**os.environ, **environ}, stdout=output, stderr=output) as process,
        ):
            try:
                yield Runner(process, path, log)
            finally:
                process.kill()


def measure(case: Case, place: Path, steps: int) -> dict[str, Measured]:
    """Run every trainer once: step by step in turn, or one after another on a GPU, which may not hold all of them."""
    if case.gpus:
        return {trainer: alone(trainer, case, place, steps) for trainer in TRAINERS}
    with ExitStack() as running:
        runners = {}
        for trainer in TRAINERS:
            runners[trainer] = running.enter_context(started(trainer, case, place, steps))
            runners[trainer].go_on()
        for _, runner in product(range(steps - 1), runners.values()):
            runner.go_on()
        return {trainer: runner.measured() for trainer, runner in runners.items()}


def alone(trainer: str, case: Case, place: Path, steps: int) -> Measured:
    """Run one trainer once."""
    with started(trainer, case, place, steps) as runner:
        for _ in range(steps):
            runner.go_on()
        return runner.measured()


def median(measured: Sequence[Measured], name: str) -> float:
    """The median of one measure."""
    return float(statistics.median(getattr(one, name) for one in measured))


def times(measured: Mapping[str, Sequence[Measured]], other: str) -> float:
    """Step time of the other trainer relative to this project's: the median over steps run side by side."""
    pairs = zip(measured[OURS], measured[other], strict=True)
    return statistics.median(
        theirs / own
        for one, another in pairs
        for own, theirs in zip(one.step_seconds, another.step_seconds, strict=True)
    )


def row(case: Case, measured: Mapping[str, Sequence[Measured]]) -> list[str]:
    """One row of the table."""
    seconds = {name: statistics.median(chain(*(one.step_seconds for one in measured[name]))) for name in TRAINERS}
    memory_of = {trainer: median(measured[trainer], "memory_bytes") for trainer in TRAINERS}
    first = {trainer: median(measured[trainer], "first_step_seconds") for trainer in TRAINERS}
    tokens, mfu = measured[OURS][0].tokens or 0.0, measured[OURS][-1].mfu
    return [
        case.name,
        *(f"{tokens / seconds[trainer]:,.0f}" for trainer in TRAINERS),
        f"{times(measured, TUNED):.2f}",
        f"{times(measured, DEFAULTS):.2f}",
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
    """Write models with random weights, one tokenizer, and rows of text from the standard library's documentation."""
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
    """A row for each case; the trainers alternate, so that other load on the machine affects all of them."""
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        write_models(place, sorted({case.model for case in cases}))
        measured: dict[Case, dict[str, list[Measured]]] = {case: {name: [] for name in TRAINERS} for case in cases}
        for _, case in track(list(product(range(repeats), cases)), "Measuring", console=console):
            for trainer, one in measure(case, place, steps).items():
                measured[case][trainer].append(one)
    return [row(case, of_case) for case, of_case in measured.items()]


def main() -> None:
    """Run the benchmark, print the table and write it into the docs."""
    parser = argparse.ArgumentParser(description="Measure the trainer against plain TRL.")
    parser.add_argument("--steps", type=int, default=20, help="optimizer steps of each process")
    parser.add_argument("--repeats", type=int, default=2, help="processes of each kind")
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
