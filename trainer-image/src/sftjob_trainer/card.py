"""The model card beside the weights: what they were made of, how well they did, and how to load them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import yaml

from sftjob_contract import layout
from sftjob_contract.codec import sha256_of
from sftjob_contract.config import Model, RunConfig
from sftjob_contract.method import Method
from sftjob_contract.stats import PreparedStats
from sftjob_trainer.configuration import data_sources

CARD: Final = "README.md"
"""Where the hub and people look for it."""

_LIBRARIES: Final = {layout.OUTPUT_ADAPTER: "peft"}
_WHAT: Final = {
    layout.OUTPUT_MODEL: "Every weight of {base} was trained.",
    layout.OUTPUT_ADAPTER: "An adapter of {base}, trained with {method}.",
    layout.OUTPUT_MERGED: "{base} with an adapter merged in that was trained with {method}.",
}
_LOADED: Final = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(PLACE)
tokenizer = AutoTokenizer.from_pretrained(PLACE)
"""
_ADAPTER_LOADED: Final = """\
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

model = AutoPeftModelForCausalLM.from_pretrained(PLACE)
tokenizer = AutoTokenizer.from_pretrained(PLACE)
"""


@dataclass(frozen=True, kw_only=True)
class Made:
    """What a card tells: the run, its final metrics, and the versions of the libraries that made it."""

    config: RunConfig
    stats: PreparedStats
    metrics: Mapping[str, float]
    libraries: Mapping[str, str]


def base_model_name(model: Model) -> str:
    """What PEFT and people should load an adapter onto: a hub id where there is one, else the source as given."""
    return model.source.removeprefix(layout.HUB_SCHEME)


def model_card(made: Made, path: str) -> str:
    """The card of the output at `path`, one of the layout's. Equal runs have equal cards."""
    base = f"`{base_model_name(made.config.model)}`"
    what = _WHAT[path].format(base=base, method=_method_name(made.config.method))
    head = yaml.safe_dump(_metadata(made.config, path), sort_keys=False, allow_unicode=True)
    parts = [
        f"---\n{head}---",
        f"# {made.config.job.name}",
        what,
        "`PLACE` is this repository or directory:",
        f"```python\n{_ADAPTER_LOADED if path == layout.OUTPUT_ADAPTER else _LOADED}```",
        "## Results",
        _table(("metric", "value"), ((name, f"{value:.6g}") for name, value in made.metrics.items())),
        "## Made of",
        _table(("what", "which"), _provenance(made)),
    ]
    return "\n\n".join(parts) + "\n"


def _metadata(config: RunConfig, path: str) -> dict[str, Any]:
    """The card's head (https://huggingface.co/docs/hub/model-cards). A hub refuses names that are not of a hub."""
    metadata: dict[str, Any] = {"library_name": _LIBRARIES.get(path, "transformers")}
    if config.model.source.startswith(layout.HUB_SCHEME):
        metadata["base_model"] = base_model_name(config.model)
    if named := sorted({_repository(source) for source in data_sources(config) if _is_on_hub(source)}):
        metadata["datasets"] = named
    tags = ["sft", *(["lora"] if config.method.lora is not None else [])]
    return {**metadata, "pipeline_tag": "text-generation", "tags": tags}


def _provenance(made: Made) -> Iterator[tuple[str, str]]:
    config, stats = made.config, made.stats
    revision = f" at commit {stats.model_revision}" if stats.model_revision else ""
    yield "base model", f"{base_model_name(config.model)}{revision}"
    if config.method.distillation is not None:
        yield "teacher", config.method.distillation.teacher.source.removeprefix(layout.HUB_SCHEME)
    if config.checkpoints.resume_from is not None:
        yield "started from", config.checkpoints.resume_from
    yield "data", ", ".join(dict.fromkeys(data_sources(config)))
    yield "fingerprint of the data", stats.dataset_fingerprint
    yield "rows, tokens", f"{stats.train_rows}, {stats.tokens}"
    yield "optimizer steps", str(stats.max_steps)
    yield "SHA-256 of the run config", sha256_of(config)
    yield from made.libraries.items()


def _method_name(method: Method) -> str:
    if method.lora is None:
        return "full fine-tuning"
    name = "LoRA" if method.quantization is None else f"QLoRA in {method.quantization.bits} bits"
    return f"{name}, rank {method.lora.rank}"


def _is_on_hub(source: str) -> bool:
    return source.startswith(layout.HUB_SCHEME)


def _repository(source: str) -> str:
    """ORG/NAME of `hf://ORG/NAME[/PATH]`."""
    return "/".join(source.removeprefix(layout.HUB_SCHEME).split("/")[:2])


def _table(head: Sequence[str], rows: Iterator[tuple[str, str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
