"""The model's limits, read from its config.json, and whether the run stays within them."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sftjob_contract.reasons import Reason
from sftjob_contract.run.rope import RopeScaling
from sftjob_trainer.models.added_tokens import rows_for
from sftjob_trainer.process.errors import StageError


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Longest sequence in tokens, and number of embedding rows. None if the model does not specify it."""

    positions: int | None
    vocabulary: int | None


def model_settings(directory: Path) -> dict[str, Any]:
    """The content of config.json of the model in `directory`.

    Raises:
        StageError: it cannot be read.
    """
    path = directory / "config.json"
    try:
        settings = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise StageError(Reason.CONFIG_INVALID, f"the model's {path.name} cannot be read: {error}") from error
    if not isinstance(settings, dict):
        raise StageError(Reason.CONFIG_INVALID, f"the model's {path.name} must be a JSON object")
    return settings


def read_limits(directory: Path, scaling: RopeScaling | None = None) -> Limits:
    """The limits of the model in `directory`, with RoPE scaling.

    Raises:
        StageError: its config.json cannot be read.
    """
    settings = model_settings(directory)
    text = settings.get("text_config")
    settings = text if isinstance(text, dict) else settings
    positions = _number(settings, "max_position_embeddings") or _number(settings, "n_positions")
    return Limits(
        positions=positions if scaling is None or positions is None else scaling.scaled(positions),
        vocabulary=_number(settings, "vocab_size"),
    )


def check_length(limits: Limits, max_length: int, label: str = "the model") -> None:
    """Refuse sequences longer than the model's positions. `label` names the model in messages.

    Raises:
        StageError: `max_length` is too long.
    """
    if limits.positions is not None and max_length > limits.positions:
        raise StageError(
            Reason.CONFIG_INVALID,
            f"training.maxLength is {max_length} but {label} has {limits.positions} positions; "
            f"set it to {limits.positions} or less",
        )


def check_prompts(limits: Limits, lengths: Sequence[int]) -> None:
    """Refuse sample prompts longer than the model's positions.

    Raises:
        StageError: one of them is too long; `lengths` are in tokens.
    """
    for number, length in enumerate(lengths):
        if limits.positions is not None and length > limits.positions:
            raise StageError(
                Reason.CONFIG_INVALID,
                f"evaluation.samplePrompts[{number}] has {length} tokens but the model has {limits.positions} "
                "positions; shorten it",
            )


def check_vocabulary(limits: Limits, largest_token: int) -> None:
    """Refuse tokens that the model has no embedding for.

    Raises:
        StageError: a token is out of range.
    """
    if limits.vocabulary is not None and largest_token >= limits.vocabulary:
        raise StageError(
            Reason.CONFIG_INVALID,
            f"the tokenizer made token {largest_token} but the model's vocabulary has {limits.vocabulary} tokens; "
            "tokenizer and model do not belong together",
        )


def rows_after_adding(limits: Limits, ids: Collection[int]) -> int | None:
    """Embedding rows required for new tokens with these `ids`; None if it has enough rows, padding included."""
    rows = rows_for(ids)
    return None if limits.vocabulary is not None and rows <= limits.vocabulary else rows or None


def _number(settings: dict[str, Any], key: str) -> int | None:
    value = settings.get(key)
    return value if isinstance(value, int) and value > 0 else None
