"""Attention that computes each document of a packed row by itself, registered with transformers as `varlen`.

A packed row then needs no mask, whose size grows with the square of the row. On a GPU PyTorch's flash kernel for
variable lengths does it (https://docs.pytorch.org/docs/stable/nn.attention.varlen.html); on a CPU, scaled dot product
attention document by document. Rows with padding, and generation, are computed as by `sdpa`.
"""

from dataclasses import dataclass
from typing import Any, Final

import torch
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from sftjob_trainer.models.hardware import VARLEN_ATTENTION
from sftjob_trainer.models.packing.isolation import packing_problem

_NOT_COMPUTED: Final = {
    "softcap": "soft-capped scores",
    "s_aux": "attention sinks",
    "position_bias": "position biases",
}
"""Arguments of attention functions that neither kernel supports, and what they are."""
_DROPOUTS: Final = ("attention_dropout", "attn_dropout", "attn_pdrop", "dropout_p")
"""Names of the rate in transformers' attention layers."""


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """How a packed row is attended: `bounds` are where its documents start and end; `window` tokens see each other."""

    bounds: torch.Tensor
    longest: int
    scale: float | None
    window: int | None
    dropout: float


def use_varlen_attention(model: Any, precision: torch.dtype) -> str | None:
    """Let `model` compute packed rows document by document; if it cannot, change nothing and return the reason.

    It is tried on the model itself in `precision`, since any model's code may ignore document boundaries.

    Raises:
        torch.OutOfMemoryError: there is not enough memory for a row of a few tokens.
    """
    reason = _without_trying(model)
    if reason is not None:
        return reason
    windows = _Windows()
    AttentionInterface.register(VARLEN_ATTENTION, windows.attention)
    AttentionMaskInterface.register(VARLEN_ATTENTION, windows.mask)
    before = model.config._attn_implementation  # noqa: SLF001 -- see load.attention_of
    model.set_attn_implementation(VARLEN_ATTENTION)
    if model.config._attn_implementation != VARLEN_ATTENTION:  # noqa: SLF001
        return "its code has an attention of its own"
    problem = packing_problem(model, precision)
    AttentionInterface.register(VARLEN_ATTENTION, varlen_attention)
    AttentionMaskInterface.register(VARLEN_ATTENTION, varlen_mask)
    reason = windows.problem if problem is None else problem.clause
    if reason is not None:
        model.set_attn_implementation(before)
    return reason


def _without_trying(model: Any) -> str | None:
    """What a forward pass of a few tokens does not show.

    Only models that support flash attention pass what a mask says as arguments. Chunks are only in the mask.
    """
    if not model._supports_flash_attn:  # noqa: SLF001 -- transformers has no public name for it
        return "it does not support flash attention"
    config = model.config.get_text_config()
    if getattr(config, "attention_chunk_size", None) is not None:
        return "its attention is in chunks"
    if model.device.type == "cuda" and any(
        isinstance(rate := getattr(module, name, None), float) and rate > 0
        for module in model.modules()
        for name in _DROPOUTS
    ):
        return "PyTorch's kernel has no dropout of attention"
    return None


class _Windows:
    """The kernel's functions, which record the sliding windows in masks and in the arguments of attention.

    transformers passes the window of a mask as `local_size`. A few models pass it to no attention function.
    """

    def __init__(self) -> None:
        self._masked: set[int] = set()
        self._passed: set[int | None] = set()

    def mask(self, **arguments: Any) -> torch.Tensor | None:
        """See varlen_mask."""
        if window := arguments.get("local_size"):  # 0: none
            self._masked.add(window)
        return varlen_mask(**arguments)

    def attention(self, *tensors: Any, **options: Any) -> tuple[torch.Tensor, None]:
        """See varlen_attention."""
        self._passed.add(options.get("sliding_window"))
        return varlen_attention(*tensors, **options)

    @property
    def problem(self) -> str | None:
        """The reason for which windows would be lost; None if they would not."""
        return "its sliding window is only in its mask" if self._masked - self._passed else None


def varlen_mask(**arguments: Any) -> torch.Tensor | None:
    """The mask of `sdpa`, except for packed rows, which need none. Arguments as of transformers' mask functions.

    transformers neither pads nor allows causality alone for packed rows; a mask function of a model's own comes with
    `use_vmap`.
    """
    is_packed = (
        arguments.get("attention_mask") is None
        and not arguments.get("allow_is_causal_skip", True)
        and not arguments.get("use_vmap", False)
        and arguments["q_length"] == arguments["kv_length"] > 1
    )
    return None if is_packed else sdpa_mask(**arguments)


def varlen_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of transformers' AttentionInterface: heads are dimension 1 of its inputs and 2 of its output.

    Packed rows come with `cu_seq_lens_q` (documents + 1) and `max_length_q`, as from TRL's collator.

    Raises:
        ValueError: the model needs what the kernel does not compute.
    """
    bounds = options.get("cu_seq_lens_q")
    if attention_mask is not None or bounds is None or query.shape[2] != key.shape[2]:
        output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        return output, None
    is_causal = options.get("is_causal")
    if not (getattr(module, "is_causal", True) if is_causal is None else is_causal):
        raise ValueError(f"{VARLEN_ATTENTION} attention does not compute attention to later tokens")
    for name, what in _NOT_COMPUTED.items():
        if options.get(name) is not None:
            raise ValueError(f"{VARLEN_ATTENTION} attention does not compute {what}")
    rows = _Rows(
        bounds=bounds,
        longest=int(options["max_length_q"]),
        scale=options.get("scaling"),
        window=options.get("sliding_window"),
        dropout=options.get("dropout") or 0.0,
    )
    compute = _in_one_kernel if query.is_cuda else _document_by_document
    return compute(query, key, value, rows), None


def _document_by_document(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rows: _Rows) -> torch.Tensor:
    lengths = rows.bounds.diff().tolist()
    documents = zip(*(heads.split(lengths, dim=2) for heads in (query, key, value)), strict=True)
    computed = []
    for length, (queries, keys, values) in zip(lengths, documents, strict=True):
        mask = None if rows.window is None or length <= rows.window else _band(length, rows.window)
        computed.append(
            scaled_dot_product_attention(
                queries,
                keys,
                values,
                attn_mask=mask,
                dropout_p=rows.dropout,
                is_causal=mask is None,
                scale=rows.scale,
                enable_gqa=query.shape[1] != key.shape[1],
            )
        )
    return torch.cat(computed, dim=2).transpose(1, 2).contiguous()


def _band(length: int, window: int) -> torch.Tensor:
    """The mask of a document longer than the sliding window: each token sees itself and the window - 1 before it."""
    return torch.ones(length, length, dtype=torch.bool).tril().triu(1 - window)


def _in_one_kernel(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rows: _Rows) -> torch.Tensor:
    """The kernel does not compute in fp32, which norms of queries may leave, and has one size for all heads."""
    if rows.dropout or query.shape[0] != 1:
        raise ValueError(f"{VARLEN_ATTENTION} attention computes one row at a time on a GPU, and has no dropout")
    device, size = query.device.type, value.shape[-1]
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else value.dtype
    if size != query.shape[-1]:
        value = pad(value, [0, query.shape[-1] - size])
    queries, keys, values = (heads[0].transpose(0, 1).to(dtype) for heads in (query, key, value))
    computed: Any = varlen_attn(
        queries,
        keys,
        values,
        rows.bounds,
        rows.bounds,
        rows.longest,
        rows.longest,
        scale=rows.scale,
        window_size=(-1 if rows.window is None else rows.window - 1, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    attended: torch.Tensor = computed[None, :, :, :size]
    return attended
