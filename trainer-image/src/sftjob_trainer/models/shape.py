"""The shape of a model, from its config and its weight files' headers: reads no tensors and needs no PyTorch.

Only certain facts are reported: a model that is not a plain dense decoder has no shape, and the plan is less detailed.
"""

import json
import logging
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from sftjob_contract.reports.model_shape import (
    LINEAR_KINDS_LIMIT,
    LINEAR_NAME_LIMIT,
    UNFROZEN_KINDS_LIMIT,
    LinearShape,
    ModelShape,
    UnfrozenShape,
)
from sftjob_trainer.models.added_tokens import keeps_head_tied
from sftjob_trainer.models.lora import Layers
from sftjob_trainer.sources.weights import SAFE_INDEX, SAFE_WEIGHTS, safe_weight_files

logger = logging.getLogger(__name__)

Tensors = Mapping[str, tuple[int, ...]]
"""Shape of each tensor by name."""

_LONGEST_HEADER_BYTES: Final = 100_000_000
"""The format's own limit: https://github.com/huggingface/safetensors#format."""
_LAYER_WEIGHT: Final = re.compile(r"(?:.+\.)?(?:layers|h|blocks)\.(\d+)\.(.+)")
_BUFFERS: Final = (
    ".rotary_emb.inv_freq",
    ".attn.bias",
    ".attn.masked_bias",
    ".attention.bias",
    ".attention.masked_bias",
)
"""Suffixes of names in older checkpoints that are not parameters."""
_NUMBERED: Final = re.compile(r"experts|(^|\.)\d+(\.|$)")
"""Part of paths within a layer in models that are not dense."""
_POSITIONS: Final = ("wpe.weight", "embed_positions.weight")
"""Suffixes of names of learned position embeddings."""
_HEADS: Final = ("lm_head.weight", "embed_out.weight")
"""Names of the output head."""
_HEAD: Final = "lm_head"
"""transformers' name for it, regardless of the files."""


class _UnknownShapeError(Exception):
    """Why the model's shape is unknown."""


def read_model_shape(directory: Path) -> ModelShape | None:
    """The shape of the model in `directory`; None, with a log line, if it cannot be determined with certainty."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(directory, trust_remote_code=False)
        tensors, weight_bytes = _tensors(directory, config)
        return shape_of(config, tensors, weight_bytes)
    except Exception as error:  # noqa: BLE001 -- a foreign config may raise anything
        logger.info("      there is no memory plan, since the model's shape is not known: %s", error)
        return None


def read_layers(directory: Path) -> Layers:
    """Names of the layers of a model with a known shape, as in its weight files.

    The head has transformers' name and is always included: a tied head has no name in the files.
    """
    from transformers import AutoConfig

    tensors, _ = _tensors(directory, AutoConfig.from_pretrained(directory, trust_remote_code=False))
    inside = {name: size for name, size in tensors.items() if not name.endswith((*_BUFFERS, *_HEADS))}
    weighted = list(dict.fromkeys(name.rpartition(".")[0] for name in inside))
    parts = [name.split(".") for name in weighted]
    parents = {".".join(path[:length]) for path in parts for length in range(1, len(path))}
    matrices = [name.removesuffix(".weight") for name, size in inside.items() if len(size) == 2]
    return Layers(
        every=[*weighted, *sorted(parents), _HEAD],
        linear=[name for name in matrices if _LAYER_WEIGHT.fullmatch(name)],
        weighted=[*weighted, _HEAD],
        head=_HEAD,
    )


def read_unfrozen(directory: Path, patterns: Sequence[str]) -> tuple[UnfrozenShape, ...] | None:
    """The weights of a model with a known shape that `patterns` train, as in unfreezing.py.

    None if uncertain: a pattern matches the beginning of no name in the weight files, whose prefixes may differ from
    those of the loaded model.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(directory, trust_remote_code=False)
    found = _parameters(_tensors(directory, config)[0], config)
    sizes = {f"{_HEAD}.weight" if name in _HEADS else name: size for name, size in found.items()}
    if not all(any(re.match(pattern, name) for name in sizes) for pattern in patterns):
        return None
    trained = {name: size for name, size in sizes.items() if any(re.match(pattern, name) for pattern in patterns)}
    vectors = sum(size[0] for size in trained.values() if len(size) == 1)
    kinds = Counter(
        (size[0], math.prod(size[1:]), not _LAYER_WEIGHT.fullmatch(name) and name not in _HEADS)
        for name, size in trained.items()
        if len(size) > 1
    )
    if vectors:
        kinds[vectors, 1, False] = 1
    if len(kinds) > UNFROZEN_KINDS_LIMIT:
        return None
    return tuple(
        UnfrozenShape(rows=rows, columns=columns, count=count, is_embedding=is_embedding)
        for (rows, columns, is_embedding), count in sorted(kinds.items())
    )


def _parameters(tensors: Tensors, config: Any) -> Tensors:
    """Those of `tensors` that are parameters, tied ones once."""
    excluded = _HEADS if config.tie_word_embeddings else ()
    return {name: size for name, size in tensors.items() if not name.endswith(_BUFFERS) and name not in excluded}


def shape_of(config: Any, tensors: Tensors, weight_bytes: int) -> ModelShape:
    """The shape of a dense decoder with `config` and `tensors`.

    Raises:
        _NoShapeError: it is not a dense decoder.
    """
    _check_dense(config)
    tensors = _parameters(tensors, config)
    linear = _linear_layers(tensors, config)
    heads = config.num_attention_heads
    return ModelShape(
        parameters=sum(math.prod(size) for size in tensors.values()),
        bias_parameters=sum(math.prod(size) for name, size in tensors.items() if name.endswith(".bias")),
        weight_bytes=weight_bytes,
        hidden_size=config.hidden_size,
        intermediate_size=_intermediate_size(config),
        layers=config.num_hidden_layers,
        attention_heads=heads,
        key_value_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_size=getattr(config, "head_dim", None) or config.hidden_size // heads,
        vocabulary_size=config.vocab_size,
        tied_embeddings=bool(config.tie_word_embeddings),
        linear_layers=linear,
    )


def with_new_tokens(shape: ModelShape, rows: int | None, embedding: str) -> ModelShape:
    """`shape` with tokens that are new to the model. Embedding and head grow to `rows` rows; None: they do not grow.

    `embedding` is the name of the embedding, which decides whether PEFT can keep the head tied to it.
    """
    shape = replace(shape, new_token_matrices=1 if shape.tied_embeddings and keeps_head_tied(embedding) else 2)
    if rows is None:
        return shape
    size = (shape.vocabulary_size, shape.hidden_size)
    unfrozen = shape.unfrozen and tuple(
        replace(kind, rows=rows) if (kind.rows, kind.columns) == size else kind for kind in shape.unfrozen
    )
    grown = (rows - shape.vocabulary_size) * shape.hidden_size * (1 if shape.tied_embeddings else 2)
    return replace(shape, parameters=shape.parameters + grown, vocabulary_size=rows, unfrozen=unfrozen)


def _check_dense(config: Any) -> None:
    if getattr(config, "quantization_config", None) is not None:
        raise _UnknownShapeError("its weights are quantized already")
    if getattr(config, "is_encoder_decoder", False) or config.get_text_config() is not config:
        raise _UnknownShapeError(f"{config.model_type} is not a plain decoder")


def _linear_layers(tensors: Tensors, config: Any) -> tuple[LinearShape, ...]:
    """The linear layers inside the decoder layers, by kind; everything outside the layers must be known."""
    kinds: Counter[tuple[str, int, int]] = Counter()
    layers = set()
    for name, size in tensors.items():
        inside = _LAYER_WEIGHT.fullmatch(name)
        if inside is None:
            _check_outside(name, size, config)
            continue
        layers.add(inside[1])
        if len(size) == 1:
            continue
        path = inside[2].removesuffix(".weight")
        if len(size) != 2 or path == inside[2] or _NUMBERED.search(path):
            raise _UnknownShapeError(f"{name} is not the weight of a linear layer of a dense model")
        kinds[path, *_features(size, config)] += 1
    if len(layers) != config.num_hidden_layers:
        raise _UnknownShapeError(
            f"it has {len(layers)} layers with weights, and {config.num_hidden_layers} by its config"
        )
    if not 1 <= len(kinds) <= LINEAR_KINDS_LIMIT or any(len(path) > LINEAR_NAME_LIMIT for path, *_ in kinds):
        raise _UnknownShapeError(f"it has {len(kinds)} kinds of linear layers")
    return tuple(
        LinearShape(name=path, in_features=in_features, out_features=out_features, count=count)
        for (path, in_features, out_features), count in sorted(kinds.items())
    )


def _features(size: tuple[int, ...], config: Any) -> tuple[int, int]:
    """In and out features; GPT-2's Conv1D stores its weight transposed."""
    return (size[0], size[1]) if config.model_type == "gpt2" else (size[1], size[0])


def _check_outside(name: str, size: tuple[int, ...], config: Any) -> None:
    if len(size) == 1 or name.endswith(_POSITIONS):
        return
    if size != (config.vocab_size, config.hidden_size):
        raise _UnknownShapeError(f"it has {name}, which is not an embedding")


def _intermediate_size(config: Any) -> int:
    """Width of the MLP; GPT-2 and similar models may omit it, which means four times the hidden size."""
    given = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None)
    return int(given or 4 * config.hidden_size)


def _tensors(directory: Path, config: Any) -> tuple[Tensors, int]:
    """Shapes by name, and bytes of the weight files: from safetensors headers, or from the config if it suffices."""
    files = _weight_files(directory)
    if files:
        headers = [_header(path) for path in files]
        return {name: size for header in headers for name, size in header.items()}, _bytes(files)
    pickled = sorted(directory.glob("pytorch_model*.bin"))
    if not pickled or config.model_type not in _BY_CONFIG:
        raise _UnknownShapeError(f"its weights are not in {SAFE_WEIGHTS} or files that {SAFE_INDEX} names")
    return dict(_by_config(config)), _bytes(pickled)


def _weight_files(directory: Path) -> list[Path]:
    """The files that transformers would load."""
    names = [file.name for file in directory.iterdir() if file.is_file()]
    return [directory / name for name in safe_weight_files(names, lambda name: (directory / name).read_bytes())]


def _header(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes by name from the header of a safetensors file: its length in 8 bytes, little endian, then JSON."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(_LONGEST_HEADER_BYTES, path.stat().st_size):
            raise _UnknownShapeError(f"{path.name} is not a safetensors file")
        entries = json.loads(file.read(length))
    return {name: tuple(entry["shape"]) for name, entry in entries.items() if name != "__metadata__"}


def _bytes(files: list[Path]) -> int:
    return sum(path.stat().st_size for path in files)


_BY_CONFIG: Final = frozenset({"llama", "mistral", "qwen2"})
"""Models whose tensors follow from their config alone."""


def _by_config(config: Any) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Shapes by name of the models in _BY_CONFIG, as transformers builds them."""
    hidden, inner = config.hidden_size, config.intermediate_size
    head = getattr(config, "head_dim", None) or hidden // config.num_attention_heads
    query, key = head * config.num_attention_heads, head * config.num_key_value_heads
    attention_bias = bool(getattr(config, "attention_bias", False))
    linear = (
        ("self_attn.q_proj", hidden, query, attention_bias or config.model_type == "qwen2"),
        ("self_attn.k_proj", hidden, key, attention_bias or config.model_type == "qwen2"),
        ("self_attn.v_proj", hidden, key, attention_bias or config.model_type == "qwen2"),
        ("self_attn.o_proj", query, hidden, attention_bias),
        ("mlp.gate_proj", hidden, inner, bool(getattr(config, "mlp_bias", False))),
        ("mlp.up_proj", hidden, inner, bool(getattr(config, "mlp_bias", False))),
        ("mlp.down_proj", inner, hidden, bool(getattr(config, "mlp_bias", False))),
    )
    yield "model.embed_tokens.weight", (config.vocab_size, hidden)
    yield "lm_head.weight", (config.vocab_size, hidden)
    yield "model.norm.weight", (hidden,)
    for layer in range(config.num_hidden_layers):
        prefix = f"model.layers.{layer}"
        yield f"{prefix}.input_layernorm.weight", (hidden,)
        yield f"{prefix}.post_attention_layernorm.weight", (hidden,)
        for name, in_features, out_features, biased in linear:
            yield f"{prefix}.{name}.weight", (out_features, in_features)
            if biased:
                yield f"{prefix}.{name}.bias", (out_features,)
