"""Verify on the model itself that it keeps packed documents apart: two documents in one row, and each alone."""

from dataclasses import dataclass
from typing import Any, Final

import torch

from sftjob_trainer.models.packing.check import CONVOLUTIONS

FIRST: Final = (5, 9, 4, 11, 7, 6, 10)
OTHER: Final = (12, 3, 8, 14, 13, 9, 5)
"""Another document of the same length, in place of the first."""
SECOND: Final = (6, 13, 3, 10, 8, 4, 12, 7, 11)
_TOLERANCES: Final = {False: (1e-4, 1e-4), True: (2e-2, 5e-2)}
"""How much the second document may depend on the first, and how far it may differ from itself alone, as shares of the
largest logit, by whether products are computed in 16 bits. Kernels and experts round differently for other shapes."""


@dataclass(frozen=True, kw_only=True)
class PackingProblem:
    """A clause of a message, and whether a model of other sizes and the same code would have the problem too."""

    clause: str
    in_code: bool


def packing_problem(model: Any, precision: torch.dtype) -> PackingProblem | None:
    """The problem with packed rows of `model`, which computes its products in `precision`; None if there is no problem.

    Documents are packed as by TRL's collator.

    Raises:
        torch.OutOfMemoryError: there is not enough memory for a row of a few tokens.
    """
    is_half = precision.itemsize == 2
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), torch.autocast(model.device.type, dtype=precision if is_half else None, enabled=is_half):
            return _problem(model, is_half=is_half)
    except torch.OutOfMemoryError:
        raise
    except (ValueError, TypeError, RuntimeError, ImportError, IndexError) as error:
        if CONVOLUTIONS in str(error):
            clause = f"its convolutions need the package {CONVOLUTIONS} in the image to keep documents apart"
            return PackingProblem(clause=clause, in_code=True)
        return PackingProblem(clause=f"it does not support packed rows: {str(error).splitlines()[0]}", in_code=False)
    finally:
        model.train(training)


def _problem(model: Any, *, is_half: bool) -> PackingProblem | None:
    packed, other_first = (_second_of_packed(model, first) for first in (FIRST, OTHER))
    alone = model(input_ids=torch.tensor([SECOND], device=model.device), use_cache=False).logits[0].float()
    scale = float(alone.abs().max())
    influence, difference = (_difference(packed, right, is_half=is_half) for right in (other_first, alone))
    max_influence, max_difference = (share * scale for share in _TOLERANCES[is_half])
    if not influence <= max_influence:  # also true for NaN
        return PackingProblem(clause="packed documents affect each other", in_code=True)
    if not difference <= max_difference:
        return PackingProblem(clause="a packed document is computed differently than alone", in_code=True)
    return None


def _difference(left: torch.Tensor, right: torch.Tensor, *, is_half: bool) -> float:
    """The largest difference of logits; in 16 bits that of the median token: rounding sends a few to other experts."""
    by_token = (left - right).abs().amax(dim=-1)
    return float(by_token.median() if is_half else by_token.max())


def _second_of_packed(model: Any, first: tuple[int, ...]) -> torch.Tensor:
    """Logits of the second document after `first`: (tokens, vocabulary)."""
    lengths = (len(first), len(SECOND))
    bounds = torch.tensor([0, lengths[0], sum(lengths)], dtype=torch.int32)
    inputs = {
        "input_ids": torch.tensor([[*first, *SECOND]]),
        "position_ids": torch.cat([torch.arange(length) for length in lengths])[None],
        "cu_seq_lens_q": bounds,
        "cu_seq_lens_k": bounds,
        "seq_idx": torch.repeat_interleave(torch.arange(2, dtype=torch.int32), torch.tensor(lengths))[None],
    }
    on_device = {name: tensor.to(model.device) for name, tensor in inputs.items()}
    longest = {"max_length_q": max(lengths), "max_length_k": max(lengths)}
    logits: torch.Tensor = model(**on_device, **longest, use_cache=False).logits[0, lengths[0] :]
    return logits.float()
