"""Tokens that a job adds to a model: in the tokenizer, as rows of the embedding, and among what an adapter trains."""

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from sftjob_contract.config import Model
from sftjob_contract.method import Lora
from sftjob_contract.reasons import Reason
from sftjob_trainer.failure import Failure

logger = logging.getLogger(__name__)

PLAIN: Final = "model.addedTokens"
SPECIAL: Final = "model.addedSpecialTokens"
_BY_TOKEN: Final = "trainable_token_indices"  # noqa: S105 -- an option of PEFT
_TYING: Final = "ensure_weight_tying"
_TIED_BY_NAME: Final = "embed_tokens"
"""The one name of an embedding that PEFT can keep tied to a head, and ties again when it loads the adapter."""


def added(model: Model) -> tuple[str, ...]:
    """The tokens of the job, in the order in which new ones get their ids."""
    return (*(model.added_tokens or ()), *(model.added_special_tokens or ()))


def token_problems(model: Model) -> Iterator[str]:
    """What is no token, or is listed twice, one sentence each."""
    seen: dict[str, str] = {}
    for field, tokens in ((PLAIN, model.added_tokens or ()), (SPECIAL, model.added_special_tokens or ())):
        for token in tokens:
            if not token or any(character.isspace() for character in token):
                yield f"{field}: {token!r} must be a token without white space, such as <|tool|>"
            elif token in seen:
                yield f"{field}: {token!r} is in {seen[token]} already; remove it from one of them"
            seen.setdefault(token, field)


def add_tokens(tokenizer: Any, model: Model) -> Mapping[str, int]:
    """Add to `tokenizer` those tokens of the job that it does not have.

    Returns:
        Their ids, by token.

    Raises:
        Failure: a token is more than one id afterwards.
    """
    from tokenizers import AddedToken

    own = tokenizer.get_vocab() if added(model) else {}
    taken = set(own.values())
    plain = [token for token in model.added_tokens or () if token not in own]
    special = [token for token in model.added_special_tokens or () if token not in own]
    if plain:
        tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in plain])
    if special:
        tokenizer.add_special_tokens({"extra_special_tokens": special}, replace_extra_special_tokens=False)
    ids = {token: int(tokenizer.convert_tokens_to_ids(token)) for token in (*plain, *special)}
    for token, number in ids.items():
        found = tokenizer(f"a{token}a", add_special_tokens=False)["input_ids"]
        if found.count(number) != 1 or number in taken:
            field = PLAIN if token in plain else SPECIAL
            raise _refused(
                f"{field}: this tokenizer does not make one id of {token}; remove it, or choose another text"
            )
    return ids


def rows_for(ids: Iterable[int]) -> int:
    """Rows that an embedding needs for tokens of these ids; 0 for none."""
    return max(ids, default=-1) + 1


def resize_embedding(model: Any, rows: int, seed: int) -> None:
    """Give embedding and head of `model` so many rows, where they have fewer.

    New rows are near the mean of the others, so that the model predicts no new token at first (Hewitt 2021,
    https://nlp.stanford.edu/~johnhew/vocab-expansion.html); those of equal models with equal seeds are equal.

    Raises:
        Failure: they cannot grow.
    """
    import torch

    weight = model.get_input_embeddings().weight
    if rows <= len(weight):
        return
    head = model.get_output_embeddings()
    if not all(layer.weight.is_floating_point() for layer in (model.get_input_embeddings(), head) if layer is not None):
        raise _refused(
            f"{PLAIN}: embedding or output head of {model.config.model_type} are quantized and cannot grow; name the "
            "repository with the model's 16-bit weights in model.source"
        )
    before = len(weight)
    with torch.random.fork_rng([weight.device] if weight.is_cuda else []):
        torch.manual_seed(seed)
        model.resize_token_embeddings(rows, mean_resizing=not weight.is_meta)
    sizes = [
        len(layer.weight) for layer in (model.get_input_embeddings(), head and model.get_output_embeddings()) if layer
    ]
    if set(sizes) != {rows}:
        raise _refused(f"{PLAIN}: the code of {model.config.model_type} does not resize its embedding; remove it")
    logger.info("the embedding grows from %s to %s rows for added tokens", f"{before:,}", f"{rows:,}")


def with_embeddings(lora: Lora, model: Any, ids: Collection[int]) -> Lora:
    """`lora`, so that it trains what `model` has for new tokens of these `ids`: its embedding and its output head.

    Tied ones stay tied where PEFT can keep them so, unless both are in modulesToSave or the job says otherwise.

    Raises:
        Failure: other options keep the embedding from being trained as a whole.
    """
    if not ids:
        return lora
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    own = _name_of(embedding, model)
    names = [own] if head is None else [own, _name_of(head, model)]
    _check_targets(lora, own)
    by_token = _trained_by_token(lora, own, ids)
    wanted = names[1:] if by_token else names
    missing = [name for name in wanted if not any(_fits(name, saved) for saved in lora.modules_to_save)]
    if not missing:
        return lora
    extra = dict(lora.extra)
    is_tied = head is not None and head.weight is embedding.weight and not by_token
    if is_tied and _TYING not in extra and keeps_tied(own):
        extra[_TYING] = True
    logger.info("trained as a whole and saved with the adapter, for added tokens: %s", " and ".join(wanted))
    return replace(lora, modules_to_save=(*lora.modules_to_save, *missing), extra=extra)


def keeps_tied(embedding: str) -> bool:
    """Whether PEFT can train the layer `embedding` and keep the output head tied to it."""
    return _last(embedding) == _TIED_BY_NAME


def check_unfrozen(model: Any, ids: Collection[int]) -> None:
    """See that full fine-tuning of some weights trains those of new tokens.

    Raises:
        Failure: their rows would stay as they were made.
    """
    if not ids:
        return
    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
        if layer is not None and not layer.weight.requires_grad:
            name = _whole_name(layer, model)
            raise _refused(
                f"method.full.unfrozenParameters: {name} has the rows of added tokens, which are new to the model, and "
                f"would not be trained; add {name} to the list"
            )


def _check_targets(lora: Lora, embedding: str) -> None:
    if any(_fits(embedding, target) for target in lora.target_modules):
        raise _refused(
            f"method.lora.targetModules: {_last(embedding)} has the rows of added tokens, which are new to the model "
            "and are trained as a whole; remove it there"
        )


def _trained_by_token(lora: Lora, embedding: str, ids: Collection[int]) -> bool:
    """Whether single rows of the embedding are trained, and those of `ids` are among them.

    Raises:
        Failure: only some of them are.
    """
    given = lora.extra.get(_BY_TOKEN)
    if not given:
        return False
    by_name = given if isinstance(given, Mapping) else {embedding: given}
    listed = {row for name, rows in by_name.items() if _fits(embedding, name) for row in rows}
    if listed and not listed.issuperset(ids):
        raise _refused(
            f"method.lora.extra.{_BY_TOKEN}: the added tokens have the ids {', '.join(map(str, sorted(ids)))}; add "
            "them, or remove it to train the embedding as a whole"
        )
    return bool(listed)


def _name_of(layer: Any, model: Any) -> str:
    """The last part of a layer's name where no other has the same, else the whole."""
    names = [name for name, _ in model.named_modules()]
    name = _whole_name(layer, model)
    return _last(name) if sum(other.endswith(_last(name)) for other in names) == 1 else name


def _whole_name(layer: Any, model: Any) -> str:
    return next(str(name) for name, module in model.named_modules() if module is layer)


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _fits(name: str, target: str) -> bool:
    return name == target or target.endswith(f".{name}") or name.endswith(f".{target}")


def _refused(sentence: str) -> Failure:
    return Failure(Reason.CONFIG_INVALID, sentence)
