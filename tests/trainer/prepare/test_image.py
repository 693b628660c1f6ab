"""What the image lacks is known in Prepare, which runs in the image of Train."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sftjob_contract.reasons import Reason
from sftjob_contract.run.config import Attention, Kernels, PackingStrategy
from sftjob_trainer.process.errors import StageError
from sftjob_trainer.process.image import check_packed_layers, has_compiler, has_package
from support.trainer.preparing import Workbench
from support.trainer.tiny import POSITIONS, run_config

CONVOLUTIONS = "causal_conv1d"


@pytest.mark.parametrize(
    ("gpus", "model", "training", "sentence"),
    [
        (
            1,
            {"attention": Attention.FLASH_ATTENTION_2},
            {},
            "model.attention: flash_attention_2 needs the package flash-attn in the image; write sdpa, eager or auto",
        ),
        (
            1,
            {"attention": Attention.FLASH_ATTENTION_3},
            {},
            "model.attention: flash_attention_3 needs the package flash-attn-3 in the image; write sdpa, eager or auto",
        ),
        (
            1,
            {},
            {"kernels": Kernels.LIGER},
            "training.kernels: liger needs the package liger_kernel in the image; write none or auto",
        ),
        (
            1,
            {},
            {"compile": True},
            (
                "training.compile: true needs a compiler of C and the headers of Python in the image; write false, or "
                "name an image that has them in spec.image"
            ),
        ),
        (
            0,
            {},
            {"compile": True},
            (
                "training.compile: true needs a compiler of C++ and the headers of Python in the image; write false, "
                "or name an image that has them in spec.image"
            ),
        ),
        (
            0,
            {"attention": Attention.FLEX_ATTENTION},
            {},
            "model.attention: flex_attention cannot train on the CPU; write sdpa, eager or auto",
        ),
    ],
)
def test_what_the_image_lacks_ends_the_job_before_the_model_is_looked_for(
    bench: Workbench,
    monkeypatch: pytest.MonkeyPatch,
    gpus: int,
    model: dict[str, Any],
    training: dict[str, Any],
    sentence: str,
) -> None:
    monkeypatch.setattr("sftjob_trainer.process.image.shutil.which", lambda _: None)
    config = bench.config("not-there.jsonl", model="/not/there", **training)
    with pytest.raises(StageError) as raised:
        bench.run(replace(config, gpus=gpus, model=replace(config.model, **model)))
    assert raised.value.reason is Reason.CONFIG_INVALID
    assert raised.value.message == sentence


def test_a_directory_without_code_is_no_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """W&B itself makes a directory `wandb` where it runs, and Python takes any directory for a namespace package."""
    (tmp_path / "not_there").mkdir()
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert (has_package("not_there"), has_package("there"), has_package("nowhere")) == (False, True, False)


def test_a_sample_prompt_longer_than_the_positions_of_the_model_ends_the_job_in_prepare(bench: Workbench) -> None:
    config = bench.config(bench.write("d.jsonl", [{"text": f"open file {number}"} for number in range(4)]))
    prompts = ("open the file", "\u20ac" * POSITIONS)
    with pytest.raises(StageError, match=r"^evaluation\.samplePrompts\[1\] has \d+ tokens but the model has 512"):
        bench.run(replace(config, evaluation=replace(config.evaluation, sample_prompts=prompts)))


def test_a_gpu_that_only_train_has_is_not_missed_in_prepare(bench: Workbench) -> None:
    rows = [{"text": f"open file {number}"} for number in range(8)]
    assert bench.run(replace(bench.config(bench.write("d.jsonl", rows)), gpus=2)).sequences == 8


@pytest.mark.parametrize(
    ("environ", "there", "found"),
    [
        ({}, {"gcc"}, True),
        ({}, {"clang"}, True),
        ({}, set(), False),
        ({"CC": "tcc"}, {"gcc"}, False),
        ({"CC": "/opt/cc"}, {"/opt/cc"}, True),
    ],
)
def test_a_compiler_is_the_one_that_triton_finds(
    environ: dict[str, str], there: set[str], found: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("CC", raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr("sftjob_trainer.process.image.sysconfig.get_path", lambda _: str(tmp_path))
    monkeypatch.setattr(
        "sftjob_trainer.process.image.shutil.which", lambda program: program if program in there else None
    )
    assert has_compiler() is found
    (tmp_path / "Python.h").unlink()
    assert not has_compiler()


@pytest.mark.parametrize(
    ("model_type", "packages", "missing"),
    [
        ("lfm2", (), CONVOLUTIONS),
        ("lfm2", (CONVOLUTIONS,), None),
        ("qwen3_next", (), f"{CONVOLUTIONS} and fla"),
        ("qwen3_next", ("fla", CONVOLUTIONS), None),
        ("falcon_h1", (CONVOLUTIONS,), "mamba_ssm"),
        ("granitemoehybrid", (), f"{CONVOLUTIONS} and mamba_ssm"),
        ("nemotron_h", (), f"{CONVOLUTIONS} and mamba_ssm"),
        ("qwen2", (), None),
        ("no such type", (), None),
        ("../qwen2", (), None),
    ],
)
def test_packed_rows_of_hybrids_need_the_kernels_that_keep_them_apart(
    model_type: str, packages: tuple[str, ...], missing: str | None
) -> None:
    config = run_config(model="m", dataset="d", packing=True)
    for free in (
        replace(config, training=replace(config.training, packing=False)),
        replace(config, training=replace(config.training, packing_strategy=PackingStrategy.WRAPPED)),
    ):
        check_packed_layers(free, model_type, packages)
    if missing is None:
        check_packed_layers(config, model_type, packages)
        return
    with pytest.raises(StageError) as raised:
        check_packed_layers(config, model_type, packages)
    assert raised.value.message == (
        f"training.packing: true needs the package {missing} in the image for a model of type {model_type}, whose "
        "layers would mix the rows of a sequence; write packing: false"
    )


def test_without_the_package_transformers_refuses_to_keep_packed_rows_apart() -> None:
    """What check_packed_layers reads from the source is what happens in a training step."""
    import torch
    from transformers.models.lfm2.modeling_lfm2 import causal_conv1d_fn

    with pytest.raises(ValueError, match="can't keep packed sequences apart"):
        causal_conv1d_fn(torch.zeros(1, 2, 4), torch.zeros(2, 3), seq_idx=torch.zeros(1, 4, dtype=torch.int32))
