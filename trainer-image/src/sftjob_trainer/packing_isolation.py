"""Whether a model keeps packed documents apart, proven on the model itself: two documents in one row and each alone."""

from dataclasses import dataclass
from typing import Any, Final

import torch

from sftjob_trainer.packing_check import CONVOLUTIONS

FIRST: Final = (5, 9, 4, 11, 7, 6, 10)
OTHER: Final = (12, 3, 8, 14, 13, 9, 5)
"""Another document of the same length, in the place of the first."""
SECOND: Final = (6, 13, 3, 10, 8, 4, 12, 7, 11)
_TOLERANCES: Final = {False: (1e-4, 1e-4), True: (2e-2, 5e-2)}
"""What the second document may owe to the first, and how far it may be from itself alone, as shares of the largest
logit, by whether products are computed in 16 bits. Kernels and experts that see other shapes round otherwise."""


@dataclass(frozen=True, kw_only=True)
class PackingProblem:
    """A clause of a sentence, and whether a model of other sizes and the same code would have the problem too."""

    clause: str
    of_code: bool


def packing_problem(model: Any, precision: torch.dtype) -> PackingProblem | None:
    """What is wrong with packed rows of `model`, which computes its products in `precision`; None: nothing.

    Documents are packed as TRL's collator packs them.

    Raises:
        torch.OutOfMemoryError: there is no room for a row of a few tokens.
    """
    half = precision.itemsize == 2
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), torch.autocast(model.device.type, dtype=precision if half else None, enabled=half):
            return _problem(model, half=half)
    except torch.OutOfMemoryError:
        raise
    except (ValueError, TypeError, RuntimeError, ImportError, IndexError) as error:
        if CONVOLUTIONS in str(error):
            clause = f"its convolutions need the package {CONVOLUTIONS} in the image to keep documents apart"
            return PackingProblem(clause=clause, of_code=True)
        return PackingProblem(clause=f"it does not compute packed rows: {str(error).splitlines()[0]}", of_code=False)
    finally:
        model.train(training)


def _problem(model: Any, *, half: bool) -> PackingProblem | None:
    packed, disturbed = (_second_of_packed(model, first) for first in (FIRST, OTHER))
    alone = model(input_ids=torch.tensor([SECOND], device=model.device), use_cache=False).logits[0].float()
    scale = float(alone.abs().max())
    owed, apart = (_difference(packed, other, half=half) for other in (disturbed, alone))
    leak, offset = (share * scale for share in _TOLERANCES[half])
    if not owed <= leak:  # NaN too
        return PackingProblem(clause="packed documents see one another", of_code=True)
    if not apart <= offset:
        return PackingProblem(clause="a packed document is computed otherwise than alone", of_code=True)
    return None


def _difference(one: torch.Tensor, other: torch.Tensor, *, half: bool) -> float:
    """The largest difference of logits; in 16 bits that of the median token: rounding sends a few to other experts."""
    by_token = (one - other).abs().amax(dim=-1)
    return float(by_token.median() if half else by_token.max())


def _second_of_packed(model: Any, first: tuple[int, ...]) -> torch.Tensor:
    """Logits of the second document behind `first`: (tokens, vocabulary)."""
    lengths = (len(first), len(SECOND))
    bounds = torch.tensor([0, lengths[0], sum(lengths)], dtype=torch.int32)
    inputs = {
        "input_ids": torch.tensor([[*first, *SECOND]]),
        "position_ids": torch.cat([torch.arange(length) for length in lengths])[None],
        "cu_seq_lens_q": bounds,
        "cu_seq_lens_k": bounds,
        "seq_idx": torch.repeat_interleave(torch.arange(2, dtype=torch.int32), torch.tensor(lengths))[None],
    }
    placed = {name: tensor.to(model.device) for name, tensor in inputs.items()}
    longest = {"max_length_q": max(lengths), "max_length_k": max(lengths)}
    logits: torch.Tensor = model(**placed, **longest, use_cache=False).logits[0, lengths[0] :]
    return logits.float()
