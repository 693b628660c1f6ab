"""The samples as jobs that end within seconds on a CPU: tiny models that have read a little, and rows to tune them on.

Only what a table of the tests names is replaced in a sample; the rest of its spec is what users copy.
"""

import csv
import json
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sftjob_contract import layout
from support.jobs.builders import JobBuilder
from support.jobs.manifests import ROOT, load_manifest
from support.jobs.small_jobs import INPUT, sentences, write_rows
from support.trainer.tiny import CHATML, VOCABULARY, write_tokenizer

LESSON_STEPS = 40
LESSON_LENGTH = 64
LESSON_BATCH = 16
POSITIONS = 2048
_LLAMA_LIKE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": POSITIONS,
}
SHAPES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "qwen2": ("Qwen2Config", {**_LLAMA_LIKE, "tie_word_embeddings": True}),
    "wide-qwen2": ("Qwen2Config", {**_LLAMA_LIKE, "hidden_size": 64, "intermediate_size": 128}),
    "llama": ("LlamaConfig", {**_LLAMA_LIKE, "tie_word_embeddings": True}),
    "mistral": ("MistralConfig", {**_LLAMA_LIKE, "sliding_window": None, "tie_word_embeddings": False}),
    "gpt2": ("GPT2Config", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": POSITIONS}),
}
"""Architecture and size of each model: two layers of the family that the sample names."""


@dataclass(frozen=True)
class Exchange:
    """A question and its answer."""

    question: str
    answer: str


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A sample with some of its fields, by dotted path below spec, replaced; None removes one."""

    sample: str
    replaced: Mapping[str, Any]

    @property
    def published(self) -> JobBuilder:
        """The sample as it is."""
        manifest = load_manifest(ROOT / "crds" / "samples" / f"{self.sample}.yaml")
        return JobBuilder(metadata={**manifest["metadata"], "namespace": "default"}, spec=manifest["spec"])

    @property
    def job(self) -> JobBuilder:
        """The job to apply."""
        job = self.published
        for path, value in self.replaced.items():
            job = job.set(path, value)
        return job

    def at(self, path: str, default: Any = None) -> Any:
        """What the job's spec says at a dotted path."""
        node: Any = self.job.spec
        for name in path.split("."):
            node = node.get(name, {})
        return default if node == {} else node


@dataclass(frozen=True)
class Ended:
    """A job at its end. `rows` are those to train on, where each is a sequence; None: they were packed."""

    recipe: Recipe
    status: Mapping[str, Any]
    volume: Path
    lines: Sequence[Mapping[str, Any]]
    rows: int | None

    def values(self, name: str) -> dict[int, float]:
        """A metric by step."""
        return {line["step"]: line[name] for line in self.lines if name in line}

    @property
    def steps(self) -> int:
        """Optimizer steps of the run, by the formula, from rows and the recipe's own numbers."""
        if (given := self.recipe.at("training.maxSteps")) is not None:
            return int(given)
        per_device, accumulated = (
            self.recipe.at(f"training.{name}", 4) for name in ("perDeviceBatchSize", "gradientAccumulationSteps")
        )
        return int(self.recipe.at("training.epochs", 3) * math.ceil(self.sequences / (per_device * accumulated)))

    @property
    def sequences(self) -> int:
        """What one epoch goes through: rows, or packed sequences, which only packing itself can count."""
        from datasets import load_from_disk

        return len(load_from_disk(self.volume / layout.PREPARED_TRAIN)) if self.rows is None else self.rows

    @property
    def base(self) -> Path:
        """The model that it started from."""
        return self.volume.parent / self.recipe.at("model.source").removeprefix(layout.PVC_SCHEME)

    @property
    def output(self) -> Path:
        """Model or adapter."""
        adapter = "lora" in self.recipe.job.spec["method"]
        return self.volume / (layout.OUTPUT_ADAPTER if adapter else layout.OUTPUT_MODEL)


def source(path: str) -> str:
    """URI of a path on the claim that the tests' jobs read from."""
    return f"pvc://{INPUT}/recipes/{path}"


def exchanges(count: int, *, seed: int = 1) -> list[Exchange]:
    """Questions whose answers can be learned."""
    draw = random.Random(seed)
    things = ("list", "string", "file", "block", "forest")
    verbs = ("return", "open", "close", "raise", "read")
    found = []
    for _ in range(count):
        thing, verb, number = draw.choice(things), draw.choice(verbs), draw.randrange(10)
        question = f"what does the function do with {number} {thing} to {verb}?"
        found.append(Exchange(question, f"{verb} the {thing} {number} and {verb} it at the end of the {thing}"))
    return found


def terraform(count: int) -> list[str]:
    """Resources in the language of Terraform."""
    draw = random.Random(3)
    kinds = ("aws_instance", "aws_vpc", "aws_subnet")
    return [
        f'resource "{draw.choice(kinds)}" "main_{row % 10}" {{\n  count = {draw.randrange(10)}\n  name = "main"\n}}\n'
        for row in range(count)
    ]


def messages(exchange: Exchange) -> dict[str, Any]:
    """A conversation of two turns."""
    turns = (("user", exchange.question), ("assistant", exchange.answer))
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def dolly(exchange: Exchange) -> str:
    """A text with its own marks for who speaks."""
    return f"<|user|> {exchange.question} <|assistant|> {exchange.answer} <|endoftext|>"


def write_data(directory: Path, rows: Mapping[str, int]) -> None:
    """Every data set of the recipes; `rows` by file name."""
    shapes: Mapping[str, Callable[[Exchange], dict[str, Any]]] = {
        "tasks.jsonl": messages,
        "chat.jsonl": messages,
        "instructions.jsonl": lambda one: {"text": f"{one.question}\n{one.answer}"},
        "dolly.jsonl": lambda one: {"text": dolly(one)},
        "q-code/part-0.jsonl": lambda one: {"prompt": one.question, "completion": one.answer},
        "gsm8k/train.jsonl": lambda one: {"question": one.question, "answer": one.answer},
        "gsm8k/test.jsonl": lambda one: {"question": one.question, "answer": one.answer},
    }
    for seed, (name, shape) in enumerate(shapes.items()):
        write_rows(directory / name, [shape(one) for one in exchanges(rows[name], seed=seed)])
    write_rows(directory / "terraform.jsonl", [{"text": text} for text in terraform(rows["terraform.jsonl"])])
    with (directory / "train.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerows([["text"], *([dolly(one)] for one in exchanges(rows["train.csv"]))])


def write_models(directory: Path) -> None:
    """Every model of the recipes. All have read the same few sentences, and the teacher conversations as well."""
    english = sentences(300)
    for name in ("qwen2", "llama", "mistral", "gpt2"):
        write_model(directory / name, name, english, chat_template=None)
    write_model(directory / "qwen2-instruct", "qwen2", english, chat_template=CHATML)
    taught = [
        f"<|im_start|>user\n{one.question}<|im_end|>\n<|im_start|>assistant\n{one.answer}<|im_end|>\n"
        for one in exchanges(300, seed=99)
    ]
    write_model(directory / "teacher", "wide-qwen2", taught, chat_template=CHATML)


def write_model(directory: Path, shape: str, texts: Sequence[str], *, chat_template: str | None) -> Path:
    """A model that has been trained on `texts` for a second, and its tokenizer."""
    import torch
    import transformers

    write_tokenizer(directory, chat_template=chat_template)
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    kind, size = SHAPES[shape]
    config = getattr(transformers, kind)(
        **{"vocab_size": VOCABULARY, "bos_token_id": None, "eos_token_id": 2, "pad_token_id": 0, **size}
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config)
        ids = [token for text in texts for token in [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]]
        rows = torch.tensor(ids[: len(ids) // LESSON_LENGTH * LESSON_LENGTH]).view(-1, LESSON_LENGTH)
        optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
        for _ in range(LESSON_STEPS):
            batch = rows[torch.randint(len(rows), (LESSON_BATCH,))]
            model(input_ids=batch, labels=batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    model.save_pretrained(directory)
    return directory


def learning_rates(scheduler: str, peak: float, warmup: int, steps: int) -> list[float]:
    """The learning rate of every step, the first one first: linear warmup from 0, then the schedule down to 0."""
    return [
        peak * step / warmup if step < warmup else peak * _left(scheduler, (step - warmup) / max(1, steps - warmup))
        for step in range(steps)
    ]


def _left(scheduler: str, done: float) -> float:
    """What is left of the peak when `done`, from 0 to 1, of the way after warmup is gone."""
    return {"linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}[scheduler]


def tensors(directory: Path) -> Iterator[tuple[str, Any]]:
    """Name and values of everything in a directory's safetensors files."""
    from safetensors.torch import load_file

    for path in sorted(directory.glob("*.safetensors")):
        yield from load_file(path).items()


def parameters(directory: Path) -> int:
    """How many numbers a directory's safetensors files hold."""
    return sum(values.numel() for _, values in tensors(directory))


def lora_parameters(base: Path, rank: int, layers: Sequence[str]) -> int:
    """rank x (inputs + outputs) for each of the base model's weights of these names (Hu et al. 2021)."""
    return sum(
        rank * sum(values.shape)
        for name, values in tensors(base)
        if values.ndim == 2 and name.removesuffix(".weight").rpartition(".")[2] in layers
    )


def json_lines(path: Path) -> list[dict[str, Any]]:
    """Every line of a JSON lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
