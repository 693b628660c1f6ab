"""Attention by document: agrees with eager attention of each document alone, or the model keeps its own, by name."""

from typing import Any, Final

import pytest

from sftjob_trainer.models.hardware import VARLEN_ATTENTION
from sftjob_trainer.models.packing.check import PROVEN
from trainer.numerics.test_packing_isolation import FOUND, LEAKS, NEEDS_PACKAGE

LENGTHS: Final = (7, 1, 30, 12)
"""Of the documents in a row, some longer than the sliding window."""
WINDOW: Final = 12
"""More than the documents that a model is tried with."""
TOLERANCE: Final = 1e-5
"""Largest difference, as a share of the largest logit, or of the largest gradient of the same weights."""
NO_FLASH: Final = "it does not support flash attention"
OWN_CODE: Final = "its code has an attention of its own"
KEPT: Final[dict[str, tuple[str, str]]] = {
    "stablelm": ("sdpa", LEAKS),
    "codegen": ("eager", NO_FLASH),
    "gptj": ("eager", OWN_CODE),
    "llama4_text": ("sdpa", NO_FLASH),
    "gemma2": ("eager", "it does not support packed rows: varlen attention does not compute soft-capped scores"),
    "bloom": ("eager", NO_FLASH),
    "falcon": ("sdpa", OWN_CODE),
    **dict.fromkeys(("falcon_mamba", "mamba", "mamba2", "mpt", "rwkv", "xglm"), ("eager", NO_FLASH)),
    "gpt_oss": ("eager", "it does not support packed rows: varlen attention does not compute attention sinks"),
    **dict.fromkeys(("jamba", "minimax", "recurrent_gemma"), ("sdpa", LEAKS)),
    **dict.fromkeys((name for name, found in FOUND.items() if found == NEEDS_PACKAGE), ("sdpa", NEEDS_PACKAGE)),
}
"""The attention that a model keeps, and the reason, by model type; all others attend by document."""

pytestmark = pytest.mark.filterwarnings("ignore")


def small(model_type: str, *, windowed: bool = False) -> Any:
    """A small model in evaluation, with weights so large that attention matters; `windowed`: in every layer, if any."""
    import torch
    from transformers import CONFIG_MAPPING

    from sftjob_trainer.models.small_models import small_model

    config = CONFIG_MAPPING[model_type]()
    if windowed or getattr(config, "sliding_window", None):
        config.sliding_window = WINDOW
    if windowed:
        config.use_sliding_window, config.max_window_layers = True, 0
        if getattr(config, "layer_types", None):
            config.layer_types = ["sliding_attention"] * len(config.layer_types)
    model = small_model(config)
    assert model is not None, model_type
    with torch.no_grad():
        for weights in model.parameters():
            if weights.ndim > 1:
                weights.mul_(4)
    return model.eval()


def packed_row() -> dict[str, Any]:
    """A row of documents as TRL's collator makes it."""
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    rows = [{"input_ids": [3 + (17 * length + place) % 60 for place in range(length)]} for length in LENGTHS]
    batch = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)(rows)
    return {name: value for name, value in batch.items() if name != "labels"}


def logits_and_gradients(model: Any, compute: Any) -> tuple[Any, dict[str, Any]]:
    """Logits, and the gradients of a fixed weighting of them by the name of the weights."""
    import torch

    model.zero_grad()
    logits = compute()
    weighting = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
    (logits * weighting).mean().backward()
    return logits.detach(), {name: w.grad.clone() for name, w in model.named_parameters() if w.grad is not None}


def share(found: Any, expected: Any) -> float:
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-3))


@pytest.mark.parametrize("model_type", FOUND)
def test_documents_are_computed_as_alone_by_eager_attention_or_the_model_keeps_its_own(model_type: str) -> None:
    import torch

    from sftjob_trainer.models.packing.varlen_attention import use_varlen_attention

    model = small(model_type)
    reason = use_varlen_attention(model, torch.float32)
    if model_type in KEPT:
        assert (model.config._attn_implementation, reason) == KEPT[model_type]
    else:
        assert (model.config._attn_implementation, reason) == (VARLEN_ATTENTION, None)
        assert_computed_as_alone(model)


@pytest.mark.parametrize("model_type", ["mistral", "ministral", "phi3", "qwen2", "qwen3", "qwen3_moe", "starcoder2"])
def test_a_sliding_window_that_a_model_passes_to_its_attention_holds_in_packed_rows(model_type: str) -> None:
    import torch

    from sftjob_trainer.models.packing.varlen_attention import use_varlen_attention

    model = small(model_type, windowed=True)
    assert use_varlen_attention(model, torch.float32) is None
    assert_computed_as_alone(model)


@pytest.mark.parametrize("model_type", ["phimoe", "qwen2_moe"])
def test_a_model_whose_window_is_only_in_its_mask_keeps_its_own_attention(model_type: str) -> None:
    import torch

    from sftjob_trainer.models.packing.varlen_attention import use_varlen_attention

    model = small(model_type, windowed=True)
    before = model.config._attn_implementation
    assert use_varlen_attention(model, torch.float32) == "its sliding window is only in its mask"
    assert model.config._attn_implementation == before
    assert_computed_as_alone(model)


def assert_computed_as_alone(model: Any) -> None:
    """Logits and gradients of documents in a row are those of each alone, in eager attention."""
    import torch

    row = packed_row()

    found, gradients = logits_and_gradients(model, lambda: model(**row, use_cache=False).logits[0])
    model.set_attn_implementation("eager")
    alone = row["input_ids"].split(LENGTHS, dim=1)
    expected, expected_gradients = logits_and_gradients(
        model, lambda: torch.cat([model(input_ids=ids, use_cache=False).logits[0] for ids in alone])
    )

    assert share(found, expected) <= TOLERANCE
    assert max(share(gradients[name], expected_gradients[name]) for name in expected_gradients) <= TOLERANCE


def test_of_the_model_types_that_prepare_takes_unprobed_all_but_one_attend_by_document() -> None:
    assert PROVEN & KEPT.keys() == {"stablelm"}


@pytest.mark.parametrize("model_type", ["qwen2", "mistral"])
def test_rows_with_padding_and_generation_are_computed_as_by_sdpa(model_type: str) -> None:
    import torch

    from sftjob_trainer.models.packing.varlen_attention import use_varlen_attention

    model = small(model_type)
    assert use_varlen_attention(model, torch.float32) is None
    ids = torch.tensor([[0, 0, 5, 9, 4, 11], [7, 6, 10, 3, 8, 14]])
    prompt = {"input_ids": ids, "attention_mask": (ids != 0).long()}
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": 63}

    by_document = model(**prompt).logits[prompt["attention_mask"] == 1], model.generate(**prompt, **options)
    model.set_attn_implementation("sdpa")

    torch.testing.assert_close(by_document[0], model(**prompt).logits[prompt["attention_mask"] == 1])
    assert by_document[1].tolist() == model.generate(**prompt, **options).tolist()


@pytest.mark.parametrize(
    ("key_heads", "value_size", "window"), [(4, 8, None), (2, 8, None), (2, 8, 3), (4, 4, None), (1, 4, 5)]
)
def test_pytorchs_kernel_is_given_what_the_computation_on_a_cpu_uses(
    key_heads: int, value_size: int, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel itself needs a GPU; in its place is what its documentation says."""
    import torch

    from sftjob_trainer.models.packing import varlen_attention

    def documented(
        query: Any, key: Any, value: Any, bounds: Any, key_bounds: Any, *longest: int, **options: Any
    ) -> Any:
        assert longest == (max(LENGTHS), max(LENGTHS))
        assert bounds is key_bounds
        assert key.shape[-1] == value.shape[-1] == query.shape[-1]
        assert options["enable_gqa"] or query.shape[1] == key.shape[1]
        left, right = options["window_size"]
        place = torch.arange(len(query))
        document = torch.bucketize(place, bounds[1:], right=True)
        apart = place[:, None] - place[None, :]
        seen = (document[:, None] == document[None, :]) & (apart >= -right)
        if left >= 0:
            seen &= apart <= left
        repeats = query.shape[1] // key.shape[1]
        scores = torch.einsum("qhd,khd->hqk", query, key.repeat_interleave(repeats, 1)) * options["scale"]
        weights = scores.masked_fill(~seen, float("-inf")).softmax(-1)
        return torch.einsum("hqk,khd->qhd", weights, value.repeat_interleave(repeats, 1))

    monkeypatch.setattr(varlen_attention, "varlen_attn", documented)
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(1, heads, sum(LENGTHS), size, generator=generator)
        for heads, size in ((4, 8), (key_heads, 8), (key_heads, value_size))
    )
    rows = varlen_attention._Rows(
        bounds=packed_row()["cu_seq_lens_q"], longest=max(LENGTHS), scale=0.3, window=window, dropout=0.0
    )

    torch.testing.assert_close(
        varlen_attention._in_one_kernel(query, key, value, rows),
        varlen_attention._document_by_document(query, key, value, rows),
    )


def test_a_model_with_dropout_of_attention_keeps_its_own_on_a_gpu_which_has_no_kernel_for_it() -> None:
    from types import SimpleNamespace

    import torch

    from sftjob_trainer.models.packing.varlen_attention import use_varlen_attention

    text = SimpleNamespace(attention_chunk_size=None)
    model = SimpleNamespace(
        _supports_flash_attn=True,
        device=torch.device("cuda"),
        config=SimpleNamespace(get_text_config=lambda: text),
        modules=lambda: [SimpleNamespace(), SimpleNamespace(attention_dropout=0.1)],
    )

    assert use_varlen_attention(model, torch.bfloat16) == "PyTorch's kernel has no dropout of attention"


def test_a_model_whose_attention_is_in_chunks_keeps_its_own_since_only_its_mask_has_them() -> None:
    import torch

    from sftjob_trainer.models.packing.varlen_attention import use_varlen_attention

    model = small("qwen2")
    model.config.attention_chunk_size = 16

    assert use_varlen_attention(model, torch.float32) == "its attention is in chunks"
