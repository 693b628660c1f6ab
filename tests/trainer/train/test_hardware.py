"""What a run uses on which machine: decided from the config and facts about the machine alone."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sftjob_contract.reasons import Reason
from sftjob_contract.run.config import Attention, Kernels, ModelDtype, PackingStrategy, Precision, RunConfig
from sftjob_contract.run.method import ComputeDtype, Method, Quantization, QuantizationType
from sftjob_trainer.models.hardware import VARLEN_ATTENTION, Machine, choose, has_code_for
from sftjob_trainer.process.errors import StageError
from support.trainer.tiny import lora, run_config
from support.trainer.training import PEFT_IS_BEHIND, build_trainer, finish, job

CPU = Machine(gpu=None, capability=(0, 0), packages=frozenset())
ALL_PACKAGES = frozenset({"flash-attn", "flash-attn-3", "flash-attn-4", "liger_kernel"})
H100 = Machine(gpu="H100", capability=(9, 0), packages=ALL_PACKAGES)
A100 = replace(H100, gpu="A100", capability=(8, 0))
T4 = replace(H100, gpu="T4", capability=(7, 5))
V100 = replace(H100, gpu="V100", capability=(7, 0))
B200 = replace(H100, gpu="B200", capability=(10, 0))
BARE = replace(H100, packages=frozenset())
CUDA_13 = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120")
FULL = Method(lora=None, quantization=None, distillation=None)
QLORA = lora(
    quantization=Quantization(
        bits=4, type=QuantizationType.NF4, double_quantization=True, compute_dtype=ComputeDtype.BFLOAT16
    )
)


def config(
    gpus: int = 1,
    method: Method = FULL,
    dtype: ModelDtype = ModelDtype.AUTO,
    attention: Attention = Attention.AUTO,
    **training: Any,
) -> RunConfig:
    made = run_config(model="m", dataset="d", method=method, **training)
    return replace(made, gpus=gpus, model=replace(made.model, dtype=dtype, attention=attention))


@pytest.mark.parametrize(
    ("machine", "asked", "precision", "dtype"),
    [
        (CPU, config(gpus=0), Precision.FP32, ModelDtype.FLOAT32),
        (CPU, config(gpus=0, method=lora()), Precision.FP32, ModelDtype.FLOAT32),
        (CPU, config(gpus=0, method=lora(), precision=Precision.BF16), Precision.BF16, ModelDtype.BFLOAT16),
        (CPU, config(gpus=0, precision=Precision.BF16), Precision.BF16, ModelDtype.FLOAT32),
        (CPU, config(gpus=0, dtype=ModelDtype.BFLOAT16), Precision.FP32, ModelDtype.BFLOAT16),
        (A100, config(), Precision.BF16, ModelDtype.FLOAT32),
        (A100, config(method=lora()), Precision.BF16, ModelDtype.BFLOAT16),
        (A100, config(method=lora(), dtype=ModelDtype.FLOAT32), Precision.BF16, ModelDtype.FLOAT32),
        (A100, config(method=lora(), precision=Precision.FP16), Precision.FP16, ModelDtype.FLOAT16),
        (T4, config(method=lora()), Precision.FP16, ModelDtype.FLOAT16),
        (T4, config(method=QLORA), Precision.FP16, ModelDtype.FLOAT16),
        (V100, config(), Precision.FP16, ModelDtype.FLOAT32),
        (T4, config(precision=Precision.FP16), Precision.FP16, ModelDtype.FLOAT32),
        (T4, config(method=QLORA, precision=Precision.FP16), Precision.FP16, ModelDtype.FLOAT16),
    ],
)
def test_trained_weights_are_fp32_and_frozen_ones_are_as_precise_as_the_step(
    machine: Machine, asked: RunConfig, precision: Precision, dtype: ModelDtype
) -> None:
    found = choose(asked, machine)

    assert (found.precision, found.dtype) == (precision, dtype)


@pytest.mark.parametrize(
    ("machine", "asked", "attention", "liger"),
    [
        (CPU, config(gpus=0), None, False),
        (H100, config(), Attention.FLASH_ATTENTION_2, True),
        (A100, config(), Attention.FLASH_ATTENTION_2, True),
        (A100, config(precision=Precision.FP32), None, True),
        (T4, config(precision=Precision.FP16), None, True),
        (BARE, config(), None, False),
        (replace(H100, compiler=False), config(), Attention.FLASH_ATTENTION_2, False),
        (H100, config(attention=Attention.SDPA, kernels=Kernels.NONE), Attention.SDPA, False),
        (H100, config(attention=Attention.FLASH_ATTENTION_3), Attention.FLASH_ATTENTION_3, True),
        (A100, config(attention=Attention.FLASH_ATTENTION_3), Attention.FLASH_ATTENTION_3, True),
        (H100, config(attention=Attention.FLASH_ATTENTION_4), Attention.FLASH_ATTENTION_4, True),
        (B200, config(attention=Attention.FLASH_ATTENTION_4), Attention.FLASH_ATTENTION_4, True),
        (B200, config(), Attention.FLASH_ATTENTION_2, True),
        (H100, config(attention=Attention.FLEX_ATTENTION), Attention.FLEX_ATTENTION, True),
        (CPU, config(gpus=0, attention=Attention.EAGER), Attention.EAGER, False),
    ],
)
def test_auto_takes_the_fast_kernels_that_image_and_gpu_have(
    machine: Machine, asked: RunConfig, attention: Attention | None, liger: bool
) -> None:
    found = choose(asked, machine)

    assert (found.attention, found.liger) == (attention, liger)


@pytest.mark.parametrize(
    ("machine", "asked", "attention"),
    [
        (CPU, config(gpus=0, packing=True), VARLEN_ATTENTION),
        (CPU, config(gpus=0, packing=True, compile=True), None),
        (CPU, config(gpus=0, packing=True, packing_strategy=PackingStrategy.WRAPPED), None),
        (CPU, config(gpus=0, packing=True, attention=Attention.SDPA), Attention.SDPA),
        (BARE, config(packing=True), VARLEN_ATTENTION),
        (BARE, config(packing=True, compile=True), VARLEN_ATTENTION),
        (H100, config(packing=True), VARLEN_ATTENTION),
        (H100, config(packing=True, attention=Attention.FLASH_ATTENTION_3), Attention.FLASH_ATTENTION_3),
        (A100, config(packing=True, precision=Precision.FP32), None),
        (T4, config(packing=True), None),
    ],
)
def test_auto_computes_packed_rows_document_by_document_where_pytorch_has_a_kernel_for_it(
    machine: Machine, asked: RunConfig, attention: str | None
) -> None:
    chosen = choose(asked, machine)

    assert chosen.attention == attention
    flash = Attention.FLASH_ATTENTION_2 if machine is H100 else None
    assert chosen.loaded_attention == (flash if attention == VARLEN_ATTENTION else attention)


def test_what_auto_chose_is_told_with_its_reason() -> None:
    assert choose(config(), BARE).reasons == (
        "precision bf16: H100 has bf16",
        "weights loaded as float32: they are trained, and 16-bit updates are lost in rounding",
        "attention as the model has it by default: flash_attention_2 needs the package flash-attn in the image",
        "kernels none: liger needs the package liger_kernel in the image",
    )
    assert choose(config(method=lora()), A100).reasons == (
        "precision bf16: A100 has bf16",
        "weights loaded as bfloat16: they are not trained, and need no more than the step",
        "attention flash_attention_2: image and GPU have it",
        "kernels liger: image and GPU have it",
    )
    assert choose(config(), T4).reasons[0] == "precision fp16: T4 has no bf16, so the loss is scaled"
    assert choose(config(gpus=0), CPU).reasons[0] == "precision fp32: training runs on the CPU"


def test_what_was_asked_for_is_told_as_such() -> None:
    asked = config(dtype=ModelDtype.FLOAT32, attention=Attention.SDPA, precision=Precision.BF16, kernels=Kernels.NONE)
    assert choose(asked, A100).reasons == (
        "precision bf16: as configured",
        "weights loaded as float32: as configured",
        "attention sdpa: as configured",
        "kernels none: as configured",
    )


@pytest.mark.parametrize(
    ("machine", "asked", "sentence"),
    [
        (CPU, config(), "resources.gpus: 1 was requested, but no CUDA device is visible in the container"),
        (
            A100,
            config(gpus=2),
            "resources.gpus: 2 was requested, but the container sees only 1 CUDA devices; check that",
        ),
        (CPU, config(gpus=0, precision=Precision.FP16), "training.precision: fp16 needs a GPU; write bf16, fp32 or"),
        (
            T4,
            config(precision=Precision.BF16),
            "training.precision: bf16 needs a GPU of compute capability 8.0 or more, which T4 is not; ",
        ),
        (CPU, config(gpus=0, method=lora(), dtype=ModelDtype.FLOAT16), "model.dtype: float16 needs a GPU; write bfl"),
        (A100, config(dtype=ModelDtype.FLOAT16), "model.dtype: float16 is too coarse for weights that are trained"),
        (
            A100,
            config(dtype=ModelDtype.BFLOAT16, precision=Precision.FP16),
            "model.dtype: bfloat16 cannot be combined with training.precision: fp16",
        ),
        (CPU, config(gpus=0, attention=Attention.FLEX_ATTENTION), "model.attention: flex_attention cannot train on "),
        (
            CPU,
            config(gpus=0, attention=Attention.FLASH_ATTENTION_2),
            "model.attention: flash_attention_2 needs a GPU; write sdpa, eager or auto",
        ),
        (
            BARE,
            config(attention=Attention.FLASH_ATTENTION_2),
            "model.attention: flash_attention_2 needs the package flash-attn in the image; write sdpa",
        ),
        (
            B200,
            config(attention=Attention.FLASH_ATTENTION_3),
            "model.attention: flash_attention_3 needs a GPU of compute capability 8.0 or more and below 10.0, which ",
        ),
        (
            A100,
            config(attention=Attention.FLASH_ATTENTION_4),
            "model.attention: flash_attention_4 needs a GPU of compute capability 9.0 or more and below 12.0, which ",
        ),
        (
            replace(H100, packages=frozenset({"flash-attn-4"})),
            config(attention=Attention.FLASH_ATTENTION_2),
            "model.attention: flash_attention_2 needs the package flash-attn in the image; write sdpa",
        ),
        (
            replace(V100, architectures=CUDA_13, cuda="13.0"),
            config(),
            (
                "resources.gpus: the node has V100 (sm_70), but the PyTorch of this image is built for sm_75, sm_80, "
                "sm_86, sm_90, sm_100, sm_120 (its PyTorch is built for CUDA 13.0, which needs driver R580 or newer);"
            ),
        ),
        (
            replace(CPU, cuda="13.0"),
            config(),
            (
                "resources.gpus: 1 was requested, but no CUDA device is visible in the container; write 0 to train on "
                "the CPU, or check the node's GPU driver and device plugin (its PyTorch is built for CUDA 13.0, which "
            ),
        ),
        (
            A100,
            config(attention=Attention.FLASH_ATTENTION_2, precision=Precision.FP32),
            "model.attention: flash_attention_2 needs training.precision: bf16 or fp16",
        ),
        (CPU, config(gpus=0, kernels=Kernels.LIGER), "training.kernels: liger needs a GPU; write none or auto"),
        (BARE, config(kernels=Kernels.LIGER), "training.kernels: liger needs the package liger_kernel in the image"),
    ],
)
def test_what_machine_or_image_do_not_have_is_refused_in_a_sentence(
    machine: Machine, asked: RunConfig, sentence: str
) -> None:
    with pytest.raises(StageError) as raised:
        choose(asked, machine)

    is_there = not sentence.startswith("resources.gpus")
    assert raised.value.reason is (Reason.CONFIG_INVALID if is_there else Reason.GPU_UNAVAILABLE)
    assert raised.value.message.startswith(sentence)


@pytest.mark.parametrize(
    ("capability", "built", "runs"),
    [
        *(((7, 0), CUDA_13, False), ((6, 1), CUDA_13, False), ((7, 5), CUDA_13, True), ((8, 9), CUDA_13, True)),
        *(((9, 0), CUDA_13, True), ((10, 3), CUDA_13, True), ((11, 0), CUDA_13, False), ((12, 1), CUDA_13, True)),
        ((7, 0), ("sm_50", "sm_60", "sm_70"), True),
        ((9, 0), ("sm_80", "compute_80"), True),
        ((7, 0), ("sm_80", "compute_80"), False),
        ((9, 0), ("sm_80", "sm_90a"), True),
        ((10, 3), ("sm_90a", "sm_100a"), False),
        ((9, 4), ("gfx90a", "gfx942"), True),
        ((9, 0), (), True),
    ],
)
def test_a_gpu_is_taken_where_pytorch_has_code_for_it(
    capability: tuple[int, int], built: tuple[str, ...], runs: bool
) -> None:
    assert has_code_for(capability, built) is runs


@PEFT_IS_BEHIND
@pytest.mark.parametrize(
    ("dtype", "loaded", "trained"),
    [(ModelDtype.BFLOAT16, "torch.bfloat16", "torch.float32"), (ModelDtype.FLOAT32, "torch.float32", "torch.float32")],
)
def test_frozen_weights_have_the_dtype_that_is_asked_for_and_adapters_are_fp32(
    qwen2: Path, tmp_path: Path, dtype: ModelDtype, loaded: str, trained: str
) -> None:
    made = job(qwen2, method=lora(), max_steps=2)

    model = build_trainer(tmp_path, replace(made, model=replace(made.model, dtype=dtype))).model

    assert {str(weights.dtype) for weights in model.parameters() if not weights.requires_grad} == {loaded}
    assert {str(weights.dtype) for weights in model.parameters() if weights.requires_grad} == {trained}


def test_weights_loaded_as_bf16_are_trained_and_saved_as_bf16(qwen2: Path, tmp_path: Path) -> None:
    from safetensors import safe_open

    made = job(qwen2, max_steps=3, learning_rate=1e-2)

    outcome = finish(tmp_path, replace(made, model=replace(made.model, dtype=ModelDtype.BFLOAT16))).outcome

    assert outcome.output is not None
    assert outcome.output.metrics["evalLoss"] < outcome.output.metrics["initialEvalLoss"]
    with safe_open(tmp_path / "output/model/model.safetensors", "pt") as weights:
        assert {weights.get_slice(name).get_dtype() for name in weights.keys()} == {"BF16"}  # noqa: SIM118 -- not a dict


@pytest.mark.parametrize("attention", [Attention.EAGER, Attention.SDPA])
def test_the_model_computes_attention_as_asked(
    qwen2: Path, tmp_path: Path, attention: Attention, caplog: pytest.LogCaptureFixture
) -> None:
    made = job(qwen2, max_steps=2)
    caplog.set_level(logging.INFO)

    model = build_trainer(tmp_path, replace(made, model=replace(made.model, attention=attention))).model

    assert model.config._attn_implementation == attention.value
    assert f"attention is computed by {attention}" in caplog.text


def test_a_model_without_the_attention_that_auto_chose_gets_its_own(
    qwen2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Flash attention is not installed where this runs, so that loading with it fails as for a model without it."""
    from sftjob_trainer.models import hardware
    from sftjob_trainer.training import build

    def with_flash(asked: RunConfig, machine: Machine) -> hardware.Choices:
        return replace(hardware.choose(asked, machine), attention=Attention.FLASH_ATTENTION_2)

    monkeypatch.setattr(build, "choose", with_flash)
    with caplog.at_level(logging.INFO):
        model = build_trainer(tmp_path, job(qwen2, max_steps=2)).model

    assert model.config._attn_implementation == "sdpa"
    assert "the model does not take flash_attention_2 and gets its default" in caplog.text
