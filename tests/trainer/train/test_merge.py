"""The merged model, and what is kept on the volume."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sftjob_contract import layout
from sftjob_contract.codec import to_json
from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.run.config import ModelDtype, RunConfig
from sftjob_contract.run.destinations import MergeDtype, Retain
from sftjob_contract.run.method import ComputeDtype, Method, Quantization, QuantizationType
from support.trainer.tiny import lora, write_tokenizer
from support.trainer.training import (
    PEFT_IS_BEHIND,
    environment,
    finish,
    job,
    read_metrics,
    run_train,
    token_mean_loss,
    write_prepared,
)

pytestmark = PEFT_IS_BEHIND

QUANTIZED = Quantization(
    bits=4, type=QuantizationType.NF4, double_quantization=True, compute_dtype=ComputeDtype.BFLOAT16
)


PEFT_WARNS_OF_EMBEDDINGS = pytest.mark.filterwarnings(
    "ignore:.*tie_word_embeddings.*:UserWarning",
    "ignore:.*fan_in_fan_out.*:UserWarning",
    "ignore:.*save_embedding_layers.*:UserWarning",
)


def merging(config: RunConfig, retain: Retain = Retain.ALL) -> RunConfig:
    return replace(config, output=replace(config.output, merge_adapter=True, retain=retain))


@pytest.fixture(scope="module")
def bf16_base(qwen2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as most are published: in bf16."""
    import torch
    from transformers import AutoModelForCausalLM

    directory = tmp_path_factory.mktemp("bf16") / "model"
    shutil.copytree(qwen2, directory)
    AutoModelForCausalLM.from_pretrained(qwen2, dtype=torch.bfloat16).save_pretrained(directory)
    return directory


@pytest.mark.parametrize(
    ("base", "method", "tolerance"),
    [
        ("qwen2", lora(), 1e-5),
        ("llama", lora(dora=True, rslora=True), 1e-5),
        ("llama", lora(modules_to_save=("lm_head", "embed_tokens"), target_modules=("q_proj",)), 1e-5),
        ("bf16_base", lora(), 3e-2),
        ("qwen2", lora(quantization=QUANTIZED), 1e-2),
    ],
    ids=["LoRA", "DoRA and rsLoRA", "whole modules", "bf16", "QLoRA"],
)
def test_the_merged_model_computes_what_base_and_adapter_do(
    base: str, method: Method, tolerance: float, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Both are loaded as anybody would, without a package of ours; QLoRA's base without its quantization."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = request.getfixturevalue(base)
    finish(tmp_path, merging(job(model, method=method, max_steps=3, learning_rate=3e-2)))
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / layout.OUTPUT_MERGED, dtype="auto").eval()
    plain = AutoModelForCausalLM.from_pretrained(model, dtype="auto").eval()
    ids = AutoTokenizer.from_pretrained(tmp_path / layout.OUTPUT_MERGED)("open a file", return_tensors="pt").input_ids
    with torch.no_grad():
        untrained = plain(ids).logits
        unmerged = PeftModel.from_pretrained(plain, tmp_path / layout.OUTPUT_ADAPTER).eval()(ids).logits
        found = merged(ids).logits

    assert merged.dtype == plain.dtype
    error, change = (float((found - other).abs().max()) for other in (unmerged, untrained))
    assert error < tolerance * float(unmerged.abs().max())
    assert change > 5 * error


def test_the_merged_directory_is_a_whole_model_with_its_tokenizer(qwen2: Path, tmp_path: Path) -> None:
    outcome = finish(tmp_path, merging(job(qwen2, method=lora(), max_steps=1))).outcome

    merged = tmp_path / layout.OUTPUT_MERGED
    assert {path.name for path in merged.iterdir()} == {
        *("config.json", "generation_config.json", "model.safetensors"),
        *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "README.md"),
    }
    assert sorted(path.name for path in merged.parent.iterdir()) == ["adapter", "merged"]
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in merged.iterdir())
    assert outcome.output is not None
    assert outcome.output.path == layout.OUTPUT_ADAPTER


def test_nothing_is_merged_unless_asked_for(qwen2: Path, tmp_path: Path) -> None:
    finish(tmp_path, job(qwen2, method=lora(), max_steps=1))

    assert not (tmp_path / layout.OUTPUT_MERGED).exists()


def test_the_base_is_merged_in_its_own_precision_however_it_was_trained(bf16_base: Path, tmp_path: Path) -> None:
    made = job(bf16_base, method=lora(), max_steps=1)
    finish(tmp_path, merging(replace(made, model=replace(made.model, dtype=ModelDtype.FLOAT32))))

    settings = json.loads((tmp_path / layout.OUTPUT_MERGED / "config.json").read_text())
    assert settings["dtype"] == "bfloat16"


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tied embeddings under names of their own."""
    from transformers import GPT2Config, GPT2LMHeadModel

    directory = write_tokenizer(tmp_path_factory.mktemp("gpt2"))
    settings = GPT2Config(vocab_size=512, n_embd=32, n_layer=2, n_head=4, eos_token_id=2)
    GPT2LMHeadModel(settings).save_pretrained(directory)
    return directory


@PEFT_WARNS_OF_EMBEDDINGS
@pytest.mark.parametrize(
    ("base", "method"),
    [
        ("qwen2", lora(target_modules=("q_proj", "embed_tokens"))),
        ("gpt2", lora(target_modules=("c_attn", "wte"))),
        ("qwen2", lora(target_modules=("q_proj",), modules_to_save=("embed_tokens",))),
        ("qwen2", lora(target_modules=("q_proj",), modules_to_save=("lm_head",))),
    ],
    ids=["embedding", "embedding of GPT-2", "whole embedding", "whole head"],
)
def test_an_adapter_of_a_tied_layer_is_merged_into_a_model_with_a_head_of_its_own(
    base: str, method: Method, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = request.getfixturevalue(base)
    outcome = finish(tmp_path, merging(job(model, method=method, max_steps=3, learning_rate=3e-2))).outcome

    assert outcome.exit_code is ExitCode.DONE, outcome.message
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    unmerged = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), tmp_path / layout.OUTPUT_ADAPTER)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / layout.OUTPUT_MERGED)
    with torch.no_grad():
        torch.testing.assert_close(merged.eval()(ids).logits, unmerged.eval()(ids).logits, rtol=1e-4, atol=1e-4)


def test_the_merged_model_has_an_evaluation_loss_of_its_own_in_card_and_outcome(
    bf16_base: Path, tmp_path: Path
) -> None:
    """That of the merged weights as anybody loads them; with mergeDtype: float32 it is the adapter's."""
    from transformers import AutoModelForCausalLM

    made = merging(job(bf16_base, method=lora(), max_steps=3, learning_rate=1e-2))
    kept = replace(made, output=replace(made.output, merge_dtype=MergeDtype.FLOAT32))
    for name, config in (("bfloat16", made), ("float32", kept)):
        run = finish(tmp_path / name, config)
        assert run.outcome.output is not None, run.outcome.message
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / name / layout.OUTPUT_MERGED)
        metrics = run.outcome.output.metrics
        assert metrics["mergedEvalLoss"] == pytest.approx(token_mean_loss(merged.eval(), run), abs=2e-3)
        card = (tmp_path / name / layout.OUTPUT_MERGED / "README.md").read_text()
        assert f"| mergedEvalLoss | {metrics['mergedEvalLoss']:.6g} |" in card
        assert str(merged.dtype) == f"torch.{name}"
        if name == "float32":
            assert metrics["mergedEvalLoss"] == pytest.approx(metrics["evalLoss"], abs=1e-3)


@PEFT_WARNS_OF_EMBEDDINGS
def test_a_merged_model_that_computes_something_else_is_not_written(
    qwen2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sftjob_trainer.output.merge.untie", lambda *_: None)
    method = lora(target_modules=("q_proj", "embed_tokens"))
    config = merging(job(qwen2, method=method, max_steps=3, learning_rate=3e-2))
    write_prepared(tmp_path, config)

    outcome = run_train(tmp_path, config)

    assert outcome.exit_code is ExitCode.INVALID
    assert (outcome.message or "").startswith("output.mergeAdapter: the merged model does not compute what base and ")
    assert not (tmp_path / layout.OUTPUT_MERGED).exists()
    assert (tmp_path / layout.OUTPUT_ADAPTER).is_dir()


@pytest.mark.parametrize(
    ("merged", "sentence"),
    [
        (1.05, None),
        (1.19, None),
        (
            1.26,
            "the merge loses 13 % of what was learned: the loss is 1.26 with the merged model and 1 with the adapter ",
        ),
        (3.5, "the merge loses 125 % of what was learned"),
    ],
)
def test_a_merge_that_loses_more_than_a_tenth_of_what_was_learned_is_put_in_words(
    merged: float, sentence: str | None
) -> None:
    import torch

    from sftjob_trainer.output.merge_check import merge_loss_warning

    said = merge_loss_warning(3.0, 1.0, merged, torch.bfloat16)
    assert (said is None) if sentence is None else (said or "").startswith(sentence)
    assert said is None or "output.mergeDtype: float32" in said
    assert merge_loss_warning(1.0, 1.2, 1.4, torch.bfloat16) is None


MEMORY_OF_A_MERGE = """
import sys
from pathlib import Path
from transformers import PreTrainedModel
from sftjob_contract.codec import from_json
from sftjob_trainer.output import merge
from support.trainer.training import stats_of
from sftjob_trainer.output.model_card import CardContent
from sftjob_contract.run.config import RunConfig

def allocated():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon")) << 10

base, volume, config = Path(sys.argv[1]), Path(sys.argv[2]), from_json(RunConfig, sys.argv[3], ignore_unknown=False)
found = []
save, change = PreTrainedModel.save_pretrained, merge._merge_layers
PreTrainedModel.save_pretrained = lambda *a, **o: (found.append(allocated()), save(*a, **o))
merge._merge_layers = lambda *a: (found.append(allocated()), change(*a))
merge.merge(base, CardContent(config=config, stats=stats_of(), metrics={}, libraries={}), volume)
print(found[1] - found[0])
"""


@pytest.mark.slow
def test_a_merge_holds_few_of_the_changed_weights_in_memory(qwen2: Path, tmp_path: Path) -> None:
    """134 MB are changed. glibc is told to give back what is freed, as it does by itself with larger weights."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, Qwen2Config

    config = Qwen2Config(
        vocab_size=512, hidden_size=1024, intermediate_size=2048, num_hidden_layers=4, num_attention_heads=8
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "base")
    get_peft_model(model, LoraConfig(target_modules="all-linear")).save_pretrained(tmp_path / layout.OUTPUT_ADAPTER)
    changed = sum(weight.nbytes for name, weight in model.named_parameters() if "base_layer" in name)
    command = [sys.executable, "-c", MEMORY_OF_A_MERGE, str(tmp_path / "base"), str(tmp_path)]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "MALLOC_MMAP_THRESHOLD_": "100000"}

    done = subprocess.run([*command, to_json(job(qwen2))], env=environ, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert changed > 60e6
    assert int(done.stdout) < changed / 4
    assert sorted(path.name for path in (tmp_path / layout.OUTPUT).iterdir()) == ["adapter", "merged"]


def with_retain(config: RunConfig, retain: Retain) -> RunConfig:
    return replace(config, output=replace(config.output, retain=retain))


@pytest.fixture(scope="module")
def kept(qwen2: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A finished run that keeps only its output, on a volume with a cache. Each test leaves it so."""
    volume = tmp_path_factory.mktemp("kept")
    cached = volume / layout.CACHE / "hub" / "file"
    cached.parent.mkdir(parents=True)
    cached.touch()
    return finish(volume, with_retain(job(qwen2, max_steps=3), Retain.OUTPUT))


def test_only_output_results_and_logs_stay(kept: Any) -> None:
    there = {path.name for path in kept.volume.iterdir()}

    assert there == {
        layout.OWNER,
        layout.OUTPUT,
        layout.RESULTS,
        layout.LOGS,
        layout.RUN_CONFIG,
        layout.PREPARED,
    }
    assert sum(path.stat().st_size for path in (kept.volume / layout.PREPARED).rglob("*")) < 20_000
    assert kept.outcome.progress.checkpoints == ()
    assert kept.outcome.progress.best_step is None


def test_an_attempt_after_the_removal_says_the_same_again(kept: Any) -> None:
    before = read_metrics(kept.volume)

    again = run_train(kept.volume, kept.config, attempt=2)

    assert again == kept.outcome
    assert read_metrics(kept.volume) == before


def test_a_removal_that_was_cut_off_is_finished_by_the_next_attempt(kept: Any) -> None:
    (kept.volume / layout.CHECKPOINTS / "checkpoint-3").mkdir(parents=True)

    again = run_train(kept.volume, kept.config, attempt=2)

    assert again.exit_code is ExitCode.DONE
    assert not (kept.volume / layout.CHECKPOINTS).exists()


def test_a_failed_run_keeps_everything(qwen2: Path, tmp_path: Path) -> None:
    config = with_retain(job(qwen2, max_steps=3, save_every=1, learning_rate=1e30, warmup_ratio=None), Retain.OUTPUT)
    write_prepared(tmp_path, config)

    outcome = run_train(tmp_path, config)

    assert outcome.exit_code is ExitCode.DIVERGED
    assert (tmp_path / layout.PREPARED_TRAIN).exists()
    assert (tmp_path / layout.CHECKPOINTS).exists()


def test_a_cache_that_lies_elsewhere_is_shared_and_stays(qwen2: Path, tmp_path: Path) -> None:
    from sftjob_trainer.train import train

    shared = tmp_path / "shared"
    shared.mkdir()
    volume = tmp_path / "volume"
    config = with_retain(job(qwen2, max_steps=1), Retain.OUTPUT)
    write_prepared(volume, config)

    train(config, replace(environment(volume), cache=shared))

    assert shared.exists()
