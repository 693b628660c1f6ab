"""Tokens that a job adds to a model: in the tokenizer, as embedding rows, and among an adapter's trained weights."""

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from sftjob_contract.reasons import Reason
from sftjob_contract.run.config import Model
from sftjob_contract.run.method import Lora
from sftjob_trainer.process.errors import StageError

logger = logging.getLogger(__name__)

PLAIN: Final = "model.addedTokens"
SPECIAL: Final = "model.addedSpecialTokens"
_BY_TOKEN: Final = "trainable_token_indices"  # noqa: S105 -- an option of PEFT
_TYING: Final = "ensure_weight_tying"
_TIED_BY_NAME: Final = "embed_tokens"
"""The only embedding name for which PEFT can keep the head tied and tie it again when it loads the adapter."""


def tokens_to_add(model: Model) -> tuple[str, ...]:
    """The tokens of the job, in the order in which new ones get their ids."""
    return (*(model.added_tokens or ()), *(model.added_special_tokens or ()))


def token_problems(model: Model) -> Iterator[str]:
    """Invalid and duplicate tokens, one sentence each."""
    seen: dict[str, str] = {}
    for field, tokens in ((PLAIN, model.added_tokens or ()), (SPECIAL, model.added_special_tokens or ())):
        for token in tokens:
            if not token or any(character.isspace() for character in token):
                yield f"{field}: {token!r} must be a token without white space, such as <|tool|>"
            elif token in seen:
                yield f"{field}: {token!r} is in {seen[token]} already; remove it from one of them"
            seen.setdefault(token, field)


def add_tokens(tokenizer: Any, model: Model) -> Mapping[str, int]:
    """Add to `tokenizer` those tokens of the job that it does not have yet.

    Returns:
        The id of each token.

    Raises:
        StageError: a token still becomes more than one id.
    """
    from tokenizers import AddedToken

    vocabulary = tokenizer.get_vocab() if tokens_to_add(model) else {}
    taken = set(vocabulary.values())
    plain = [token for token in model.added_tokens or () if token not in vocabulary]
    special = [token for token in model.added_special_tokens or () if token not in vocabulary]
    if plain:
        tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in plain])
    if special:
        tokenizer.add_special_tokens({"extra_special_tokens": special}, replace_extra_special_tokens=False)
    ids = {token: int(tokenizer.convert_tokens_to_ids(token)) for token in (*plain, *special)}
    for token, number in ids.items():
        found = tokenizer(f"a{token}a", add_special_tokens=False)["input_ids"]
        if found.count(number) != 1 or number in taken:
            field = PLAIN if token in plain else SPECIAL
            raise _config_error(
                f"{field}: this tokenizer does not make one id of {token}; remove it, or choose another text"
            )
    return ids


def rows_for(ids: Iterable[int]) -> int:
    """Embedding rows needed for tokens with these ids; 0 for no ids."""
    return max(ids, default=-1) + 1


def resize_embedding(model: Any, rows: int, seed: int) -> None:
    """Grow the embedding and head of `model` to `rows` rows where they have fewer.

    New rows start near the mean of the existing ones, so that the model predicts no new token at first (Hewitt 2021,
    https://nlp.stanford.edu/~johnhew/vocab-expansion.html). Equal models with equal seeds get equal rows.

    Raises:
        StageError: they cannot grow.
    """
    import torch

    weight = model.get_input_embeddings().weight
    if rows <= len(weight):
        return
    head = model.get_output_embeddings()
    if not all(layer.weight.is_floating_point() for layer in (model.get_input_embeddings(), head) if layer is not None):
        raise _config_error(
            f"{PLAIN}: embedding or output head of {model.config.model_type} are quantized and cannot grow; name the "
            "repository with the model's 16-bit weights in model.source"
        )
    rows_before = len(weight)
    with torch.random.fork_rng([weight.device] if weight.is_cuda else []):
        torch.manual_seed(seed)
        model.resize_token_embeddings(rows, mean_resizing=not weight.is_meta)
    sizes = [
        len(layer.weight) for layer in (model.get_input_embeddings(), head and model.get_output_embeddings()) if layer
    ]
    if set(sizes) != {rows}:
        raise _config_error(f"{PLAIN}: the code of {model.config.model_type} does not resize its embedding; remove it")
    logger.info("the embedding grows from %s to %s rows for added tokens", f"{rows_before:,}", f"{rows:,}")


def with_embeddings(lora: Lora, model: Any, ids: Collection[int]) -> Lora:
    """`lora` extended to train the embedding and output head of `model` for the new token `ids`.

    Tied weights stay tied where PEFT supports it, unless both are in modulesToSave or the job sets otherwise.

    Raises:
        StageError: other options prevent training the whole embedding.
    """
    if not ids:
        return lora
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    embedding_name = _short_name(embedding, model)
    names = [embedding_name] if head is None else [embedding_name, _short_name(head, model)]
    _check_targets(lora, embedding_name)
    by_token = _trained_by_token(lora, embedding_name, ids)
    wanted = names[1:] if by_token else names
    missing = [name for name in wanted if not any(_matches(name, saved) for saved in lora.modules_to_save)]
    if not missing:
        return lora
    extra = dict(lora.extra)
    is_tied = head is not None and head.weight is embedding.weight and not by_token
    if is_tied and _TYING not in extra and keeps_head_tied(embedding_name):
        extra[_TYING] = True
    logger.info("trained as a whole and saved with the adapter, for added tokens: %s", " and ".join(wanted))
    return replace(lora, modules_to_save=(*lora.modules_to_save, *missing), extra=extra)


def keeps_head_tied(embedding: str) -> bool:
    """Whether PEFT can train the layer `embedding` and keep the output head tied to it."""
    return _last_part(embedding) == _TIED_BY_NAME


def check_unfrozen(model: Any, ids: Collection[int]) -> None:
    """Check that full fine-tuning of some weights also trains the rows of new tokens.

    Raises:
        StageError: these rows would keep their initial values.
    """
    if not ids:
        return
    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
        if layer is not None and not layer.weight.requires_grad:
            name = _full_name(layer, model)
            raise _config_error(
                f"method.full.unfrozenParameters: {name} has the rows of added tokens, which are new to the model, and "
                f"would not be trained; add {name} to the list"
            )


def _check_targets(lora: Lora, embedding: str) -> None:
    if any(_matches(embedding, target) for target in lora.target_modules):
        raise _config_error(
            f"method.lora.targetModules: {_last_part(embedding)} has the rows of added tokens, which are new to the "
            "model and are trained as a whole; remove it there"
        )


def _trained_by_token(lora: Lora, embedding: str, ids: Collection[int]) -> bool:
    """Whether single embedding rows are trained and `ids` are among them.

    Raises:
        StageError: only some of `ids` are among them.
    """
    given = lora.extra.get(_BY_TOKEN)
    if not given:
        return False
    by_name = given if isinstance(given, Mapping) else {embedding: given}
    listed = {row for name, rows in by_name.items() if _matches(embedding, name) for row in rows}
    if listed and not listed.issuperset(ids):
        raise _config_error(
            f"method.lora.extra.{_BY_TOKEN}: the added tokens have the ids {', '.join(map(str, sorted(ids)))}; add "
            "them, or remove it to train the embedding as a whole"
        )
    return bool(listed)


def _short_name(layer: Any, model: Any) -> str:
    """The last part of a layer's name if it is unique in the model, else the full name."""
    names = [name for name, _ in model.named_modules()]
    name = _full_name(layer, model)
    return _last_part(name) if sum(other.endswith(_last_part(name)) for other in names) == 1 else name


def _full_name(layer: Any, model: Any) -> str:
    return next(str(name) for name, module in model.named_modules() if module is layer)


def _last_part(name: str) -> str:
    return name.rpartition(".")[2]


def _matches(name: str, target: str) -> bool:
    return name == target or target.endswith(f".{name}") or name.endswith(f".{target}")


def _config_error(message: str) -> StageError:
    return StageError(Reason.CONFIG_INVALID, message)
