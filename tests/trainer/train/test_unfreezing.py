"""Full fine-tuning of some weights: those that the patterns name move, and no others."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from sftjob_contract import layout
from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.reasons import Reason
from sftjob_contract.reports.model_shape import ModelShape, UnfrozenShape
from sftjob_contract.run.config import RunConfig
from sftjob_contract.run.method import Method
from sftjob_trainer.preflight.meta_model import find_refusal
from sftjob_trainer.preflight.run_config import problems
from support.trainer.preparing import Workbench
from support.trainer.tiny import lora, run_config
from support.trainer.training import as_died_after, finish, job, run_train, write_prepared


def of(*patterns: str) -> Method:
    return Method(lora=None, quantization=None, distillation=None, unfrozen_parameters=patterns)


@pytest.mark.parametrize(
    ("patterns", "moved"),
    [
        ((r"model\.layers\.1\.mlp", "model.norm"), ("model.layers.1.mlp.", "model.norm.")),
        ((r"model\.layers\.[0-9]+\.self_attn\.[qv]_proj",), ("self_attn.q_proj.", "self_attn.v_proj.")),
        (("lm_head",), ("lm_head.",)),
    ],
)
def test_only_the_named_weights_move(
    llama: Path, tmp_path: Path, patterns: tuple[str, ...], moved: tuple[str, ...]
) -> None:
    config = job(llama, method=of(*patterns), max_steps=2, learning_rate=1e-2, gradient_checkpointing=True)

    run = finish(tmp_path, config)

    assert run.outcome.output is not None, run.outcome.message
    before, after = (load_file(path / "model.safetensors") for path in (llama, tmp_path / layout.OUTPUT_MODEL))
    changed = {name for name, weights in after.items() if not weights.equal(before[name].to(weights.dtype))}
    assert changed == {name for name in before if any(part in name for part in moved)}


def test_a_run_resumes_as_if_undisturbed(llama: Path, tmp_path: Path) -> None:
    config = job(llama, method=of("model.layers.1"), max_steps=4, save_every=2, learning_rate=1e-2)
    whole = finish(tmp_path / "whole", config)
    volume = as_died_after(2, whole, tmp_path / "died")

    outcome = run_train(volume, config, attempt=2)

    assert outcome.exit_code is ExitCode.DONE
    one, other = (load_file(path / layout.OUTPUT_MODEL / "model.safetensors") for path in (whole.volume, volume))
    assert all(weights.equal(other[name]) for name, weights in one.items())


NO_WEIGHT = (
    "method.full.unfrozenParameters: layers.1 matches the beginning of no weight; the model has "
    "model.embed_tokens.weight, model.layers.N.self_attn.q_proj.weight, "
)


def test_a_pattern_of_no_weight_is_refused_with_the_names_that_are(llama: Path, tmp_path: Path) -> None:
    config = job(llama, method=of("model.norm", "layers.1"), max_steps=2)
    write_prepared(tmp_path, config)

    outcome = run_train(tmp_path, config)

    assert outcome.reason is Reason.CONFIG_INVALID
    assert outcome.message is not None
    assert outcome.message.startswith(NO_WEIGHT)
    in_prepare = find_refusal(config, llama)
    assert in_prepare is not None
    assert in_prepare.startswith(NO_WEIGHT)


@pytest.mark.parametrize(
    ("method", "problem"),
    [
        (
            of("model.layers.(1"),
            "method.full.unfrozenParameters: model.layers.(1 is not a valid regular expression: missing",
        ),
        (
            replace(lora(), unfrozen_parameters=("lm_head",)),
            "method must have at most one of lora and unfrozenParameters, which is for full fine-tuning",
        ),
    ],
)
def test_what_is_no_pattern_is_told_at_once(method: Method, problem: str) -> None:
    found: list[Any] = list(problems(run_config(model="/m", dataset="/d", method=method)))

    assert len(found) == 1
    assert found[0].startswith(problem)


@pytest.mark.slow
def test_prepare_says_which_weights_are_trained_as_far_as_the_files_name_them(qwen2: Path, tmp_path: Path) -> None:
    bench = Workbench(tmp_path, qwen2)
    data = bench.write("train.jsonl", [{"text": "a line"}] * 2)

    def shape(config: RunConfig) -> ModelShape | None:
        return bench.run(config).model_shape

    config = bench.config(data)
    whole, part = shape(config), shape(replace(config, method=of(r"model\.layers\.1\.mlp")))
    assert whole is not None
    assert part is not None
    assert part == replace(whole, unfrozen=part.unfrozen)
    assert part.unfrozen == (
        UnfrozenShape(rows=32, columns=64, count=1),
        UnfrozenShape(rows=64, columns=32, count=2),
    )
