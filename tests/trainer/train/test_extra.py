"""Further fields of TRL's and PEFT's configs: names, types, and what may not be set past the resource."""

import dataclasses
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.run.config import RunConfig
from sftjob_contract.run.method import Distillation, Method, Teacher
from sftjob_contract.run.optimization import Scheduler
from sftjob_trainer.preflight.extra_options import (
    LORA_CONFIG,
    REFUSED_LORA,
    REFUSED_TRAINING,
    SFT_CONFIG,
    extra_problems,
    field_types,
)
from support.trainer.tiny import lora, run_config
from support.trainer.training import PEFT_IS_BEHIND, build_trainer, job, run_train, write_prepared


def test_the_fields_read_from_the_source_are_those_of_trls_class() -> None:
    from trl import SFTConfig

    assert set(field_types(SFT_CONFIG)) == {field.name for field in dataclasses.fields(SFTConfig)}


def test_the_fields_read_from_the_source_are_those_of_pefts_class() -> None:
    from peft import LoraConfig, PeftConfig

    general = {field.name for field in dataclasses.fields(PeftConfig)}
    assert set(field_types(LORA_CONFIG)) == {field.name for field in dataclasses.fields(LoraConfig)} - general


def test_every_refused_field_exists_and_is_refused_once() -> None:
    for refused, known in ((REFUSED_TRAINING, field_types(SFT_CONFIG)), (REFUSED_LORA, field_types(LORA_CONFIG))):
        names = [name for group in refused.values() for name in group]
        assert len(names) == len(set(names))
        assert set(names) <= set(known)


def test_every_argument_that_the_trainer_sets_itself_is_refused(tmp_path: Path) -> None:
    from sftjob_contract.run.config import Precision
    from sftjob_trainer.run.sft_config import sft_arguments
    from support.trainer.training import stats_of

    made = sft_arguments(run_config(model="m", dataset="d"), stats_of(), output_dir=tmp_path, precision=Precision.FP32)

    free = set(made) - {name for group in REFUSED_TRAINING.values() for name in group}
    assert free == {"dataloader_pin_memory"}


def with_extra(**extra: Any) -> RunConfig:
    return run_config(model="m", dataset="d", extra=extra)


def with_training(kwargs: dict[str, Any], scheduler: Scheduler) -> RunConfig:
    return run_config(model="m", dataset="d", scheduler=scheduler, extra={"lr_scheduler_kwargs": kwargs})


def with_lora_extra(**extra: Any) -> RunConfig:
    return run_config(model="m", dataset="d", method=lora(extra=extra))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (with_extra(adam_beta2=0.95, lr_scheduler_kwargs={"num_cycles": 3}, activation_offloading=False), []),
        (
            with_extra(adam_beta2=1, max_length=3),
            ["training.extra.max_length cannot be set here: set training.maxLen"],
        ),
        (with_extra(bf16=True), ["training.extra.bf16 cannot be set here: set training.precision"]),
        (with_extra(push_to_hub=True), ["training.extra.push_to_hub cannot be set here: set output.hub"]),
        (
            with_extra(adam_beta3=0.9),
            ["training.extra.adam_beta3 is not a field of the installed trl.SFTConfig; similar ones are adam_beta2"],
        ),
        (with_extra(warmup_ratio=0.1), ["training.extra.warmup_ratio is not a field of the installed trl.SFTConfig"]),
        (with_extra(adam_beta2="0.95"), ["training.extra.adam_beta2 must be a number, not text"]),
        (with_extra(adam_beta2=True), ["training.extra.adam_beta2 must be a number, not true or false"]),
        (with_extra(dataloader_num_workers=1.5), ["training.extra.dataloader_num_workers must be a number, not a n"]),
        (
            with_extra(activation_offloading="yes"),
            ["training.extra.activation_offloading must be true or false, not t"],
        ),
        (with_extra(pad_to_multiple_of=None, tf32=None), []),
        (with_extra(label_smoothing_factor=0.1), []),
        (
            with_extra(label_smoothing_factor=1),
            ["training.extra.label_smoothing_factor must be from 0 to below 1, not 1"],
        ),
        (
            with_extra(label_smoothing_factor=0.1, loss_type="dft"),
            ["training.extra.label_smoothing_factor is for loss_type: nll only: remove one of them"],
        ),
        (with_extra(dataloader_prefetch_factor=2, dataloader_num_workers=1), []),
        (
            with_extra(dataloader_prefetch_factor=0, dataloader_num_workers=1),
            ["training.extra.dataloader_prefetch_factor must be at least 1, not 0"],
        ),
        (
            with_extra(dataloader_prefetch_factor=2),
            ["training.extra.dataloader_prefetch_factor needs dataloader_num_workers of at least 1"],
        ),
        (
            with_extra(dataloader_num_workers=-1),
            ["training.extra.dataloader_num_workers must be at least 0, not -1"],
        ),
        (
            with_training({"min_lr": 1e-5}, Scheduler.CONSTANT_WITH_WARMUP),
            ["training.extra.lr_scheduler_kwargs: training.scheduler: constant_with_warmup has no options; remove it"],
        ),
        (
            with_training({"num_cycles": 1}, Scheduler.COSINE_WITH_MIN_LR),
            ["training.scheduler: cosine_with_min_lr needs min_lr or min_lr_rate in training.extra.lr_scheduler_k"],
        ),
        (
            with_training({}, Scheduler.WARMUP_STABLE_DECAY),
            ["training.scheduler: warmup_stable_decay needs num_decay_steps in training.extra.lr_scheduler_kwargs"],
        ),
        (with_training({"min_lr_rate": 0.1}, Scheduler.COSINE_WARMUP_WITH_MIN_LR), []),
        (with_lora_extra(layers_to_transform=[0], init_lora_weights="gaussian"), []),
        (with_lora_extra(r=3), ["method.lora.extra.r cannot be set here: set method.lora.rank"]),
        (with_lora_extra(ranks=3), ["method.lora.extra.ranks is not a field of the installed peft.LoraConfig"]),
        (with_lora_extra(peft_type="IA3"), ["method.lora.extra.peft_type is not a field of the installed peft.LoraC"]),
        (with_lora_extra(loftq_config={}), ["method.lora.extra.loftq_config cannot be set here: set method.quant"]),
        (with_lora_extra(init_lora_weights="pissa"), []),
        (with_lora_extra(init_lora_weights="eva"), []),
        (
            with_lora_extra(init_lora_weights="mica"),
            ["method.lora.extra.init_lora_weights: mica needs a preparation t"],
        ),
        (
            with_lora_extra(init_lora_weights="olora", rank_pattern={"q_proj": 2}),
            ["method.lora.extra.init_lora_weights: olora cannot be combined with method.lora.extra.rank_pattern: the "],
        ),
    ],
)
def test_what_can_not_be_passed_on_is_told_by_name(config: RunConfig, expected: list[str]) -> None:
    found = list(extra_problems(config))

    assert len(found) == len(expected)
    assert all(one.startswith(other) for one, other in zip(found, expected, strict=True))


def test_another_loss_does_not_go_with_distillation() -> None:
    teacher = Teacher(source="hf://org/teacher", revision=None)
    method = Method(
        lora=None, quantization=None, distillation=Distillation(teacher=teacher, temperature=2.0, alpha=0.5)
    )

    for name, value in (("loss_type", "dft"), ("label_smoothing_factor", 0.1)):
        assert list(extra_problems(replace(with_extra(**{name: value}), method=method))) == [
            f"training.extra.{name} cannot be combined with method.distillation, which computes its own loss: remove it"
        ]


@pytest.mark.slow
def test_checking_imports_neither_torch_nor_the_libraries_themselves() -> None:
    program = (
        "import sys\n"
        "from sftjob_trainer.preflight.extra_options import LORA_CONFIG, SFT_CONFIG, field_types\n"
        "assert len(field_types(SFT_CONFIG)) > 100 and len(field_types(LORA_CONFIG)) > 20\n"
        "assert not {'torch', 'transformers', 'trl', 'peft'} & set(sys.modules)\n"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr


@PEFT_IS_BEHIND
def test_extra_fields_reach_trl_and_peft(qwen2: Path, tmp_path: Path) -> None:
    method = lora(
        target_modules=("q_proj", "v_proj"), extra={"layers_to_transform": [1], "rank_pattern": {"q_proj": 2}}
    )
    config = job(qwen2, method=method, max_steps=2, extra={"adam_beta2": 0.9, "pad_to_multiple_of": 16})

    trainer = build_trainer(tmp_path, config)

    assert trainer.args.adam_beta2 == 0.9
    assert next(iter(trainer.get_train_dataloader()))["input_ids"].shape[1] % 16 == 0
    ranks = {name: len(weights) for name, weights in trainer.model.named_parameters() if "lora_A" in name}
    assert all("layers.1." in name for name in ranks)
    assert {len_ for name, len_ in ranks.items() if "q_proj" in name} == {2}
    assert {len_ for name, len_ in ranks.items() if "q_proj" not in name} == {4}


@PEFT_IS_BEHIND
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"extra": {"tf32": True}},
            "training.extra: tf32: TRL refuses it: ",
        ),
        (
            {"extra": {"lr_scheduler_kwargs": {"wheels": 3}}},
            "training.extra: lr_scheduler_kwargs: TRL refuses it: ",
        ),
        (
            {"method": lora(extra={"layers_pattern": "h"})},
            "method.lora.extra: layers_pattern: PEFT refuses it: ",
        ),
    ],
)
def test_a_value_that_a_library_refuses_is_told_before_training(
    qwen2: Path, tmp_path: Path, options: dict[str, Any], sentence: str
) -> None:
    config = job(qwen2, max_steps=2, **options)
    write_prepared(tmp_path, config)

    outcome = run_train(tmp_path, config)

    assert outcome.exit_code is ExitCode.INVALID
    assert outcome.message is not None
    assert outcome.message.startswith(sentence)
