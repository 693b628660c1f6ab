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

import psutil
from rich.console import Console
from rich.progress import track
from rich.table import Table

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
BATCH: Final = 8
ACCUMULATION: Final = 2
LEARNING_RATE: Final = 1e-3
OPTIMIZER: Final = "adamw_torch_fused"
MAX_LENGTH: Final = 512
SEED: Final = 42
LONGEST_SECONDS: Final = 900
POLL_SECONDS: Final = 0.005
MEGABYTE: Final = 1e6
_SHAPE: Final = {
    "hidden_size": 128,
    "intermediate_size": 344,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2 * MAX_LENGTH,
    "bos_token_id": None,
    "pad_token_id": 0,
}
MODELS: Final = {"Qwen2": {**_SHAPE, "tie_word_embeddings": True}, "Llama": {**_SHAPE, "hidden_size": 192}}
"""Shapes of the models, small enough for a CPU."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is trained: one row of the table for each."""

    model: str
    method: str
    packing: bool

    @property
    def name(self) -> str:
        """In words."""
        return f"{self.model}, {self.method}, {'packed' if self.packing else 'padded'}"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One process. `step_seconds` leaves out the first step, which pays for what is loaded lazily.

    `tokens` are those of one step, where the trainer counts them.
    """

    step_seconds: float
    tokens: float | None
    first_step_seconds: float
    resident_bytes: int
    loss: float


def job(case: Case, place: Path, steps: int) -> RunConfig:
    """The run config that the operator would write."""
    spec = {
        "model": {"source": str(place / case.model)},
        "dataset": {"source": str(place / "rows.jsonl"), "format": "text", "evaluation": {"fraction": 0}},
        "method": {"lora": {"rank": 16, "alpha": 32, "dropout": 0.0}} if case.method == "LoRA" else {"full": {}},
        "training": {
            "maxSteps": steps,
            "perDeviceBatchSize": BATCH,
            "gradientAccumulationSteps": ACCUMULATION,
            "learningRate": LEARNING_RATE,
            "scheduler": "constant",
            "weightDecay": 0.0,
            "optimizer": OPTIMIZER,
            "maxLength": MAX_LENGTH,
            "packing": case.packing,
            "gradientCheckpointing": False,
            "loggingSteps": 1,
            "seed": SEED,
        },
        "checkpoints": {"everySteps": steps},
        "resources": {"gpus": 0},
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


def plain(case: Case, place: Path, work: Path, *, steps: int, tuned: bool) -> tuple[list[str], dict[str, str], Path]:
    """The plain script's arguments, environment and file of steps."""
    settings = {
        "model": str(place / case.model),
        "data": str(place / "rows.jsonl"),
        "output": str(work / "output"),
        "steps_file": str(work / "steps.jsonl"),
        "steps": steps,
        "batch": BATCH,
        "accumulation": ACCUMULATION,
        "learningRate": LEARNING_RATE,
        "optimizer": OPTIMIZER,
        "maxLength": MAX_LENGTH,
        "packing": case.packing,
        "seed": SEED,
        "lora": case.method == "LoRA",
        "cpu": True,
        "tuned": tuned,
    }
    path = work / "settings.json"
    path.write_text(json.dumps(settings), encoding="utf-8")
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
            seen, resident = watch(process, path, steps)
        if process.returncode or steps not in seen:
            raise RuntimeError(f"{trainer} ended with {process.returncode}:\n{log.read_text()[-2000:]}")
        first, last = seen[1], seen[steps]
        return Measured(
            step_seconds=(last.time - first.time) / (steps - 1),
            tokens=None if last.tokens is None or first.tokens is None else (last.tokens - first.tokens) / (steps - 1),
            first_step_seconds=first.time - started,
            resident_bytes=resident,
            loss=last.loss,
        )


@dataclass(frozen=True, kw_only=True)
class Step:
    """A step that was seen: when, its loss, and the tokens since the start."""

    time: float
    loss: float
    tokens: int | None


def watch(process: "subprocess.Popen[bytes]", path: Path, steps: int) -> tuple[dict[int, Step], int]:
    """When each step was done and with which loss, and the most memory that was seen, until the process ends."""
    seen: dict[int, Step] = {}
    resident = 0
    watched = psutil.Process(process.pid)
    deadline = time.perf_counter() + LONGEST_SECONDS
    while process.poll() is None and time.perf_counter() < deadline:
        for line in lines(path):
            if "loss" in line and line["step"] not in seen:
                now = time.perf_counter()
                seen[line["step"]] = Step(time=now, loss=line["loss"], tokens=line.get("tokens"))
        if steps not in seen:
            resident = max(resident, memory(watched))
        time.sleep(POLL_SECONDS)
    process.kill()
    process.wait()
    return seen, resident


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a file that is being written."""
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
            if line.endswith("\n"):
                yield json.loads(line)


def memory(process: psutil.Process) -> int:
    """Resident bytes; 0 for a process that has just ended."""
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def median(measured: Sequence[Measured], name: str) -> float:
    """The median of one measure."""
    return float(statistics.median(getattr(one, name) for one in measured))


def row(case: Case, measured: Mapping[str, Sequence[Measured]]) -> list[str]:
    """One row of the table."""
    seconds = {trainer: median(measured[trainer], "step_seconds") for trainer in TRAINERS}
    memory_of = {trainer: median(measured[trainer], "resident_bytes") for trainer in TRAINERS}
    first = {trainer: median(measured[trainer], "first_step_seconds") for trainer in TRAINERS}
    tokens = measured[OURS][0].tokens or 0.0
    return [
        case.name,
        *(f"{tokens / seconds[trainer]:,.0f}" for trainer in TRAINERS),
        f"{seconds[TUNED] / seconds[OURS]:.2f}",
        f"{seconds[DEFAULTS] / seconds[OURS]:.2f}",
        " / ".join(f"{first[trainer]:.1f}" for trainer in TRAINERS),
        " / ".join(f"{memory_of[trainer] / MEGABYTE:,.0f}" for trainer in TRAINERS),
        " / ".join(f"{median(measured[trainer], 'loss'):.4f}" for trainer in TRAINERS),
    ]


HEADER: Final = (
    "",
    *(f"{trainer}, tokens/s" for trainer in TRAINERS),
    "ours : tuned",
    "ours : defaults",
    "first step, s",
    "memory, MB",
    "last loss",
)


CASES: Final = (
    Case(model="Qwen2", method="full", packing=True),
    Case(model="Qwen2", method="LoRA", packing=True),
    Case(model="Llama", method="LoRA", packing=True),
    Case(model="Llama", method="full", packing=False),
)


def write_models(place: Path) -> None:
    """Models with random weights and one tokenizer, and rows of text from the standard library's documentation."""
    import torch  # noqa: PLC0415 -- seconds to import
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM  # noqa: PLC0415

    rows = standard_library()
    texts = [json.dumps({"text": f"{row.question} {row.answer}"}) for row in rows]
    (place / "rows.jsonl").write_text("\n".join(texts) + "\n", encoding="utf-8")
    write_model(place / "quickstart", rows)
    tokenizer = AutoTokenizer.from_pretrained(place / "quickstart")
    tokenizer.model_max_length = 2 * MAX_LENGTH
    kinds = {"Qwen2": (Qwen2Config, Qwen2ForCausalLM), "Llama": (LlamaConfig, LlamaForCausalLM)}
    for name, (config, kind) in kinds.items():
        torch.manual_seed(SEED)
        model = kind(config(vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id, **MODELS[name]))
        model.save_pretrained(place / name)
        tokenizer.save_pretrained(place / name)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description="Measure the trainer against plain TRL.")
    parser.add_argument("--steps", type=int, default=16, help="optimizer steps of each process")
    parser.add_argument("--repeats", type=int, default=3, help="processes of each kind; the median counts")
    parser.add_argument("--no-write", action="store_true", help="leave docs/benchmarks.md as it is")
    arguments = parser.parse_args()
    machine_text = machine()
    console = Console()
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        write_models(place)
        measured: dict[Case, dict[str, list[Measured]]] = {case: {name: [] for name in TRAINERS} for case in CASES}
        runs = list(product(range(arguments.repeats), CASES, TRAINERS))
        for _, case, trainer in track(runs, "Measuring", console=console):
            measured[case][trainer].append(measure(trainer, case, place, arguments.steps))
    rows = [row(case, of_case) for case, of_case in measured.items()]
    table = Table(*HEADER)
    for cells in rows:
        table.add_row(*cells)
    console.print(f"Machine: {machine_text}")
    console.print(table)
    if not arguments.no_write:
        page = replace_section(PAGE.read_text(encoding="utf-8"), section(TARGET, machine_text, HEADER, rows))
        PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
