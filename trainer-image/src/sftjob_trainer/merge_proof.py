"""Whether a merged model, loaded again, computes on a few rows what base and adapter do."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from sftjob_contract import layout
from sftjob_contract.reasons import Reason
from sftjob_trainer.failure import Failure
from sftjob_trainer.tokenization import NOT_TRAINED

MERGED_LOSS: Final = "mergedEvalLoss"
_COMPARED: Final = 4
"""Rows whose logits are compared."""
_ROWS: Final = 64
_TOKENS: Final = 512
"""Of a row; what follows is left out."""
_SECONDS: Final = 120.0
"""Time for the rows of one model, after which no other row is begun."""
_SHARES: Final = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""How far logits may be apart, as a share of their length (L2): rounding of every weight and sum."""
_LOST_SHARE: Final = 0.1


@dataclass(frozen=True, kw_only=True)
class Row:
    """Tokens, and those of them that have a label."""

    ids: Sequence[int]
    labels: Sequence[int]


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What a model makes of `rows` rows: logits of the first few, and the mean loss over all trained tokens."""

    logits: tuple[torch.Tensor, ...]
    loss: float
    rows: int


def read_rows(volume: Path) -> tuple[list[Row], bool]:
    """A few rows as they were prepared, and whether they were held out. Of packed ones the first document counts."""
    from datasets import load_from_disk

    held_out = (volume / layout.PREPARED_EVALUATION).is_dir()
    place = volume / (layout.PREPARED_EVALUATION if held_out else layout.PREPARED_TRAIN)
    if not place.is_dir():
        return [], held_out
    rows = load_from_disk(str(place))
    found = []
    for row in rows.select(range(min(_ROWS, len(rows)))):
        end = min(_TOKENS, *(row["seq_lengths"][:1] if "seq_lengths" in row else [_TOKENS]))
        found.append(Row(ids=row["input_ids"][:end], labels=row["labels"][:end]))
    return [row for row in found if any(label != NOT_TRAINED for label in row.labels[1:])], held_out


def answers(model: Any, rows: Sequence[Row], clock: Callable[[], float] = time.monotonic) -> Answers:
    """What `model` makes of as many of `rows` as there is time for."""
    started, total, tokens, logits = clock(), 0.0, 0, []
    done = 0
    model.eval()
    for row in rows:
        if done and clock() - started > _SECONDS:
            break
        with torch.no_grad():
            found = model(input_ids=torch.tensor([row.ids]), use_cache=False).logits[0].float()
        labels = torch.tensor(row.labels)[1:]
        losses = torch.nn.functional.cross_entropy(found[:-1], labels, reduction="sum", ignore_index=NOT_TRAINED)
        total += float(losses)
        tokens += int((labels != NOT_TRAINED).sum())
        if done < _COMPARED:
            logits.append(found)
        done += 1
    return Answers(logits=tuple(logits), loss=total / max(1, tokens), rows=done)


def check_agreement(unmerged: Answers, merged: Answers, dtype: torch.dtype) -> None:
    """See that the merged model, whose weights are of `dtype`, computes what base and adapter do.

    Raises:
        Failure: they differ by more than rounding.
    """
    allowed = _SHARES.get(dtype, _SHARES[torch.bfloat16])
    pairs = zip(unmerged.logits, merged.logits, strict=True)
    apart = max((float((one - two).norm() / one.norm()) for one, two in pairs), default=0.0)
    if not apart <= allowed:
        raise Failure(
            Reason.CONFIG_INVALID,
            f"output.mergeAdapter: the merged model does not compute what base and adapter do: logits of "
            f"{len(merged.logits)} rows are {100 * apart:.3g} % apart, and rounding to {_name(dtype)} explains "
            f"{100 * allowed:g} %; {layout.OUTPUT_ADAPTER} is complete: load it on its base, and write "
            "mergeAdapter: false",
        )


def loss_of_merging(base: float, unmerged: float, merged: float, dtype: torch.dtype) -> str | None:
    """A sentence where the merge took back more than a tenth of what training had gained; None where it did not."""
    gained, lost = base - unmerged, merged - unmerged
    if gained <= 0 or lost <= _LOST_SHARE * gained:
        return None
    advice = "" if dtype is torch.float32 else "; output.mergeDtype: float32 keeps them"
    return (
        f"the merge loses {100 * lost / gained:.0f} % of what was learned: the loss is {merged:.4g} with the merged "
        f"model and {unmerged:.4g} with the adapter ({base:.4g} with the base), since changes smaller than the "
        f"rounding of {_name(dtype)} are lost{advice}"
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
