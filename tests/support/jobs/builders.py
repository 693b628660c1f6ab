"""Test objects that say only what a test is about: `a_job().lora(rank=8).training(max_steps=10).build()`.

Keyword arguments are snake_case, objects come out as the API server has them. A builder is never changed; every method
returns another one.
"""

import copy
from dataclasses import dataclass, field
from typing import Any, Self

from sftjob_contract.codec import camel
from sftjob_contract.names import API_VERSION, KIND
from sftjob_operator.api import SFTJob, SFTJobStatus, parse_job, to_dict

UID = "0b5b1a9e-5a1e-4c3f-9d53-1f2f3c7d8e90"
CREATED = "2026-03-01T12:00:00Z"


def a_job(name: str = "demo", namespace: str = "team") -> "JobBuilder":
    """A LoRA job from plain paths, with every default."""
    return JobBuilder(
        metadata={"name": name, "namespace": namespace},
        spec={"model": {"source": "/models/base"}, "dataset": {"source": "/data/train.jsonl"}, "method": {"lora": {}}},
    )


def a_command(*command: str, name: str = "demo", namespace: str = "team") -> "JobBuilder":
    """A job that an image of the user's own trains, with every default."""
    return JobBuilder(
        metadata={"name": name, "namespace": namespace},
        spec={"image": "team/train:1", "command": list(command or ("python", "train.py"))},
    )


@dataclass(frozen=True)
class JobBuilder:
    """An SFTJob in the making; `metadata` and `spec` are plain JSON data."""

    metadata: dict[str, Any]
    spec: dict[str, Any]
    status: dict[str, Any] = field(default_factory=dict)

    def set(self, path: str, value: Any) -> Self:
        """With `value` at the dotted camelCase `path` below spec; None removes what is there."""
        spec = copy.deepcopy(self.spec)
        *parents, last = path.split(".")
        node = spec
        for parent in parents:
            node = node.setdefault(parent, {})
        if value is None:
            node.pop(last, None)
        else:
            node[last] = value
        return type(self)(self.metadata, spec, self.status)

    def model(self, source: str, **options: Any) -> Self:
        """Another model."""
        return self.set("model", {"source": source, **_camel(options)})

    def dataset(self, source: str, **options: Any) -> Self:
        """Another data set."""
        return self.set("dataset", {"source": source, **_camel(options)})

    def full(self) -> Self:
        """Full fine-tuning."""
        return self.set("method", {"full": {}})

    def lora(self, **options: Any) -> Self:
        """LoRA."""
        return self.set("method", {"lora": _camel(options)})

    def qlora(self, **options: Any) -> Self:
        """LoRA over quantized weights; options are those of the quantization."""
        return self.set("method", {"lora": {}, "quantization": _camel(options)})

    def distillation(self, teacher: str, **options: Any) -> Self:
        """The same method, from a teacher as well."""
        return self.set("method.distillation", {"teacher": {"source": teacher}, **_camel(options)})

    def training(self, **options: Any) -> Self:
        """Hyperparameters."""
        return self._merged("training", options)

    def evaluation(self, **options: Any) -> Self:
        """When to evaluate."""
        return self._merged("evaluation", options)

    def checkpoints(self, **options: Any) -> Self:
        """When to save."""
        return self._merged("checkpoints", options)

    def output(self, **options: Any) -> Self:
        """What to do with the trained weights."""
        return self._merged("output", options)

    def tracking(self, **options: Any) -> Self:
        """Where metrics go."""
        return self._merged("tracking", options)

    def storage(self, **options: Any) -> Self:
        """The volume."""
        return self._merged("storage", options)

    def resources(self, **options: Any) -> Self:
        """GPUs, CPU and memory."""
        return self._merged("resources", options)

    def scheduling(self, **options: Any) -> Self:
        """Where Pods may run."""
        return self._merged("scheduling", options)

    def failure_policy(self, **options: Any) -> Self:
        """Retries and backoff."""
        return self._merged("failurePolicy", options)

    def env(self, **variables: str) -> Self:
        """Environment variables, by name."""
        return self.set("env", [{"name": name, "value": value} for name, value in variables.items()])

    def meta(self, **options: Any) -> Self:
        """Metadata beyond name and namespace: uid, generation, labels, ..."""
        return type(self)({**self.metadata, **_camel(options)}, self.spec, self.status)

    def with_status(self, status: SFTJobStatus) -> Self:
        """As observed earlier."""
        return type(self)(self.metadata, self.spec, to_dict(status))

    def manifest(self) -> dict[str, Any]:
        """What a user would apply."""
        return copy.deepcopy(
            {"apiVersion": API_VERSION, "kind": KIND, "metadata": self.metadata, "spec": self.spec},
        )

    def body(self) -> dict[str, Any]:
        """What a watch would deliver."""
        served = {"uid": UID, "generation": 1, "resourceVersion": "100", "creationTimestamp": CREATED}
        body = self.manifest()
        return {**body, "metadata": {**served, **body["metadata"]}, "status": copy.deepcopy(self.status)}

    def build(self) -> SFTJob:
        """The typed job."""
        return parse_job(self.body())

    def _merged(self, section: str, options: dict[str, Any]) -> Self:
        return self.set(section, {**self.spec.get(section, {}), **_camel(options)})


def _camel(options: dict[str, Any]) -> dict[str, Any]:
    return {camel(name): value for name, value in options.items()}
