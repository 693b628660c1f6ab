"""Check on a few rows that a merged model, loaded again, computes what base and adapter compute."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from sftjob_contract import layout
from sftjob_contract.reasons import Reason
from sftjob_trainer.process.errors import StageError
from sftjob_trainer.tokens.tokenizer import NOT_TRAINED

MERGED_LOSS: Final = "mergedEvalLoss"
_COMPARED: Final = 4
"""Number of rows whose logits are compared."""
_ROWS: Final = 64
_TOKENS: Final = 512
"""Per row; the rest is left out."""
_SECONDS: Final = 120.0
"""Time limit for the rows of one model; no further row is started after it."""
_TOLERANCES: Final = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Tolerance for logits relative to their norm (L2): rounding of every weight and sum."""
_MAX_LOST_SHARE: Final = 0.1


@dataclass(frozen=True, kw_only=True)
class LabeledRow:
    """The tokens of a row, and those of them that have a label."""

    ids: Sequence[int]
    labels: Sequence[int]


@dataclass(frozen=True, kw_only=True)
class ModelOutputs:
    """A model's results on `rows` rows: logits of the first few, and the mean loss over all trained tokens."""

    logits: tuple[torch.Tensor, ...]
    loss: float
    rows: int


def read_rows(volume: Path) -> tuple[list[LabeledRow], bool]:
    """A few prepared rows, and whether they were held out. Of packed rows, the first document counts."""
    from datasets import load_from_disk

    held_out = (volume / layout.PREPARED_EVALUATION).is_dir()
    location = volume / (layout.PREPARED_EVALUATION if held_out else layout.PREPARED_TRAIN)
    if not location.is_dir():
        return [], held_out
    rows = load_from_disk(str(location))
    found = []
    for row in rows.select(range(min(_ROWS, len(rows)))):
        end = min(_TOKENS, *(row["seq_lengths"][:1] if "seq_lengths" in row else [_TOKENS]))
        found.append(LabeledRow(ids=row["input_ids"][:end], labels=row["labels"][:end]))
    return [row for row in found if any(label != NOT_TRAINED for label in row.labels[1:])], held_out


def compute_outputs(
    model: Any, rows: Sequence[LabeledRow], clock: Callable[[], float] = time.monotonic
) -> ModelOutputs:
    """The results of `model` on as many of `rows` as the time limit allows."""
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
    return ModelOutputs(logits=tuple(logits), loss=total / max(1, tokens), rows=done)


def check_agreement(unmerged: ModelOutputs, merged: ModelOutputs, dtype: torch.dtype) -> None:
    """Check that the merged model, with weights of `dtype`, computes what base and adapter compute.

    Raises:
        StageError: they differ by more than rounding.
    """
    allowed = _TOLERANCES.get(dtype, _TOLERANCES[torch.bfloat16])
    pairs = zip(unmerged.logits, merged.logits, strict=True)
    difference = max((float((left - right).norm() / left.norm()) for left, right in pairs), default=0.0)
    if not difference <= allowed:
        raise StageError(
            Reason.CONFIG_INVALID,
            f"output.mergeAdapter: the merged model does not compute what base and adapter do: logits of "
            f"{len(merged.logits)} rows are {100 * difference:.3g} % apart, and rounding to {_dtype_name(dtype)} "
            f"explains {100 * allowed:g} %; {layout.OUTPUT_ADAPTER} is complete: load it on its base, and write "
            "mergeAdapter: false",
        )


def merge_loss_warning(base: float, unmerged: float, merged: float, dtype: torch.dtype) -> str | None:
    """A warning if the merge lost more than a tenth of what training had gained; None otherwise."""
    gain, loss_increase = base - unmerged, merged - unmerged
    if gain <= 0 or loss_increase <= _MAX_LOST_SHARE * gain:
        return None
    advice = "" if dtype is torch.float32 else "; output.mergeDtype: float32 keeps them"
    return (
        f"the merge loses {100 * loss_increase / gain:.0f} % of what was learned: the loss is {merged:.4g} with the "
        f"merged model and {unmerged:.4g} with the adapter ({base:.4g} with the base), since changes smaller than the "
        f"rounding of {_dtype_name(dtype)} are lost{advice}"
    )


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
