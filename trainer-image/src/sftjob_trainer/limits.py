"""What the model can take at most, read from its config.json, and whether the run stays within it."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sftjob_contract.reasons import Reason
from sftjob_contract.rope import RopeScaling
from sftjob_trainer.added_tokens import rows_for
from sftjob_trainer.failure import Failure


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Longest sequence in tokens, and number of rows of the embedding. None: the model does not say."""

    positions: int | None
    vocabulary: int | None


def model_settings(directory: Path) -> dict[str, Any]:
    """What config.json of the model in `directory` says.

    Raises:
        Failure: it cannot be read.
    """
    path = directory / "config.json"
    try:
        settings = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise Failure(Reason.CONFIG_INVALID, f"the model's {path.name} cannot be read: {error}") from error
    if not isinstance(settings, dict):
        raise Failure(Reason.CONFIG_INVALID, f"the model's {path.name} must be a JSON object")
    return settings


def read_limits(directory: Path, scaling: RopeScaling | None = None) -> Limits:
    """The limits of the model in `directory`, whose positions are scaled.

    Raises:
        Failure: its config.json can not be read.
    """
    settings = model_settings(directory)
    text = settings.get("text_config")
    settings = text if isinstance(text, dict) else settings
    positions = _number(settings, "max_position_embeddings") or _number(settings, "n_positions")
    return Limits(
        positions=positions if scaling is None or positions is None else scaling.scaled(positions),
        vocabulary=_number(settings, "vocab_size"),
    )


def check_length(limits: Limits, max_length: int, whose: str = "the model") -> None:
    """Refuse sequences that the model, or `whose` limits these are, has no positions for.

    Raises:
        Failure: `max_length` is too long.
    """
    if limits.positions is not None and max_length > limits.positions:
        raise Failure(
            Reason.CONFIG_INVALID,
            f"training.maxLength is {max_length} but {whose} has {limits.positions} positions; "
            f"set it to {limits.positions} or less",
        )


def check_prompts(limits: Limits, lengths: Sequence[int]) -> None:
    """Refuse sample prompts that the model has no positions for.

    Raises:
        Failure: one of them, whose `lengths` are in tokens, is too long.
    """
    for number, length in enumerate(lengths):
        if limits.positions is not None and length > limits.positions:
            raise Failure(
                Reason.CONFIG_INVALID,
                f"evaluation.samplePrompts[{number}] has {length} tokens but the model has {limits.positions} "
                "positions; shorten it",
            )


def check_vocabulary(limits: Limits, largest_token: int) -> None:
    """Refuse tokens that the model has no embedding for.

    Raises:
        Failure: a token is out of range.
    """
    if limits.vocabulary is not None and largest_token >= limits.vocabulary:
        raise Failure(
            Reason.CONFIG_INVALID,
            f"the tokenizer made token {largest_token} but the model's vocabulary has {limits.vocabulary} tokens; "
            "tokenizer and model do not belong together",
        )


def grown(limits: Limits, ids: Collection[int]) -> int | None:
    """Rows that the embedding gets for new tokens of these `ids`; None: it has rows for them, padding aside."""
    rows = rows_for(ids)
    return None if limits.vocabulary is not None and rows <= limits.vocabulary else rows or None


def _number(settings: dict[str, Any], key: str) -> int | None:
    value = settings.get(key)
    return value if isinstance(value, int) and value > 0 else None
