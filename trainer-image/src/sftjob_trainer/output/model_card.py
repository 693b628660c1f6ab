"""The model card next to the weights: how they were made, their metrics, and how to load them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from sftjob_contract import layout
from sftjob_contract.codec import sha256_of
from sftjob_contract.names import MOUNT_CLAIMS
from sftjob_contract.reports.stats import PreparedStats
from sftjob_contract.run.config import Model, RunConfig
from sftjob_contract.run.method import Method
from sftjob_contract.run.rope import RopeScaling
from sftjob_contract.run.sources import data_sources
from sftjob_trainer.models.rope import ORIGINAL, rope_parameters

CARD: Final = "README.md"
"""File name at which the hub and people expect it."""

_LIBRARIES: Final = {layout.OUTPUT_ADAPTER: "peft"}
_WHAT: Final = {
    layout.OUTPUT_MODEL: "Every weight of {base} was trained.",
    layout.OUTPUT_ADAPTER: "An adapter of {base}, trained with {method}.",
    layout.OUTPUT_MERGED: "{base} with an adapter merged in that was trained with {method}.",
}
_UNKNOWN_PLACE: Final = "/path/to/base"
_LOADED: Final = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

PLACE = "."  # this directory, or its repository on the hub
model = AutoModelForCausalLM.from_pretrained(PLACE{trust})
tokenizer = AutoTokenizer.from_pretrained(PLACE{trust})
"""
_ADAPTER_LOADED: Final = """\
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

PLACE = "."  # this directory, or its repository on the hub
model = AutoPeftModelForCausalLM.from_pretrained(PLACE{trust})
tokenizer = AutoTokenizer.from_pretrained(PLACE{trust})
"""
_ADAPTER_LOADED_ONTO: Final = """\
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

BASE = {base!r}  # the directory that has {source}
PLACE = "."  # this directory, or its repository on the hub
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(BASE{trust}), PLACE)
tokenizer = AutoTokenizer.from_pretrained(PLACE{trust})
"""
_ADAPTER_LOADED_ONTO_CHANGED: Final = """\
from peft import PeftModel
from transformers import {classes}

BASE = {base!r}{where}
PLACE = "."  # this directory, or its repository on the hub
{scaling}base = AutoModelForCausalLM.from_pretrained(BASE{config}{trust}{revision})
{resizing}model = PeftModel.from_pretrained(base, PLACE)
tokenizer = AutoTokenizer.from_pretrained(PLACE{trust})
"""
_SCALING: Final = """\
config = AutoConfig.from_pretrained(BASE{trust}{revision})
text = config.get_text_config()
positions = text.max_position_embeddings
text.rope_parameters = {{**text.rope_parameters, {parameters}}}
text.max_position_embeddings = round({factor} * {original})
"""
_RESIZING: Final = "base.resize_token_embeddings({rows}, mean_resizing=False)\n"
_SCALED: Final = (
    "The positions of the base are scaled (RoPE, type {type}, factor {factor:g}). An adapter does not have the config "
    "of its base: scale the base the same way wherever the adapter is loaded, as this code does. On the base as it is "
    "the adapter computes something else than was trained."
)
_RESIZED: Final = (
    "The base gets an embedding of {rows} rows, for added tokens. An adapter does not have the config of its base: "
    "resize the base the same way wherever the adapter is loaded, as this code does; the adapter has the rows."
)


@dataclass(frozen=True, kw_only=True)
class CardContent:
    """Content of a card: the run, its final metrics, the library versions it was made with, and a caveat."""

    config: RunConfig
    stats: PreparedStats
    metrics: Mapping[str, float]
    libraries: Mapping[str, str]
    note: str | None = None


def base_model_name(model: Model) -> str:
    """Display name of the base model: its hub id if it has one, else the configured source."""
    return model.source.removeprefix(layout.HUB_SCHEME)


def loadable_base(model: Model) -> str | None:
    """The name under which `from_pretrained` finds the base: its hub id, or a path in the image.

    None for a claim or an object store: each reader has it in another directory, and libraries treat any other name as
    a hub id.
    """
    return base_model_name(model) if model.source.startswith((layout.HUB_SCHEME, "/")) else None


def model_card(content: CardContent, path: str) -> str:
    """The card of the output at `path`, one of the layout's paths. Equal runs have equal cards."""
    base = f"`{base_model_name(content.config.model)}`"
    description = _WHAT[path].format(base=base, method=_method_name(content.config.method))
    parts = [
        f"---\n{_head(content.config, path)}\n---",
        f"# {content.config.job.name}",
        description,
        *_base_changes(content, path),
        f"```python\n{_loading_code(content, path)}```",
        "## Results",
        _table(("metric", "value"), ((name, f"{value:.6g}") for name, value in content.metrics.items())),
        *(() if content.note is None else (f"Note: {content.note}.",)),
        "## Made of",
        _table(("what", "which"), _provenance(content)),
    ]
    return "\n\n".join(parts) + "\n"


def _loading_code(content: CardContent, path: str) -> str:
    """Python code that loads the output from its own directory unchanged, once the base is where it expects it."""
    model, rows = content.config.model, content.stats.embedding_rows
    trust = ", trust_remote_code=True" if model.trust_remote_code else ""
    if path != layout.OUTPUT_ADAPTER:
        return _LOADED.format(trust=trust)
    if model.rope_scaling is not None or rows is not None:
        return _changed_base_code(model, rows, trust)
    if _is_on_hub(model.source):
        return _ADAPTER_LOADED.format(trust=trust)
    return _ADAPTER_LOADED_ONTO.format(base=_base_directory(model), source=model.source, trust=trust)


def _base_changes(content: CardContent, path: str) -> Iterator[str]:
    """Changes to the base that are required before an adapter is loaded onto it."""
    scaling, rows = content.config.model.rope_scaling, content.stats.embedding_rows
    if path != layout.OUTPUT_ADAPTER:
        return
    if scaling is not None:
        yield _SCALED.format(type=scaling.type, factor=scaling.factor)
    if rows is not None:
        yield _RESIZED.format(rows=rows)


def _changed_base_code(model: Model, rows: int | None, trust: str) -> str:
    """Python code that scales the base before loading it and grows its embedding to `rows` rows."""
    on_hub = _is_on_hub(model.source)
    revision = f", revision={model.revision!r}" if on_hub and model.revision else ""
    scaling = model.rope_scaling
    return _ADAPTER_LOADED_ONTO_CHANGED.format(
        classes=f"{'' if scaling is None else 'AutoConfig, '}AutoModelForCausalLM, AutoTokenizer",
        base=base_model_name(model) if on_hub else _base_directory(model),
        where="" if on_hub else f"  # the directory that has {model.source}",
        scaling="" if scaling is None else _scaling_code(scaling, trust, revision),
        config="" if scaling is None else ", config=config",
        trust=trust,
        revision=revision,
        resizing="" if rows is None else _RESIZING.format(rows=rows),
    )


def _scaling_code(scaling: RopeScaling, trust: str, revision: str) -> str:
    """Python code that scales the config of the base, relative to its own number of positions."""
    original = "positions" if scaling.original_max_position_embeddings is None else scaling.original(0)
    parameters = rope_parameters(scaling, 0)
    written = {name: str(original) if name == ORIGINAL else repr(value) for name, value in parameters.items()}
    return _SCALING.format(
        trust=trust,
        revision=revision,
        parameters=", ".join(f"{name!r}: {value}" for name, value in written.items()),
        factor=float(scaling.factor),
        original=original,
    )


def _base_directory(model: Model) -> str:
    """Directory of a base that is not on a hub, as a job's Pod sees it; any directory for an object store."""
    if model.source.startswith(layout.PVC_SCHEME):
        claim = layout.ClaimPath.parse(model.source)
        return str(PurePosixPath(MOUNT_CLAIMS, claim.claim, claim.path))
    return loadable_base(model) or _UNKNOWN_PLACE


def _head(config: RunConfig, path: str) -> str:
    """The card's YAML header. A hub rejects names that are not hub ids."""
    from huggingface_hub import ModelCardData

    data = ModelCardData(
        base_model=base_model_name(config.model) if _is_on_hub(config.model.source) else None,
        datasets=sorted({_repository(source) for source in data_sources(config) if _is_on_hub(source)}) or None,
        library_name=_LIBRARIES.get(path, "transformers"),
        pipeline_tag="text-generation",
        tags=["sft", *(["lora"] if config.method.lora is not None else [])],
    )
    return str(data.to_yaml())


def _provenance(content: CardContent) -> Iterator[tuple[str, str]]:
    config, stats = content.config, content.stats
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
    yield from content.libraries.items()


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
