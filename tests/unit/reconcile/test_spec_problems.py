"""What the API server cannot refuse is told before anything is created, with a sentence that says what to write."""

import json
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from sftjob_contract.secrets import LEAKY_VALUE
from sftjob_operator.api import SFTJob
from sftjob_operator.api.types import LEAKY_NAME
from sftjob_operator.api.upstream import fields_of_options
from sftjob_operator.api.v1alpha1.scheduling import OPERATOR_VARIABLES, RESERVED_PREFIX
from sftjob_operator.reconcile.spec.validation import EXTRA_LIMIT_BYTES, EXTRA_LIMIT_DEPTH, OWN_OPTIONS, spec_problem
from sftjob_operator.render import OWN_VARIABLES
from support.checks.upstream import options
from support.jobs.builders import JobBuilder, a_command, a_job
from support.jobs.strategies import valid_jobs

HUB_TOKEN = "hf_" + "a1" * 17
SECRET = (
    "{} looks like a secret, and everyone who can read the job can read it: remove it here, put it in a Secret, and "
    "reference that in spec.env with valueFrom.secretKeyRef."
)


def training(**extra: Any) -> JobBuilder:
    """A job with options for TRL."""
    return a_job().training(extra=extra)


def lora(**extra: Any) -> JobBuilder:
    """A job with options for PEFT."""
    return a_job().lora(extra=extra)


def nested(levels: int) -> Any:
    """Lists and maps within each other."""
    value: Any = 1
    for level in range(levels):
        value = [value] if level % 2 else {"a": value}
    return value


PROBLEMS = {
    "an option with a field of its own": (
        training(learning_rate=1e-4),
        "spec.training.extra.learning_rate has its own field: write spec.training.learningRate.",
    ),
    "an option of transformers with a field of its own": (
        training(neftune_noise_alpha=5),
        "spec.training.extra.neftune_noise_alpha has its own field: write spec.training.neftuneNoiseAlpha.",
    ),
    "an option with a field in another section": (
        training(resume_from_checkpoint="/tmp/x"),
        "spec.training.extra.resume_from_checkpoint has its own field: write spec.checkpoints.resumeFrom.",
    ),
    "an option that two fields decide": (
        training(warmup_steps=5),
        (
            "spec.training.extra.warmup_steps has its own field: write spec.training.warmupRatio or "
            "spec.training.warmupSteps."
        ),
    ),
    "an option that three fields decide": (
        training(report_to="wandb"),
        (
            "spec.training.extra.report_to has its own field: write spec.tracking.tensorboard or "
            "spec.tracking.wandb or spec.tracking.mlflow."
        ),
    ),
    "a push to the hub": (
        training(push_to_hub=True),
        "spec.training.extra.push_to_hub has its own field: write spec.output.hub.",
    ),
    "a token, which is not shown": (
        training(hub_token=HUB_TOKEN),
        "spec.training.extra.hub_token has its own field: write spec.output.hub.tokenSecretRef.",
    ),
    "an option of LoRA with a field of its own": (
        lora(lora_alpha=8),
        "spec.method.lora.extra.lora_alpha has its own field: write spec.method.lora.alpha.",
    ),
    "an option that is the trainer's": (
        training(output_dir="/tmp/x"),
        "spec.training.extra.output_dir cannot be set here: set the fields of checkpoints.",
    ),
    "an option of LoRA that is the trainer's": (
        lora(task_type="SEQ_CLS"),
        "spec.method.lora.extra.task_type cannot be set here: remove it, since the trainer sets it.",
    ),
    "a secret by its name": (training(api_key="x"), SECRET.format("spec.training.extra.api_key")),
    "a secret by its value": (training(notes=f"use {HUB_TOKEN}"), SECRET.format("spec.training.extra.notes")),
    "a secret by a name deep inside": (
        training(accelerator_config={"storage": [{"password": "x"}]}),
        SECRET.format("spec.training.extra.accelerator_config.storage[0].password"),
    ),
    "a secret below its name": (
        lora(runtime_config={"credentials": {"user": "x"}}),
        SECRET.format("spec.method.lora.extra.runtime_config.credentials.user"),
    ),
    "a secret in a list": (
        lora(layers_pattern=["a", "-----BEGIN PRIVATE KEY-----"]),
        SECRET.format("spec.method.lora.extra.layers_pattern[1]"),
    ),
    "a URL with a password": (
        training(ddp_backend="tcp://user:pass@host/"),
        SECRET.format("spec.training.extra.ddp_backend"),
    ),
    "a token as the text that ends a row": (
        training(eos_token=HUB_TOKEN),
        SECRET.format("spec.training.extra.eos_token"),
    ),
    "too much": (
        training(note="é" * (EXTRA_LIMIT_BYTES // 2)),
        "spec.training.extra has 16395 bytes as JSON, more than 16384: remove or shorten some of its options.",
    ),
    "too deep": (
        lora(eva_config=nested(EXTRA_LIMIT_DEPTH + 1)),
        "spec.method.lora.extra.eva_config nests lists and maps more than 8 levels deep: write a simpler value.",
    ),
    "a variable of the operator": (
        a_job().env(HOME="/root"),
        "spec.env sets HOME, which the operator sets: remove it.",
    ),
    "the hub's token as a variable": (
        a_job().set("env", [{"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "a", "key": "b"}}}]),
        (
            "spec.env sets HF_TOKEN, which the operator sets: write spec.model.tokenSecretRef, "
            "spec.dataset.tokenSecretRef or spec.output.hub.tokenSecretRef."
        ),
    ),
    "the key of Weights & Biases as a variable": (
        a_job().set("env", [{"name": "WANDB_API_KEY", "valueFrom": {"secretKeyRef": {"name": "a", "key": "b"}}}]),
        "spec.env sets WANDB_API_KEY, which the operator sets: write spec.tracking.wandb.apiKeySecretRef.",
    ),
    "a job that goes on from itself": (
        a_job("demo").checkpoints(resume_from={"sftJob": "demo"}),
        (
            "spec.checkpoints.resumeFrom.sftJob is this SFTJob itself, demo: name another one, or remove resumeFrom, "
            "since a job resumes from its own checkpoints automatically."
        ),
    ),
    **{
        f"{section} of the trainer, with an image of one's own": (
            a_command().set(section, value),
            f"spec.{section} applies to the operator's trainer, and spec.command runs another program: remove it.",
        )
        for section, value in {
            "training": {"epochs": 1},
            "evaluation": {"everySteps": 10},
            "checkpoints": {"keep": 2},
            "output": {"mergeAdapter": True},
            "tracking": {"tensorboard": True},
            "resources.prepare": {"cpu": 1},
        }.items()
    },
    "memory without a unit": (
        a_job().resources(memory=16),
        "spec.resources.memory is 16, which is less than 1Mi: write it with a unit, such as 16Gi.",
    ),
    "thousandths of a byte": (
        a_job().resources(prepare={"memory": "500m"}),
        "spec.resources.prepare.memory is 500m, which is less than 1Mi: write it with a unit, such as 16Gi.",
    ),
    "a volume without a unit": (
        a_job().storage(size=100),
        "spec.storage.size is 100, which is less than 1Mi: write it with a unit, such as 16Gi.",
    ),
}


@pytest.mark.parametrize("what", PROBLEMS)
def test_what_is_said_about(what: str) -> None:
    job, sentence = PROBLEMS[what]
    assert spec_problem(job.build()) == sentence


@pytest.mark.parametrize(
    "job",
    [
        a_job(),
        training(adam_beta2=0.95, tf32=True, lr_scheduler_kwargs={"num_cycles": 2}, include_for_metrics=["loss"]),
        training(eos_token="<|im_end|>", pad_token="<pad>", include_num_input_tokens_seen="all"),
        training(note="x" * (EXTRA_LIMIT_BYTES - len('{"note":""}'))),
        training(label_smoothing_factor=None),
        lora(trainable_token_indices={"embed_tokens": [0, 1]}, init_lora_weights="gaussian"),
        lora(eva_config=nested(EXTRA_LIMIT_DEPTH)),
        a_job().full(),
        a_job().env(OMP_NUM_THREADS="4", HOMEPAGE="x"),
        a_command().set("env", [{"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "a", "key": "b"}}}]),
        a_command().set("training", {"scheduler": "cosine"}),
        a_job("demo").checkpoints(resume_from={"sftJob": "demo-2"}),
        a_job().storage(size="1Mi").resources(memory="1073741824", shared_memory="64M"),
    ],
    ids=lambda job: json.dumps(job.spec)[-60:],
)
def test_nothing_is_said_about_what_is_right(job: JobBuilder) -> None:
    assert spec_problem(job.build()) is None


def test_only_the_first_problem_is_told() -> None:
    job = training(seed=1, output_dir="/x").env(HOME="x")
    assert spec_problem(job.build()) == "spec.training.extra.seed has its own field: write spec.training.seed."


@pytest.mark.parametrize("name", sorted(OWN_VARIABLES))
def test_no_variable_of_the_operator_can_be_set(name: str) -> None:
    problem = spec_problem(a_job().env(**{name: "x"}).build())
    assert problem is not None
    assert problem.startswith(f"spec.env sets {name}, which the operator sets: ")


OPTIONS = [("training", option) for library in ("TRL", "transformers") for option in fields_of_options()[library]] + [
    ("method.lora", option) for option in fields_of_options()["PEFT"]
]


@pytest.mark.parametrize(("section", "option"), OPTIONS, ids=[f"{section}: {option}" for section, option in OPTIONS])
def test_an_option_that_a_field_stands_for_is_set_by_that_field(section: str, option: str) -> None:
    problem = spec_problem(a_job().set(f"{section}.extra", {option: 1}).build())
    assert problem is not None
    assert problem.startswith(f"spec.{section}.extra.{option} has its own field: write spec.")


@pytest.mark.parametrize(("path", "library"), [("spec.training.extra", "TRL"), ("spec.method.lora.extra", "PEFT")])
def test_options_that_are_the_trainer_s_exist_and_have_no_field(path: str, library: str) -> None:
    assert OWN_OPTIONS[path].keys() <= options(library)
    assert not OWN_OPTIONS[path].keys() & set(fields_of_options()[library])


@pytest.mark.parametrize(
    ("name", "leaky"),
    [
        *((name, True) for name in ("HF_TOKEN", "token", "DB_PASSWORD", "api_key", "apiKey", "AWS_SECRET_ACCESS_KEY")),
        *((name, True) for name in ("AWS_ACCESS_KEY_ID", "client-secret", "azure.credentials", "PRIVATE_KEY")),
        *((name, False) for name in ("TOKENIZERS_PARALLELISM", "MAX_TOKENS", "KEYBOARD", "MONKEY", "secretary")),
        *((name, False) for name in ("num_key_value_heads", "NCCL_DEBUG", "tokenizer", "passwordless_login")),
    ],
)
def test_names_that_look_like_a_secret(name: str, leaky: bool) -> None:
    assert (re.search(LEAKY_NAME, name) is not None) is leaky


@pytest.mark.parametrize(
    ("value", "leaky"),
    [
        *((value, True) for value in (HUB_TOKEN, f"--token={HUB_TOKEN}", "ghp_" + "A" * 36, "sk-proj-" + "a1B" * 10)),
        *((value, True) for value in ("AKIAIOSFODNN7EXAMPLE", "AIza" + "b" * 35, "xoxb-1234567890-abc")),
        *((value, True) for value in ("https://u:p@h/x", "x\n-----BEGIN RSA PRIVATE KEY-----\n", "redis://:p@h")),
        *((value, False) for value in ("", "false", "hf_small", "gaussian", "task-12345678901234567890123")),
        *((value, False) for value in ("http://proxy:3128", "https://h/a@b:c", "hf://acme/model", "all-linear")),
    ],
)
def test_values_that_look_like_a_secret(value: str, leaky: bool) -> None:
    assert (re.search(LEAKY_VALUE, value) is not None) is leaky


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(job=valid_jobs())
def test_a_job_that_is_right_in_all_its_parts_has_no_problem(job: SFTJob) -> None:
    assert spec_problem(job) is None


@pytest.mark.parametrize(
    ("resources", "problem"),
    [
        ({"cpu": "4", "cpuLimit": "4000m"}, None),
        ({"cpuLimit": "2", "prepare": {"cpuLimit": "4"}}, None),
        (
            {"cpu": "4", "cpuLimit": "2"},
            "spec.resources.cpuLimit is 2, which is less than the 4 of spec.resources.cpu:",
        ),
        (
            {"cpu": "4", "cpuLimit": "8", "prepare": {"cpuLimit": "500m"}},
            "spec.resources.prepare.cpuLimit is 500m, which is less than the 4 of spec.resources.prepare.cpu:",
        ),
    ],
)
def test_a_cpu_limit_is_at_least_the_request(resources: dict[str, Any], problem: str | None) -> None:
    found = spec_problem(a_job().set("resources", resources).build())
    assert (found is None) if problem is None else str(found).startswith(problem)


def test_the_operators_variables_are_refused_by_name_at_apply_as_well() -> None:
    of_trainer = {"HF_TOKEN", "WANDB_API_KEY", "HF_HUB_OFFLINE"}
    named = {name for name in OWN_VARIABLES if not name.startswith(RESERVED_PREFIX)}
    assert set(OPERATOR_VARIABLES) == named - of_trainer
