"""Documents that are packed together stay apart, or the job is refused: architectures of transformers, one by one."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from sftjob_contract.reasons import Reason
from sftjob_contract.run.config import Attention, RunConfig
from sftjob_trainer.models.hardware import Choices, choose, this_machine
from sftjob_trainer.models.packing import check as packing_check
from sftjob_trainer.models.packing.check import PROVEN, check_packing
from sftjob_trainer.process.errors import StageError
from support.trainer.tiny import run_config

LEAKS: Final = "packed documents affect each other"
NEEDS_PACKAGE: Final = "its convolutions need the package causal_conv1d in the image to keep documents apart"
FOUND: Final[dict[str, str | None]] = {
    **dict.fromkeys(sorted(PROVEN)),
    **dict.fromkeys(("apertus", "arcee", "bitnet", "codegen", "deepseek_v3", "ernie4_5", "glm4_moe", "gpt_bigcode")),
    **dict.fromkeys(("gptj", "granitemoe", "helium", "hunyuan_v1_dense", "lfm2", "llama4_text", "ministral", "olmo")),
    **dict.fromkeys(("gemma2", "olmoe", "persimmon", "phimoe", "seed_oss")),
    **dict.fromkeys(("bloom", "falcon", "falcon_mamba", "gpt_oss", "jamba", "mamba", "mamba2", "minimax"), LEAKS),
    **dict.fromkeys(("mpt", "opt", "recurrent_gemma", "rwkv", "xglm"), LEAKS),
    **dict.fromkeys(("bamba", "falcon_h1", "granitemoehybrid", "nemotron_h", "olmo_hybrid"), NEEDS_PACKAGE),
    **dict.fromkeys(("qwen3_next", "qwen3_5_text"), NEEDS_PACKAGE),
}
"""What the probe finds, by model type, with attention as the model has it by default on a CPU."""

pytestmark = pytest.mark.filterwarnings("ignore")


def small(model_type: str, attention: str | None = None) -> Any:
    from transformers import CONFIG_MAPPING

    from sftjob_trainer.models.small_models import small_model

    model = small_model(CONFIG_MAPPING[model_type](), attention)
    assert model is not None, model_type
    return model


def problem(model: Any, dtype: str = "float32") -> str | None:
    import torch

    from sftjob_trainer.models.packing.isolation import packing_problem

    found = packing_problem(model, getattr(torch, dtype))
    return None if found is None else found.clause


@pytest.mark.parametrize("model_type", FOUND)
def test_packed_documents_stay_apart_or_the_probe_says_so(model_type: str) -> None:
    assert problem(small(model_type)) == FOUND[model_type]


@pytest.mark.parametrize("model_type", sorted(PROVEN))
def test_what_prepare_takes_unprobed_keeps_documents_apart_in_either_attention(model_type: str) -> None:
    for attention in ("eager", "sdpa"):
        model = small(model_type, attention)
        assert model.config._attn_implementation == attention
        assert problem(model) is None


@pytest.mark.parametrize("model_type", ["llama", "mixtral", "qwen3_moe", "opt", "gpt_oss", "mamba"])
def test_the_probe_says_the_same_of_a_model_in_16_bits(model_type: str) -> None:
    import torch

    model = small(model_type)
    with torch.no_grad():
        for weights in model.parameters():  # as large as trained ones: small random weights hardly attend
            weights.mul_(4)

    assert problem(model.bfloat16(), "bfloat16") == FOUND[model_type]


def test_a_model_whose_positions_go_on_over_documents_is_found() -> None:
    """Isolated, but computed otherwise than alone."""
    import torch

    model = small("llama")
    inner = model.model.rotary_emb.forward
    model.model.rotary_emb.forward = lambda hidden, position_ids: inner(
        hidden, torch.arange(hidden.shape[1])[None] * (1 + position_ids.shape[1] % 3)
    )
    assert problem(model) == "a packed document is computed differently than alone"


def packed(directory: Path, **changes: Any) -> RunConfig:
    config = run_config(model=str(directory), dataset="d", packing=True, **changes)
    return replace(config, model=replace(config.model, source="hf://org/name"))


@pytest.fixture
def directory(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    from transformers import CONFIG_MAPPING

    CONFIG_MAPPING[request.param]().save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("directory", "sentence"),
    [
        (
            "opt",
            (
                f"training.packing: true cannot be combined with hf://org/name (opt): {LEAKS}; "
                "write training.packing: false"
            ),
        ),
        (
            "qwen3_next",
            f"training.packing: true cannot be combined with hf://org/name (qwen3_next): {NEEDS_PACKAGE}; write ",
        ),
    ],
    indirect=["directory"],
)
def test_prepare_refuses_to_pack_what_does_not_stay_apart(directory: Path, sentence: str) -> None:
    with pytest.raises(StageError) as refused:
        check_packing(packed(directory), directory)

    assert refused.value.reason is Reason.CONFIG_INVALID
    assert refused.value.message.startswith(sentence)


@pytest.mark.parametrize(
    ("directory", "config"),
    [
        ("qwen2", packed(Path("m"))),
        ("opt", replace(packed(Path("m")), training=run_config(model="m", dataset="d").training)),
    ],
    indirect=["directory"],
    ids=["a model type that is proven", "without packing"],
)
def test_nothing_is_tried_where_nothing_is_in_doubt(
    directory: Path, config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing_check, "_probe", lambda *_: pytest.fail("a process was started"))

    check_packing(config, directory)


@pytest.mark.parametrize("directory", ["opt"], indirect=True)
def test_where_a_kernel_for_gpus_may_keep_documents_apart_train_decides(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing_check, "_probe", lambda *_: LEAKS)
    config = packed(directory)
    flash = replace(config, gpus=1, model=replace(config.model, attention=Attention.FLASH_ATTENTION_2))

    check_packing(flash, directory)
    with pytest.raises(StageError):
        check_packing(replace(config, gpus=1), directory)


def test_train_refuses_a_loaded_model_that_does_not_keep_documents_apart() -> None:
    from sftjob_trainer.training import build

    config = packed(Path("m"))
    choices: Choices = choose(config, this_machine())

    build._check_packing(config, small("llama"), choices)
    with pytest.raises(
        StageError, match=r"\(opt, attention sdpa\): packed documents affect each other; write training.pac"
    ):
        build._check_packing(config, small("opt"), choices)
