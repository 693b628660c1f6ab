"""Errors in a spec that the API server cannot detect: CEL reads neither the values of `extra` nor other programs.

They are detected before anything is created, and the job ends with the message. No message shows a possible secret.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from sftjob_contract.names import ENV_HUB_TOKEN, ENV_WANDB_API_KEY, Stage
from sftjob_contract.run.reserved_options import RESERVED_TRAINING
from sftjob_contract.secrets import LEAKY_VALUE
from sftjob_operator.api import (
    CheckpointsSpec,
    EvaluationSpec,
    OutputSpec,
    PrepareResourcesSpec,
    SFTJob,
    TrackingSpec,
    TrainingSpec,
)
from sftjob_operator.api.types import LEAKY_NAME
from sftjob_operator.api.upstream import fields_of_options
from sftjob_operator.plan.quantities import quantity
from sftjob_operator.render import own_variables, stage_resources

EXTRA_LIMIT_BYTES: Final = 16 * 1024
"""Maximum size of `extra` as JSON: the whole run config must fit into a ConfigMap, and the spec into etcd several
times."""
EXTRA_LIMIT_DEPTH: Final = 8
"""Maximum nesting of lists and maps in one option of `extra`."""
SMALLEST_AMOUNT: Final = "1Mi"
"""Less memory or disk means a forgotten unit: 16 is 16 bytes, and 500m half a byte."""

_REMOVE: Final = "remove it, since the trainer sets it"
OWN_OPTIONS: Final[Mapping[str, Mapping[str, str]]] = {
    "spec.training.extra": {option: instead for instead, group in RESERVED_TRAINING.items() for option in group},
    "spec.model.chatTemplateKwargs": dict.fromkeys((
        "add_generation_prompt", "chat_template", "continue_final_message", "conversation", "conversations", "messages",
        "return_assistant_tokens_mask", "tools",
    ), _REMOVE),
    "spec.method.lora.extra": dict.fromkeys((
        "base_model_name_or_path", "inference_mode", "peft_type", "revision", "task_type",
    ), _REMOVE),
}  # fmt: skip
"""Options that operator and trainer set themselves, and what to do instead."""
_LIBRARIES: Final[Mapping[str, tuple[str, ...]]] = {
    "spec.training.extra": ("TRL", "transformers"),
    "spec.method.lora.extra": ("PEFT",),
    "spec.model.chatTemplateKwargs": (),
}
_LEAKY_NAME: Final = re.compile(LEAKY_NAME)
_LEAKY_VALUE: Final = re.compile(LEAKY_VALUE)
_TOKENS_OF_TEXT: Final = frozenset({"eos_token", "pad_token"})
"""Options of trl.SFTConfig whose names only resemble a secret's."""
_OWN_PLACES: Final[Mapping[str, str]] = {
    ENV_HUB_TOKEN: "write spec.model.tokenSecretRef, spec.dataset.tokenSecretRef or spec.output.hub.tokenSecretRef",
    ENV_WANDB_API_KEY: "write spec.tracking.wandb.apiKeySecretRef",
}


def spec_problem(job: SFTJob) -> str | None:
    """Return the first error, as a sentence with what to write instead; None if the spec is valid."""
    return next(_problems(job), None)


def _problems(job: SFTJob) -> Iterator[str]:
    spec = job.spec
    yield from _command_problems(job)
    yield from _extra_problems("spec.training.extra", spec.training.extra)
    if spec.model is not None:
        yield from _extra_problems("spec.model.chatTemplateKwargs", spec.model.chat_template_kwargs)
    if spec.method is not None and spec.method.lora is not None:
        yield from _extra_problems("spec.method.lora.extra", spec.method.lora.extra)
    yield from _variable_problems(job)
    yield from _amount_problems(job)
    resume = spec.checkpoints.resume_from
    if resume is not None and resume.sft_job == job.metadata.name:
        yield (
            f"spec.checkpoints.resumeFrom.sftJob is this SFTJob itself, {resume.sft_job}: name another one, or remove "
            "resumeFrom, since a job resumes from its own checkpoints automatically."
        )


def _command_problems(job: SFTJob) -> Iterator[str]:
    """CEL cannot distinguish a given section from its defaults, which the API server writes into every job."""
    spec = job.spec
    if spec.command is None:
        return
    given: Mapping[str, bool] = {
        "training": spec.training != TrainingSpec(),
        "evaluation": spec.evaluation != EvaluationSpec(),
        "checkpoints": spec.checkpoints != CheckpointsSpec(),
        "output": spec.output != OutputSpec(),
        "tracking": spec.tracking != TrackingSpec(),
        "resources.prepare": spec.resources.prepare != PrepareResourcesSpec(),
    }
    for path in (path for path, is_given in given.items() if is_given):
        yield f"spec.{path} applies to the operator's trainer, and spec.command runs another program: remove it."


def _extra_problems(path: str, extra: Mapping[str, Any]) -> Iterator[str]:
    for name, value in extra.items():
        if _is_deeper(value, EXTRA_LIMIT_DEPTH):
            yield (
                f"{path}.{name} nests lists and maps more than {EXTRA_LIMIT_DEPTH} levels deep: write a simpler value."
            )
            return
    size = len(json.dumps(extra, ensure_ascii=False, separators=(",", ":")).encode())
    if size > EXTRA_LIMIT_BYTES:
        yield f"{path} has {size} bytes as JSON, more than {EXTRA_LIMIT_BYTES}: remove or shorten some of its options."
    for name, value in extra.items():
        if instead := _own_place(path, name):
            yield f"{path}.{name} {instead}."
        elif leak := next(_leaks(value, f"{path}.{name}", named=_is_leaky(name)), None):
            yield (
                f"{leak} looks like a secret, and everyone who can read the job can read it: remove it here, put it "
                "in a Secret, and reference that in spec.env with valueFrom.secretKeyRef."
            )


def _own_place(path: str, option: str) -> str | None:
    """Return why an option cannot be set in `extra`, and what to write instead; None if it can."""
    fields = [field for library in _LIBRARIES[path] for field in fields_of_options().get(library, {}).get(option, ())]
    if fields:
        return f"has its own field: write {' or '.join(fields)}"
    instead = OWN_OPTIONS[path].get(option)
    return None if instead is None else f"cannot be set here: {instead}"


def _is_deeper(value: Any, levels: int) -> bool:
    """Whether lists and maps are nested deeper than `levels`."""
    if not isinstance(value, dict | list):
        return False
    items = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_is_deeper(item, levels - 1) for item in items)


def _is_leaky(name: str) -> bool:
    return name not in _TOKENS_OF_TEXT and _LEAKY_NAME.search(name) is not None


def _leaks(value: Any, path: str, *, named: bool) -> Iterator[str]:
    """Return paths of texts that look like secrets: by their content, or (`named`) by a name on their path."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaks(item, f"{path}.{key}", named=named or _is_leaky(key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _leaks(item, f"{path}[{index}]", named=named)
    elif isinstance(value, str) and value and (named or _LEAKY_VALUE.search(value)):
        yield path


def _variable_problems(job: SFTJob) -> Iterator[str]:
    taken = own_variables(job)
    for variable in job.spec.env or ():
        if variable.name in taken:
            instead = _OWN_PLACES.get(variable.name, "remove it")
            yield f"spec.env sets {variable.name}, which the operator sets: {instead}."


def _amount_problems(job: SFTJob) -> Iterator[str]:
    resources, storage = job.spec.resources, job.spec.storage
    amounts = {
        "spec.storage.size": storage.size,
        "spec.resources.gpuMemory": resources.gpu_memory,
        "spec.resources.memory": resources.memory,
        "spec.resources.sharedMemory": resources.shared_memory,
        "spec.resources.ephemeralStorage": resources.ephemeral_storage,
        "spec.resources.prepare.memory": resources.prepare.memory,
        "spec.resources.prepare.ephemeralStorage": resources.prepare.ephemeral_storage,
    }
    for stage, section in ((Stage.TRAIN, "spec.resources"), (Stage.PREPARE, "spec.resources.prepare")):
        wanted = stage_resources(job, stage)
        if wanted.cpu and wanted.cpu_limit and quantity(wanted.cpu) > quantity(wanted.cpu_limit):
            yield (
                f"{section}.cpuLimit is {wanted.cpu_limit}, which is less than the {wanted.cpu} of {section}.cpu: "
                "write at least as much, or lower cpu."
            )
    for path, amount in amounts.items():
        if amount is not None and quantity(amount) < quantity(SMALLEST_AMOUNT):
            yield f"{path} is {amount}, which is less than {SMALLEST_AMOUNT}: write it with a unit, such as 16Gi."
