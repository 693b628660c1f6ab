"""Node selection, environment and failure policy of the Pods."""

from enum import StrEnum
from typing import Annotated, Final

from pydantic import ConfigDict, Field

from sftjob_contract.secrets import LEAKY_VALUE
from sftjob_operator.api.types import (
    EMPTY_IS_ABSENT,
    LEAKY_NAME,
    LabelValue,
    Model,
    ObjectName,
    ObjectNameOrEmpty,
    OptionalObjectName,
    rule,
    rules,
)
from sftjob_operator.api.v1alpha1.sources import SecretKeyRef

LABEL_KEY_PATTERN: Final = "^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$"
_LABEL_KEY: Final = rule(
    f"self == '' || self.matches('{LABEL_KEY_PATTERN}')",
    "must be the key of a label or taint, such as nvidia.com/gpu: at most 63 characters after the '/'",
)
_SELECTOR_KEY_PATTERN: Final = "^([a-z0-9][a-z0-9.-]{0,252}/)?[A-Za-z0-9][-A-Za-z0-9_.]{0,62}$"
"""A map's keys are unbounded, so matching them must be cheap: the last characters are not checked."""
_METADATA_KEYS: Final = rule(
    f"self.all(key, key.matches('{_SELECTOR_KEY_PATTERN}'))",
    "each key must be a name such as example.com/team: at most 63 characters after the '/'",
)
_RESERVED_DOMAINS: Final = ("sftjob.dev/", "kubernetes.io/", "k8s.io/")
_FREE_PREFIXES: Final = ("app.kubernetes.io/", "cluster-autoscaler.kubernetes.io/", "kueue.x-k8s.io/priority-class")
_OPERATOR_KEY: Final = "app.kubernetes.io/managed-by"
_RESERVED: Final = " || ".join(f"key.contains('{domain}')" for domain in _RESERVED_DOMAINS)
_FREE: Final = " || ".join(f"key.startsWith('{prefix}')" for prefix in _FREE_PREFIXES)
_FREE_KEYS: Final = rule(
    f"self.all(key, key != '{_OPERATOR_KEY}' && (!({_RESERVED}) || {_FREE}))",
    f"no key may be {_OPERATOR_KEY} or of sftjob.dev, kubernetes.io or k8s.io, but those of app.kubernetes.io, "
    "cluster-autoscaler.kubernetes.io and kueue.x-k8s.io/priority-class: remove it, or use a domain of your own",
)
_NO_SECRET: Final = rule(
    f"!self.matches(r'{LEAKY_VALUE}')",
    "looks like a secret, and everyone who may read the job can read it: remove it, and put it into a Secret",
)
OptionalLabelKey = Annotated[
    Annotated[str, Field(max_length=317, json_schema_extra=rules(_LABEL_KEY))] | None, EMPTY_IS_ABSENT
]
"""Key of a label or taint; an empty one means no key."""
RESERVED_PREFIX: Final = "SFTJOB_"
"""Prefix of the variables that the operator sets in Pods."""
OPERATOR_VARIABLES: Final = (
    "HOME", "TMPDIR", "USER", "XDG_CACHE_HOME", "HF_HOME", "HF_DATASETS_CACHE", "HF_MODULES_CACHE",
    "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "PYTHONUNBUFFERED", "HF_HUB_DISABLE_TELEMETRY",
    "NVIDIA_VISIBLE_DEVICES", "KUBEFLOW_TRAINER_SERVER_URL", "KUBEFLOW_TRAINER_SERVER_CA_CERT",
    "KUBEFLOW_TRAINER_SERVER_TOKEN",
)  # fmt: skip
"""The other variables that the operator sets in the Pods of every job."""


def is_reserved(key: str) -> bool:
    """Whether a label or annotation key is reserved for Kubernetes, Kueue or the operator, and forbidden for users."""
    taken = any(domain in key for domain in _RESERVED_DOMAINS) and not key.startswith(_FREE_PREFIXES)
    return taken or key == _OPERATOR_KEY


class TaintEffect(StrEnum):
    """What a taint does to Pods that do not tolerate it."""

    NO_SCHEDULE = "NoSchedule"
    PREFER_NO_SCHEDULE = "PreferNoSchedule"
    NO_EXECUTE = "NoExecute"
    ABSENT = ""
    """The explicit form of the default: every effect."""


class TolerationOperator(StrEnum):
    """How a toleration compares with a taint."""

    EQUAL = "Equal"
    EXISTS = "Exists"
    ABSENT = ""
    """The explicit form of the default: Equal."""


class Toleration(Model):
    """A taint that the Pods may run beside, in the form of a Pod's own tolerations."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "!has(self.operator) || self.operator != 'Exists' || !has(self.value) || self.value == ''",
                "operator Exists takes no value: remove value, or write operator: Equal",
            ),
            rule(
                "(has(self.key) && self.key != '') || (has(self.operator) && self.operator == 'Exists')",
                "operator Equal needs a key: add key, or write operator: Exists to tolerate every taint",
            ),
            rule(
                "!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
                "tolerationSeconds needs effect: NoExecute",
            ),
        )
    )

    key: OptionalLabelKey = None
    """Key of the taint. Absent: every key."""
    operator: Annotated[TolerationOperator | None, EMPTY_IS_ABSENT] = None
    """Equal compares the value, Exists takes any. Absent: Equal."""
    value: Annotated[LabelValue | None, EMPTY_IS_ABSENT] = None
    """Value of the taint."""
    effect: Annotated[TaintEffect | None, EMPTY_IS_ABSENT] = None
    """Effect of the taint. Absent: every effect."""
    toleration_seconds: Annotated[int, Field(ge=0, le=31_536_000)] | None = None
    """How long a Pod stays after a NoExecute taint appears. Absent: forever."""


class SchedulingSpec(Model):
    """Where the Pods may run. It holds for those of every stage, so that the volume is reachable from all."""

    node_selector: dict[str, LabelValue] = Field(
        default_factory=dict,
        max_length=32,
        json_schema_extra=rules(
            rule(
                f"self.all(key, key.matches('{_SELECTOR_KEY_PATTERN}'))",
                "each key must be that of a label, such as nvidia.com/gpu.product: at most 63 characters after the '/'",
            )
        ),
    )
    """Labels that a node must have."""
    tolerations: Annotated[
        tuple[Toleration, ...], Field(max_length=16, json_schema_extra={"x-kubernetes-list-type": "atomic"})
    ] = ()
    """Taints to tolerate."""
    gpu_products: Annotated[
        tuple[Annotated[LabelValue, Field(min_length=1)], ...],
        Field(max_length=16, json_schema_extra={"x-kubernetes-list-type": "set"}),
    ] = ()
    """GPU products that the nodes must have one of, as the vendor's feature discovery labels them:
    NVIDIA-A100-SXM4-80GB, NVIDIA-H100-80GB-HBM3."""
    topology_key: OptionalLabelKey = None
    """With several nodes, the label whose value they must share, such as topology.kubernetes.io/zone. Absent: any."""
    priority_class_name: OptionalObjectName = None
    """PriorityClass of the Pods. Absent: the cluster's default."""
    queue_name: Annotated[Annotated[ObjectNameOrEmpty, Field(max_length=63)] | None, EMPTY_IS_ABSENT] = None
    """Kueue LocalQueue of the namespace that the Train Pods wait in. Absent: they are scheduled at once."""
    scheduler_name: OptionalObjectName = None
    """Scheduler of the Pods. Absent: the cluster's default."""
    runtime_class_name: OptionalObjectName = None
    """RuntimeClass of the Pods, such as nvidia. Absent: the cluster's default."""
    service_account_name: OptionalObjectName = None
    """ServiceAccount of the Pods, for image pulls and cloud identities. They get no token for the Kubernetes API.
    Absent: default."""


class FailurePolicySpec(Model):
    """What happens when a Pod dies or asks to be run again. Errors in spec or data are never retried."""

    max_retries: Annotated[int, Field(ge=0, le=20)] = 6
    """Failed attempts after which another one follows. Interruptions, and attempts that ran out of GPU memory and
    continue with a smaller micro-batch, do not count."""
    max_interruptions: Annotated[int, Field(ge=0, le=10_000)] = 100
    """Interruptions after which another attempt follows: preemption, eviction, a lost node, a deleted Pod. The next
    attempt starts at once as long as the run gets further."""
    backoff_seconds: Annotated[int, Field(ge=0, le=3600)] = 1
    """Wait before the first retry. It doubles each time, up to 600 seconds; after a 0 it continues with 2. A random
    part of it, up to a quarter, is left out."""


class EnvVarSource(Model):
    """Where the value of a variable comes from."""

    secret_key_ref: SecretKeyRef
    """Key of a Secret in the job's namespace."""


class EnvVar(Model):
    """An environment variable of every Pod of the job, in the form of a Pod's own."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "!has(self.valueFrom) || !has(self.value) || self.value == ''",
                "must not have both value and valueFrom: remove value, or remove valueFrom",
            ),
            rule(
                f"!has(self.value) || self.value == '' || !(self.name.matches(r'{LEAKY_NAME}') "
                f"|| self.value.matches(r'{LEAKY_VALUE}'))",
                "looks like a secret, and everyone who may read the job can read it: put it into a Secret and write "
                "valueFrom.secretKeyRef",
            ),
        )
    )

    name: Annotated[
        str,
        Field(
            min_length=1,
            max_length=128,
            json_schema_extra=rules(
                rule(
                    "self.matches('^[A-Za-z_][A-Za-z0-9_]*$')",
                    "must be the name of an environment variable: letters, digits and '_'",
                ),
                rule(
                    f"!self.startsWith('{RESERVED_PREFIX}')",
                    f"must not begin with {RESERVED_PREFIX}: those variables are the operator's own",
                ),
                rule(
                    f"!(self in {list(OPERATOR_VARIABLES)})",
                    "is a variable that the operator sets in every Pod: remove it",
                ),
            ),
        ),
    ]
    """Name of the variable."""
    value: Annotated[str, Field(max_length=4096)] | None = None
    """Its value, for what is no secret. Absent, and without valueFrom: empty."""
    value_from: EnvVarSource | None = None
    """Where the value comes from instead."""


class PodMetadataSpec(Model):
    """Labels and annotations of the Pods, as a policy, a service mesh or a cost report of the cluster needs them."""

    labels: dict[str, LabelValue] = Field(
        default_factory=dict,
        max_length=32,
        json_schema_extra=rules(_METADATA_KEYS, _FREE_KEYS),
    )
    """Labels of every Pod of the job. The SFTJob's own labels are copied to the Pods as well; those here take
    precedence."""
    annotations: dict[str, Annotated[str, Field(max_length=4096, json_schema_extra=rules(_NO_SECRET))]] = Field(
        default_factory=dict,
        max_length=16,
        json_schema_extra=rules(_METADATA_KEYS, _FREE_KEYS),
    )
    """Annotations of every Pod of the job."""


class LocalObjectReference(Model):
    """An object of the job's namespace, by name."""

    name: ObjectName
    """Name of the object."""


class ImagePullPolicy(StrEnum):
    """When the kubelet pulls an image."""

    ALWAYS = "Always"
    IF_NOT_PRESENT = "IfNotPresent"
    NEVER = "Never"
    ABSENT = ""
    """An empty value in a chart: the default."""
