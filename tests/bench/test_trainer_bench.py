from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.startup.startup_bench import BROKEN, parts
from bench.trainer.cases import ON_CPU, ON_GPU, SHAPES, Case
from bench.trainer.plain import loading
from bench.trainer.trainer_bench import (
    DEFAULTS,
    HEADER,
    OURS,
    TUNED,
    Measured,
    job,
    measure,
    row,
    settings,
    write_models,
)
from sftjob_contract.run.method import QuantizationType

CASES = (*ON_CPU, *ON_GPU)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_all_trainers_are_asked_for_the_same(case: Case) -> None:
    config = job(case, Path("/place"), 10)
    training = config.training
    for tuned in (True, False):
        asked = settings(case, Path("/place"), Path("/work"), steps=10, tuned=tuned)
        assert (asked["batch"], asked["accumulation"], asked["maxLength"], asked["steps"]) == (
            training.per_device_batch_size,
            training.gradient_accumulation_steps,
            training.max_length,
            training.max_steps,
        )
        assert (asked["learningRate"], asked["optimizer"], asked["packing"], asked["seed"]) == (
            training.learning_rate,
            training.optimizer.value,
            training.packing,
            training.seed,
        )
        assert asked["cpu"] == (config.gpus == 0)
        assert ("quantization_config" in loading(asked)) == (config.method.quantization is not None)
        assert (asked["method"] == "full") == (config.method.lora is None)


def test_quantized_weights_are_the_same_for_all() -> None:
    case = next(case for case in ON_GPU if case.method == "QLoRA")
    quantization = job(case, Path("/place"), 10).method.quantization
    given = loading(settings(case, Path("/place"), Path("/work"), steps=10, tuned=True))["quantization_config"]

    assert quantization is not None
    assert (given.load_in_4bit, given.bnb_4bit_quant_type, given.bnb_4bit_use_double_quant) == (True, "nf4", True)
    assert (quantization.bits, quantization.type, quantization.double_quantization) == (4, QuantizationType.NF4, True)


@pytest.mark.parametrize(("model", "billions"), [("0.5B", 0.494), ("1.5B", 1.544), ("7B", 7.616)])
def test_a_shape_is_as_large_as_its_name_says(model: str, billions: float) -> None:
    import torch
    import transformers

    family, shape = SHAPES[model]
    with torch.device("meta"):
        made = transformers.AutoModelForCausalLM.from_config(getattr(transformers, f"{family}Config")(**shape))

    assert made.num_parameters() / 1e9 == pytest.approx(billions, abs=0.001)


def test_a_row_has_ratios_and_medians() -> None:
    def measured(*step_seconds: float, **changes: Any) -> list[Measured]:
        fixed = {"tokens": 100.0, "first_step_seconds": 5.0, "memory_bytes": 10**6, "loss": 1.25}
        return [Measured(step_seconds=step_seconds, **{**fixed, **changes})]

    slow_in_between = {
        OURS: measured(1.0, 5.0, 1.0),
        TUNED: measured(1.1, 5.5, 1.1, tokens=None),
        DEFAULTS: measured(2.0, 9.0, 2.0),
    }
    cells = row(ON_CPU[0], slow_in_between)

    assert cells[:6] == ["Qwen2, full, packed", "100", "91", "50", "1.10", "2.00"]
    assert cells[6:] == ["5.0 / 5.0 / 5.0", "1 / 1 / 1", "1.2500 / 1.2500 / 1.2500", ""]
    assert len(cells) == len(HEADER)


def test_the_parts_of_a_start_are_those_that_the_log_tells() -> None:
    log = "step 0\nthe first step was done after 9.9 s: imports 8.1, model 0.4, data 1.0, set-up 0.2, first step 0.2\n"
    assert parts(log) == "imports 8.1, model 0.4, data 1.0, set-up 0.2, first step 0.2"


def test_every_broken_config_is_another() -> None:
    config = {"training": {}, "gpus": 0}
    assert len({breaks(config) for breaks in BROKEN.values()}) == len(BROKEN)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_trainers_take_the_same_steps(tmp_path: Path) -> None:
    case = replace(ON_CPU[1], batch=2, accumulation=1, max_length=128)
    write_models(tmp_path, [case.model])
    found = measure(case, tmp_path, 3)

    assert all(len(measured.step_seconds) == 2 for measured in found.values())
    assert found[OURS].loss == pytest.approx(found[TUNED].loss, rel=1e-3)
    assert all(measured.memory_bytes > 10**8 for measured in found.values())
    assert "imports" in parts(found[OURS].log)
