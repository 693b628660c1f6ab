"""The tensors that a method trains, by size: their number of parameters, and their optimizer states."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from sftjob_contract.reports.model_shape import LinearShape, ModelShape
from sftjob_contract.run.method import Lora, LoraBias, Method, keeps_initial_adapter

ALL_LINEAR: Final = "all-linear"
"""PEFT's name for all linear layers except the output head."""
_EMBEDDINGS: Final = frozenset({"embed_tokens", "wte", "embed_in", "word_embeddings"})
_HEADS: Final = frozenset({"lm_head", "embed_out"})
"""Names of embedding and output head in targetModules and modulesToSave."""


@dataclass(frozen=True, kw_only=True)
class TrainedTensors:
    """`count` tensors of `rows` x `columns`; vectors have one column. Some optimizers treat embeddings differently."""

    rows: int
    columns: int = 1
    count: int = 1
    is_embedding: bool = False

    @property
    def elements(self) -> int:
        """Elements of one of them."""
        return self.rows * self.columns


def trainable_parameters(method: Method, shape: ModelShape) -> int:
    """Count the parameters that `method` trains: all of them, or the adapter's (Hu et al. 2021, section 4.1)."""
    return sum(tensors.elements * tensors.count for tensors in trained_tensors(method, shape))


def trained_tensors(method: Method, shape: ModelShape) -> tuple[TrainedTensors, ...]:
    """Return all tensors that `method` trains."""
    if method.lora is not None:
        return tuple(_adapter(method.lora, shape))
    if shape.unfrozen is None:
        return tuple(_all(shape))
    return tuple(
        TrainedTensors(rows=kind.rows, columns=kind.columns, count=kind.count, is_embedding=kind.is_embedding)
        for kind in shape.unfrozen
    )


def trained_linear_parameters(method: Method, shape: ModelShape) -> int:
    """Return those of `linear_parameters` that `method` trains themselves."""
    if method.lora is not None:
        return 0
    if shape.unfrozen is None:
        return linear_parameters(shape)
    inside = (kind for kind in shape.unfrozen if kind.columns > 1 and kind.rows != shape.vocabulary_size)
    return sum(kind.rows * kind.columns * kind.count for kind in inside)


def trains_head(method: Method, shape: ModelShape) -> bool:
    """Whether the weight of the output head is trained, which may be the embedding."""
    if method.lora is not None:
        return shape.new_token_matrices > 0 or not _HEADS.isdisjoint(method.lora.modules_to_save)
    size = (shape.vocabulary_size, shape.hidden_size)
    return shape.unfrozen is None or any(
        (kind.rows, kind.columns) == size and kind.is_embedding is shape.tied_embeddings for kind in shape.unfrozen
    )


def initial_adapter_parameters(method: Method, shape: ModelShape) -> int:
    """Return A and B as of before the first step, if a checkpoint stores them."""
    if method.lora is None or not keeps_initial_adapter(method.lora):
        return 0
    return sum(tensors.elements * tensors.count for tensors in _matrices(method.lora, shape))


def linear_parameters(shape: ModelShape) -> int:
    """Return the weights of the linear layers inside the decoder layers, without their biases."""
    return sum(kind.in_features * kind.out_features * kind.count for kind in shape.linear_layers)


def adapted_layers(lora: Lora, shape: ModelShape) -> tuple[LinearShape, ...]:
    """Return the linear layers with an adapter. As in PEFT, names that match nothing are ignored."""
    if ALL_LINEAR in lora.target_modules:
        return shape.linear_layers
    counts = ((kind, _matches(kind, lora.target_modules)) for kind in shape.linear_layers)
    return tuple(
        LinearShape(name=kind.name, in_features=kind.in_features, out_features=kind.out_features, count=count)
        for kind, count in counts
        if count
    )


def _all(shape: ModelShape) -> Iterator[TrainedTensors]:
    for kind in shape.linear_layers:
        yield TrainedTensors(rows=kind.out_features, columns=kind.in_features, count=kind.count)
    embedding = shape.vocabulary_size * shape.hidden_size
    yield TrainedTensors(rows=shape.vocabulary_size, columns=shape.hidden_size, is_embedding=True)
    if not shape.tied_embeddings:
        yield TrainedTensors(rows=shape.vocabulary_size, columns=shape.hidden_size)
    vectors = shape.parameters - linear_parameters(shape) - embedding * (1 if shape.tied_embeddings else 2)
    count, rest = divmod(vectors, shape.hidden_size)
    yield TrainedTensors(rows=shape.hidden_size, count=count)
    yield TrainedTensors(rows=rest)


def _adapter(lora: Lora, shape: ModelShape) -> Iterator[TrainedTensors]:
    """Return the matrices of LoRA, biases, and copies of whole modules."""
    yield from _matrices(lora, shape)
    if lora.bias is not LoraBias.NONE:
        yield TrainedTensors(rows=shape.bias_parameters)
    for name in (*lora.modules_to_save, *_of_new_tokens(lora, shape)):
        yield from _saved(name, shape)


def _matrices(lora: Lora, shape: ModelShape) -> Iterator[TrainedTensors]:
    """A is rank x in and B is out x rank; DoRA adds a magnitude for each output (Liu et al. 2024, section 4.1)."""
    layers = adapted_layers(lora, shape)
    for kind in layers:
        yield TrainedTensors(rows=lora.rank, columns=kind.in_features, count=kind.count)
        yield TrainedTensors(rows=kind.out_features, columns=lora.rank, count=kind.count)
        if lora.dora:
            yield TrainedTensors(rows=kind.out_features, count=kind.count)
    if any(_names(name, _EMBEDDINGS) for name in lora.target_modules):
        yield TrainedTensors(rows=lora.rank, columns=shape.vocabulary_size)
        yield TrainedTensors(rows=shape.hidden_size, columns=lora.rank + lora.dora)


def _of_new_tokens(lora: Lora, shape: ModelShape) -> Iterator[str]:
    """Return what the trainer adds to modulesToSave for added tokens: embedding and head, or one if they stay tied."""
    if not shape.new_token_matrices:
        return
    given = [frozenset({name.rpartition(".")[2]}) for name in lora.modules_to_save]
    has_embedding, has_head = (any(name & names for name in given) for names in (_EMBEDDINGS, _HEADS))
    by_token = bool(lora.extra.get("trainable_token_indices"))
    if shape.new_token_matrices == 1 and (has_embedding or has_head):
        return
    if not (has_embedding or by_token):
        yield "embed_tokens"
    if not has_head and shape.new_token_matrices > 1:
        yield "lm_head"


def _saved(name: str, shape: ModelShape) -> Iterator[TrainedTensors]:
    """A copy of a whole module, which PEFT trains beside the frozen one. Norms are too small to count."""
    is_embedding = _names(name, _EMBEDDINGS)
    if is_embedding or _names(name, _HEADS):
        yield TrainedTensors(rows=shape.vocabulary_size, columns=shape.hidden_size, is_embedding=is_embedding)
    for kind in shape.linear_layers:
        if count := _matches(kind, (name,)):
            yield TrainedTensors(rows=kind.out_features, columns=kind.in_features, count=count)


def _names(name: str, modules: frozenset[str]) -> bool:
    """Whether `name`, which may be a path, is one of `modules`."""
    return name.rpartition(".")[2] in modules


def _matches(kind: LinearShape, names: tuple[str, ...]) -> int:
    """How many layers of a kind the names mean: a name, the end of a path, or the whole path of one layer."""
    if any(kind.name == name or kind.name.endswith(f".{name}") for name in names):
        return kind.count
    return min(kind.count, sum(name.endswith(f".{kind.name}") for name in names))
