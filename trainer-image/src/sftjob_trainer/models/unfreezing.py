"""Full fine-tuning of some weights: which names are trained, and which weights stay frozen."""

import logging
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

from sftjob_contract.reasons import Reason
from sftjob_trainer.process.errors import StageError

logger = logging.getLogger(__name__)

FIELD: Final = "method.full.unfrozenParameters"
_NUMBER: Final = re.compile(r"(?<=\.)\d+(?=\.)")
_MAX_SHOWN: Final = 24


def pattern_problems(patterns: Sequence[str]) -> Iterator[str]:
    """Invalid regular expressions, one sentence each."""
    for pattern in patterns:
        try:
            re.compile(pattern)
        except (re.error, RecursionError) as error:
            yield f"{FIELD}: {pattern} is not a valid regular expression: {error}"


def unfreeze(model: Any, patterns: Sequence[str]) -> None:
    """Train the weights of `model` whose names match one of `patterns` at the beginning, and no others.

    Raises:
        StageError: a pattern matches no weight.
    """
    named = list(model.named_parameters())
    names = [name for name, _ in named]
    for pattern in patterns:
        if not any(re.match(pattern, name) for name in names):
            raise StageError(
                Reason.CONFIG_INVALID,
                f"{FIELD}: {pattern} matches the beginning of no weight; the model has {_list_names(names)}",
            )
    trained = 0
    for name, weights in named:
        weights.requires_grad_(any(re.match(pattern, name) for pattern in patterns))
        trained += weights.requires_grad
    logger.info("%d of %d weights are trained: those of %s", trained, len(named), ", ".join(patterns))


def _list_names(names: Sequence[str]) -> str:
    """The distinct names, without layer numbers."""
    distinct = list(dict.fromkeys(_NUMBER.sub("N", name) for name in names))
    return ", ".join(distinct[:_MAX_SHOWN] + ["..."] * (len(distinct) > _MAX_SHOWN))
