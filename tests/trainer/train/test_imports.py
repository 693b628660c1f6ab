"""What a trainer imports before its first step: nothing that the run does not need."""

import gc
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.run.config import RunConfig
from sftjob_contract.run.method import ComputeDtype, Distillation, Quantization, QuantizationType, Teacher
from sftjob_contract.run.optimization import Optimizer
from sftjob_trainer.process.libraries import gc_paused, hide_bitsandbytes, hide_torchao
from sftjob_trainer.train import model_directories
from support.forking import NOT_FORKED
from support.trainer.processes import train_in_one
from support.trainer.tiny import lora, run_config
from support.trainer.training import environment, job, write_prepared

EIGHT_BITS = Quantization(
    bits=8, type=QuantizationType.NF4, double_quantization=True, compute_dtype=ComputeDtype.BFLOAT16
)


def trusting(config: RunConfig) -> RunConfig:
    return replace(config, model=replace(config.model, trust_remote_code=True))


@pytest.mark.parametrize(
    ("config", "model", "hidden"),
    [
        (run_config(model="m", dataset="d"), "{}", True),
        (run_config(model="m", dataset="d", method=lora()), "{}", True),
        (run_config(model="m", dataset="d", optimizer=Optimizer.ADAMW_TORCH_FUSED), "{}", True),
        (run_config(model="m", dataset="d", method=lora(quantization=EIGHT_BITS)), "{}", False),
        *(
            (run_config(model="m", dataset="d", optimizer=optimizer), "{}", False)
            for optimizer in Optimizer
            if optimizer.is_of_bitsandbytes
        ),
        (run_config(model="m", dataset="d"), '{"quantization_config": {"quant_method": "bitsandbytes"}}', False),
        (run_config(model="m", dataset="d"), "broken", False),
        (trusting(run_config(model="m", dataset="d")), "{}", False),
    ],
)
def test_bitsandbytes_is_hidden_where_nothing_is_quantized(
    config: RunConfig, model: str, hidden: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "modules", {})
    (tmp_path / "config.json").write_text(model)

    hide_bitsandbytes(config, [tmp_path])

    assert sys.modules == ({"bitsandbytes": None} if hidden else {})


@pytest.mark.parametrize(
    ("config", "model", "hidden"),
    [
        (run_config(model="m", dataset="d"), "{}", True),
        (run_config(model="m", dataset="d"), '{"quantization_config": {"quant_method": "torchao"}}', False),
        (run_config(model="m", dataset="d"), "broken", False),
        (trusting(run_config(model="m", dataset="d")), "{}", False),
    ],
)
def test_torchao_is_hidden_where_no_model_is_quantized(
    config: RunConfig, model: str, hidden: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "modules", {})
    (tmp_path / "config.json").write_text(model)

    hide_torchao(config, [tmp_path])

    assert sys.modules == ({"torchao": None} if hidden else {})


def test_what_is_imported_already_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    there: dict[str, Any] = {"bitsandbytes": pytest}
    monkeypatch.setattr(sys, "modules", there)

    hide_bitsandbytes(run_config(model="m", dataset="d"), [])

    assert there == {"bitsandbytes": pytest}


def test_a_quantized_teacher_counts_too(qwen2: Path, llama: Path, tmp_path: Path) -> None:
    config = job(qwen2, max_steps=1)
    write_prepared(tmp_path, config)
    taught = Distillation(teacher=Teacher(source=str(llama), revision=None), alpha=0.5, temperature=1.0)

    found = [
        model_directories(one, environment(tmp_path))
        for one in (config, replace(config, method=replace(config.method, distillation=taught)))
    ]

    assert found == [[qwen2], [qwen2, llama]]


def test_where_the_models_are_is_not_known_without_prepared_data(qwen2: Path, tmp_path: Path) -> None:
    assert model_directories(job(qwen2, max_steps=1), environment(tmp_path)) == []


def test_garbage_is_looked_for_again_after_imports_that_failed() -> None:
    found = []

    def fail() -> None:
        with gc_paused():
            found.append(gc.isenabled())
            raise ImportError

    with pytest.raises(ImportError):
        fail()

    assert [*found, gc.isenabled()] == [False, True]


HIDDEN = """
import sys
from support.trainer.tiny import run_config
from sftjob_trainer.process.libraries import hide_wandb
hide_wandb(run_config(model="m", dataset="d"), is_leader=True)
import sftjob_trainer.training.build
print(sorted(name for name, module in sys.modules.items() if name.partition(".")[0] in ("wandb", "mlflow") and module))
"""


@pytest.mark.slow
def test_a_run_that_is_tracked_nowhere_imports_no_tracker() -> None:
    """transformers 5.23 and TRL 1.16 import wandb wherever they find it; a pin that moves must not bring that back."""
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-c", HIDDEN], env=environ, capture_output=True, text=True, check=False)

    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("quantization", "imported"), [(None, False), (EIGHT_BITS, True)], ids=["LoRA", "QLoRA"])
def test_a_run_that_quantizes_nothing_imports_no_bitsandbytes(
    qwen2: Path, tmp_path: Path, quantization: Quantization | None, imported: bool
) -> None:
    """A whole run, with its output: PEFT 0.21 imports bitsandbytes wherever it finds it."""
    config = job(qwen2, max_steps=2, method=lora(quantization=quantization))
    write_prepared(tmp_path / "volume", config)

    environ = {"PYTHONPROFILEIMPORTTIME": "1", NOT_FORKED: "1"}
    ended = train_in_one(tmp_path / "pod", tmp_path / "volume", config, **environ)

    assert (ended.code, ended.outcome and ended.outcome.exit_code) == (0, ExitCode.DONE), ended.err[-2000:]
    loaded = {line.rpartition("|")[2].strip() for line in ended.err.splitlines() if line.startswith("import time:")}
    assert "peft" in loaded
    assert ("bitsandbytes.functional" in loaded) is imported
