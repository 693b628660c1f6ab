"""The output of full fine-tuning is in its base's dtype and cache, or the log says why not."""

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from sftjob_contract import layout
from sftjob_contract.run.config import ModelDtype
from support.trainer.training import finish, job


@pytest.fixture(scope="module")
def bf16(qwen2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as most are published: in bf16."""
    import torch
    from transformers import AutoModelForCausalLM

    directory = tmp_path_factory.mktemp("bf16") / "model"
    shutil.copytree(qwen2, directory)
    AutoModelForCausalLM.from_pretrained(qwen2, dtype=torch.bfloat16).save_pretrained(directory)
    return directory


@pytest.mark.parametrize(
    ("asked", "dtype", "said"),
    [
        (ModelDtype.AUTO, "bfloat16", "weights of the output are bfloat16: as its base"),
        (ModelDtype.FLOAT32, "float32", "weights of the output are float32: model.dtype: float32"),
    ],
)
def test_a_base_in_bf16_gives_an_output_in_bf16_unless_the_job_names_a_dtype(
    bf16: Path, tmp_path: Path, asked: ModelDtype, dtype: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    config = job(bf16, max_steps=2, learning_rate=1e-2)
    with caplog.at_level(logging.INFO):
        run = finish(tmp_path, replace(config, model=replace(config.model, dtype=asked)))

    assert run.outcome.output is not None, run.outcome.message
    output = tmp_path / layout.OUTPUT_MODEL
    settings, before = (json.loads((path / "config.json").read_text()) for path in (output, bf16))
    assert (settings["dtype"], settings["use_cache"]) == (dtype, before["use_cache"])
    assert said in caplog.text
    saved = load_file(output / "model.safetensors")
    trained = load_file(tmp_path / layout.CHECKPOINTS / "checkpoint-2" / "model.safetensors")
    assert {str(weights.dtype) for weights in saved.values()} == {f"torch.{dtype}"}
    assert {str(weights.dtype) for weights in trained.values()} == {"torch.float32"}
    assert all(weights.equal(trained[name].to(weights.dtype)) for name, weights in saved.items())
    assert AutoModelForCausalLM.from_pretrained(output).config.use_cache is True


def test_several_files_are_cast_and_their_index_has_the_new_size(bf16: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from sftjob_trainer.output.full_model import match_base_format

    model = AutoModelForCausalLM.from_pretrained(bf16, dtype=torch.float32)
    model.save_pretrained(tmp_path, max_shard_size="40KB")
    match_base_format(tmp_path, bf16, ModelDtype.AUTO)

    (index,) = tmp_path.glob("*.index.json")
    assert json.loads(index.read_text())["metadata"]["total_size"] == 2 * model.num_parameters()
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert {weights.dtype for weights in again.parameters()} == {torch.bfloat16}


def test_weights_too_large_for_the_base_s_dtype_stay_as_they_are_and_the_log_says_so(
    bf16: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    from sftjob_trainer.output.full_model import match_base_format

    base = tmp_path / "base"
    shutil.copytree(bf16, base)
    settings = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**settings, "dtype": "float16"}))
    model = AutoModelForCausalLM.from_pretrained(bf16, dtype=torch.float32)
    with torch.no_grad():
        model.model.norm.weight[0] = 1e5
    model.save_pretrained(tmp_path / "trained")

    with caplog.at_level(logging.INFO):
        match_base_format(tmp_path / "trained", base, ModelDtype.AUTO)

    assert "float32: a trained weight is too large for float16, the dtype of its base" in caplog.text
    assert load_file(tmp_path / "trained" / "model.safetensors")["model.norm.weight"][0] == 1e5
