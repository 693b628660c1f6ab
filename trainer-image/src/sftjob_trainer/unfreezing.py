"""Full fine-tuning of some weights: which names are trained, and what stays as it is."""

import logging
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

from sftjob_contract.reasons import Reason
from sftjob_trainer.failure import Failure

logger = logging.getLogger(__name__)

FIELD: Final = "method.full.unfrozenParameters"
_NUMBER: Final = re.compile(r"(?<=\.)\d+(?=\.)")
_SHOWN: Final = 24


def pattern_problems(patterns: Sequence[str]) -> Iterator[str]:
    """What is no regular expression, one sentence each."""
    for pattern in patterns:
        try:
            re.compile(pattern)
        except (re.error, RecursionError) as error:
            yield f"{FIELD}: {pattern} is no regular expression: {error}"


def unfreeze(model: Any, patterns: Sequence[str]) -> None:
    """Train those weights of `model` whose names begin as one of `patterns` says, and no others.

    Raises:
        Failure: a pattern is of no weight.
    """
    named = list(model.named_parameters())
    names = [name for name, _ in named]
    for pattern in patterns:
        if not any(re.match(pattern, name) for name in names):
            raise Failure(
                Reason.CONFIG_INVALID, f"{FIELD}: {pattern} is the beginning of no weight; there are {_listed(names)}"
            )
    trained = 0
    for name, weights in named:
        weights.requires_grad_(any(re.match(pattern, name) for pattern in patterns))
        trained += weights.requires_grad
    logger.info("%d of %d weights are trained: those of %s", trained, len(named), ", ".join(patterns))


def _listed(names: Sequence[str]) -> str:
    """The distinct names, the numbers of layers left out."""
    distinct = list(dict.fromkeys(_NUMBER.sub("N", name) for name in names))
    return ", ".join(distinct[:_SHOWN] + ["..."] * (len(distinct) > _SHOWN))
