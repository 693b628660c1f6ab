"""Every figure for Qwen2.5-0.5B, worked out by hand: 24 layers of width 896, MLP 4864, 14 heads of 64, 2 for keys."""

from dataclasses import replace
from typing import Any

import pytest

from sftjob_contract.run.config import Attention, Precision, RunConfig
from sftjob_contract.run.method import ComputeDtype, LoraBias, Method, Quantization, QuantizationType
from sftjob_contract.run.optimization import Optimizer
from sftjob_operator.plan import gpu_memory, trainable_parameters
from sftjob_operator.plan.tensors import linear_parameters
from support.jobs.model_shapes import QWEN_05B
from support.trainer.tiny import lora, run_config

MIB = 1 << 20
NF4 = Quantization(bits=4, type=QuantizationType.NF4, double_quantization=True, compute_dtype=ComputeDtype.BFLOAT16)
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
PER_LAYER = 2 * 896 * 896 + 2 * 896 * 128 + 3 * 896 * 4864
"""Weights of the linear layers of one layer: q and o, k and v, gate and up and down."""
TOKENS = 4 * 1024


def recipe(method: Method | None = None, **training: Any) -> RunConfig:
    """QLoRA on one GPU, 4 rows of 1024 tokens a step and device."""
    usual: dict[str, Any] = {
        "per_device_batch_size": 4,
        "gradient_accumulation_steps": 4,
        "max_length": 1024,
        "optimizer": Optimizer.PAGED_ADAMW_8BIT,
        "gradient_checkpointing": True,
    }
    method = method or lora(16, quantization=NF4, dropout=0.05)
    return replace(run_config(model="/m", dataset="/d", method=method, **{**usual, **training}), gpus=1)


FULL = Method(lora=None, quantization=None, distillation=None)


def test_the_model_has_all_its_parameters() -> None:
    norms, biases, embedding = 2 * 896, 896 + 2 * 128, 151_936 * 896
    assert 24 * (PER_LAYER + norms + biases) + 896 + embedding == QWEN_05B.parameters == 494_032_768
    assert linear_parameters(QWEN_05B) == 24 * PER_LAYER == 357_826_560


@pytest.mark.parametrize(
    ("targets", "rank", "expected"),
    [
        (("all-linear",), 1, 24 * (2 * (896 + 896) + 2 * (896 + 128) + 3 * (896 + 4864))),
        (("all-linear",), 4, 2_199_552),
        (("all-linear",), 16, 8_798_208),
        (ATTENTION, 16, 2_162_688),
        (("q_proj", "v_proj"), 8, 24 * 8 * ((896 + 896) + (896 + 128))),
        (("k_proj", "v_proj"), 48, 2_359_296),
        (("self_attn.q_proj",), 8, 24 * 8 * (896 + 896)),
        (("model.layers.3.self_attn.q_proj", "model.layers.4.self_attn.q_proj"), 8, 2 * 8 * (896 + 896)),
        (("query_key_value", "q_proj"), 8, 24 * 8 * (896 + 896)),
        (("query_key_value",), 8, 0),
    ],
)
def test_lora_trains_rank_times_in_and_out(targets: tuple[str, ...], rank: int, expected: int) -> None:
    assert trainable_parameters(lora(rank, target_modules=targets), QWEN_05B) == expected


def test_2_36_million_trainable_parameters_are_0_48_per_cent() -> None:
    """The figure of the 0.5B recipe; over attention and MLP layers, no one rank makes it."""
    trained = trainable_parameters(lora(48, target_modules=("k_proj", "v_proj")), QWEN_05B)
    assert trained / 1e6 == pytest.approx(2.36, abs=0.005)
    assert 100 * trained / (QWEN_05B.parameters + trained) == pytest.approx(0.48, abs=0.005)
    of_all_linear = [trainable_parameters(lora(rank), QWEN_05B) for rank in (4, 5)]
    assert of_all_linear == [2_199_552, 2_749_440]


@pytest.mark.parametrize(
    ("changes", "more"),
    [
        ({"dora": True}, 24 * (2 * 896 + 2 * 128 + 2 * 4864 + 896)),
        ({"bias": LoraBias.ALL}, 24 * (896 + 2 * 128)),
        ({"modules_to_save": ("lm_head",)}, 151_936 * 896),
        ({"modules_to_save": ("embed_tokens", "lm_head")}, 2 * 151_936 * 896),
        ({"modules_to_save": ("down_proj",)}, 24 * 4864 * 896),
    ],
)
def test_options_of_lora_add_what_they_train(changes: dict[str, Any], more: int) -> None:
    assert trainable_parameters(lora(4, **changes), QWEN_05B) == 2_199_552 + more


@pytest.mark.parametrize(
    ("tied", "changes", "matrices"),
    [
        (True, {}, 1),
        (True, {"modules_to_save": ("embed_tokens",)}, 1),
        (True, {"modules_to_save": ("embed_tokens", "lm_head")}, 2),
        (False, {}, 2),
        (False, {"modules_to_save": ("lm_head",)}, 2),
        (False, {"extra": {"trainable_token_indices": {"embed_tokens": [151_936]}}}, 1),
    ],
)
def test_tokens_that_are_new_to_the_model_add_embedding_and_head(
    tied: bool, changes: dict[str, Any], matrices: int
) -> None:
    shape = replace(QWEN_05B, vocabulary_size=151_938, tied_embeddings=tied, new_token_matrices=1 if tied else 2)

    assert trainable_parameters(lora(4, **changes), shape) == 2_199_552 + matrices * 151_938 * 896


def test_full_fine_tuning_trains_everything() -> None:
    assert trainable_parameters(FULL, QWEN_05B) == QWEN_05B.parameters


def test_the_qlora_recipe() -> None:
    memory = gpu_memory(recipe(), QWEN_05B, 1024)

    linear = 24 * PER_LAYER
    scales = linear // 64 + 4 * linear // (64 * 256)
    assert memory.weights == 2 * (494_032_768 - linear) + linear // 2 + scales == 457_004_096

    assert memory.adapter == 4 * 8_798_208
    assert memory.gradients == 4 * 8_798_208

    def two_states(elements: int) -> int:
        return 2 * (elements + 4 * elements // 256)

    narrow, wide, small = two_states(16 * 896), two_states(16 * 4864), 2 * 4 * 16 * 128
    assert memory.optimizer == 24 * (9 * narrow + 3 * wide + 2 * small) == 18_458_112

    norms, attention, mlp = 2 * 4 * 896, 2 * 2 * (896 + 128) + 4 * 14, 3 * 2 * 4864
    inputs = (2 + 1) * (6 * 896 + 4864)
    one_layer = norms + inputs + attention + mlp
    assert memory.activations == TOKENS * (23 * 2 * 896 + one_layer + 6 * 896) == 482_574_336

    assert memory.logits == TOKENS * 32_768 * 2 + TOKENS * 896 * (4 + 2) == 290_455_552

    assert memory.context == 512 * MIB
    assert memory.total == 1_855_748_672


def test_packed_sequences_are_in_memory_as_a_batch_or_one_at_a_time_where_attention_takes_the_whole_row() -> None:
    packed, batch, single = recipe(packing=True), recipe(), recipe(per_device_batch_size=1)
    assert gpu_memory(packed, QWEN_05B, 1024) == gpu_memory(batch, QWEN_05B, 1024)
    whole_row = replace(packed, model=replace(packed.model, attention=Attention.SDPA))
    assert gpu_memory(whole_row, QWEN_05B, 1024) == gpu_memory(single, QWEN_05B, 1024)


def test_attention_that_is_not_fused_stores_its_scores() -> None:
    fused = recipe(gradient_checkpointing=False)
    eager = replace(fused, model=replace(fused.model, attention=Attention.EAGER))
    more = gpu_memory(eager, QWEN_05B, 1024).activations - gpu_memory(fused, QWEN_05B, 1024).activations
    assert more == 4 * 24 * 14 * 1024 * 1024 * (4 + 2)


def test_full_fine_tuning_in_bf16() -> None:
    config = recipe(FULL, optimizer=Optimizer.ADAMW_TORCH_FUSED, gradient_checkpointing=False)
    memory = gpu_memory(config, QWEN_05B, 1024)
    parameters, linear = 494_032_768, 24 * PER_LAYER
    assert memory.weights == 4 * parameters + 2 * linear
    assert memory.adapter == 0
    assert memory.gradients == 4 * parameters
    assert memory.optimizer == 8 * parameters
    norms = 2 * (4 + 4) * 896
    casts = 2 * (5 * 896 + 4864)  # one for each of q, k, v, gate and up; what down reads is in 16 bits already
    attention, mlp = 2 * 2 * (896 + 128) + 4 * 14, 3 * 2 * 4864
    assert memory.activations == TOKENS * (24 * (norms + casts + attention + mlp) + 8 * 896)
    tile, cast, gradient = TOKENS * 32_768 * 2, 32_768 * 896 * 2, 4 * 151_936 * 896
    assert memory.logits == tile + cast + TOKENS * 896 * 8 + gradient


def test_full_fine_tuning_in_fp32_makes_no_casts() -> None:
    config = recipe(FULL, precision=Precision.FP32, gradient_checkpointing=False)
    norms, shared = 2 * (4 + 4) * 896, 4 * (2 * 896 + 4864)
    attention, mlp = 2 * 4 * (896 + 128) + 4 * 14, 3 * 4 * 4864
    activations = gpu_memory(config, QWEN_05B, 1024).activations
    assert activations == TOKENS * (24 * (norms + shared + attention + mlp) + 8 * 896)


def test_lora_without_quantization_keeps_frozen_weights_in_16_bits_and_adapters_in_32() -> None:
    memory = gpu_memory(recipe(lora(16), optimizer=Optimizer.ADAMW_TORCH), QWEN_05B, 1024)
    assert memory.weights == 2 * 494_032_768
    assert (memory.adapter, memory.gradients, memory.optimizer) == (4 * 8_798_208, 4 * 8_798_208, 8 * 8_798_208)


def test_eight_bits_a_weight_have_a_scale_for_each_row() -> None:
    eight = replace(NF4, bits=8)
    memory = gpu_memory(recipe(lora(16, quantization=eight)), QWEN_05B, 1024)
    linear, rows = 24 * PER_LAYER, 24 * (2 * 896 + 2 * 128 + 2 * 4864 + 896)
    assert memory.weights == 2 * (494_032_768 - linear) + linear + 4 * rows


def test_scales_that_are_not_quantized_themselves_take_half_a_bit_a_weight() -> None:
    plain = replace(NF4, double_quantization=False)
    linear = 24 * PER_LAYER
    memory = gpu_memory(recipe(lora(16, quantization=plain)), QWEN_05B, 1024)
    assert memory.weights == 2 * (494_032_768 - linear) + linear // 2 + linear // 16


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        (Optimizer.ADAMW_TORCH, 8 * 494_032_768),
        (Optimizer.ADAMW_TORCH_FUSED, 8 * 494_032_768),
        (Optimizer.SGD, 0),
        (Optimizer.PAGED_ADAMW_32BIT, 8 * (24 * (2 * 896 + 896 + 2 * 128) + 896)),  # norms and biases stay
        (Optimizer.PAGED_ADAMW_8BIT, 8 * (24 * (2 * 896 + 896 + 2 * 128) + 896)),
        (Optimizer.PAGED_LION_8BIT, 4 * (24 * (2 * 896 + 896 + 2 * 128) + 896)),
        (
            Optimizer.ADAMW_8BIT,
            8 * 151_936 * 896  # the embedding keeps 32 bits
            + 2 * (24 * PER_LAYER + 24 * PER_LAYER // 64)
            + 8 * (24 * (2 * 896 + 896 + 2 * 128) + 896),
        ),
        (
            Optimizer.LION_8BIT,
            4 * 151_936 * 896 + (24 * PER_LAYER + 24 * PER_LAYER // 64) + 4 * (24 * (2 * 896 + 896 + 2 * 128) + 896),
        ),
        (
            Optimizer.ADAFACTOR,
            4 * (151_936 + 896)
            + 4 * 24 * (2 * (896 + 896) + 2 * (896 + 128) + 3 * (896 + 4864))
            + 4 * (24 * (2 * 896 + 896 + 2 * 128) + 896),
        ),
    ],
)
def test_optimizers_keep_their_states(optimizer: Optimizer, expected: int) -> None:
    assert gpu_memory(recipe(FULL, optimizer=optimizer), QWEN_05B, 1024).optimizer == expected
