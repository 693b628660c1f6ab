"""Hypothesis strategies of whole jobs that the API server accepts: every field of the spec, its rules obeyed.

Fields and bounds come from the schema, so a new field is drawn without a change here. What a rule asks of a text is
found by the rule's message, what it asks of several fields is repaired after drawing.
"""

import functools
from typing import Any, Final

from hypothesis import strategies as st

from sftjob_contract.names import API_VERSION, KIND
from sftjob_operator.api import NAME_LIMIT, SFTJob, parse_job
from sftjob_operator.api.crd import resource_schema
from support.jobs.builders import CREATED, UID

Node = dict[str, Any]

_MODELS: Final = (
    *("acme/base", "hf://acme/base-7b", "pvc://models/base", "pvc://models", "s3://models/base", "gs://models/base"),
    *("https://models.example.com/base.tar.gz", "/models/base"),
)
_DATA: Final = (
    *("acme/rows", "hf://acme/rows", "hf://acme/rows/train.jsonl", "pvc://data/train.jsonl", "pvc://data"),
    *("s3://data/train.parquet", "gs://data/rows", "https://data.example.com/train.jsonl", "/data/train.jsonl"),
)
_LABEL_KEY: Final = "must be the key of a label or taint"
_OWN_KEYS: Final = ("team", "example.com/cost-center", "app.kubernetes.io/part-of")
"""Keys that a user may give to Pods."""
_TEXTS: Final[dict[str, tuple[str, ...]]] = {
    "must be ORG/NAME or hf://ORG/NAME for a model": _MODELS,
    "must be ORG/NAME or hf://ORG/NAME for a dataset": _DATA,
    "must be pvc://CLAIM/PATH, or an s3:// or gs:// URI": ("pvc://old/checkpoints/checkpoint-5", "s3://old/c-5"),
    "must be an s3:// or gs:// URI": ("s3://models/out", "gs://models"),
    "must be an http:// or https:// URL": ("https://tracking.example.com", "http://mlflow:5000/api"),
    "must be ORG/NAME of a repository": ("acme/tuned", "a.b/c_d-e"),
    "must be a token without white space": ("<|tool|>", "#x", "\u00e9", "t" * 64),
    "must be the name of a Kubernetes object": ("demo", "team-a", "shared.storage", "s" * 63),
    "must be a label's value": ("yes", "NVIDIA-A100-SXM4-80GB", "a_b.c"),
    _LABEL_KEY: ("gpu", "nvidia.com/gpu.product", "topology.kubernetes.io/zone"),
    "must be a key of the Secret": ("token", "API.key_1"),
    "must be a key of the ConfigMap": ("template", "chat_template.jinja"),
    "must be the name of a Python function": ("preprocess", "clean_2"),
    "must be an extended resource": ("nvidia.com/gpu", "nvidia.com/mig-1g.10gb", "amd.com/gpu"),
    "must be the name of an environment variable": ("TOKENIZERS_PARALLELISM", "NCCL_DEBUG", "_lower_1", "A"),
    "looks like a secret": ("python", "/app/train.py", "--output=$(SFTJOB_VOLUME)/output", ""),
    "must be an image reference": ("trainer:1", "registry.example.com:5000/team/trainer@sha256:" + "0" * 64),
}
"""Good values of a text, by how the message of its first rule begins."""
_EXTRA: Final[dict[str, Node]] = {
    "training": {"adam_beta2": 0.95, "lr_scheduler_kwargs": {"num_cycles": 2}, "tf32": True, "eos_token": "<|end|>"},
    "lora": {"init_lora_weights": "gaussian", "layers_to_transform": [0, 1], "rank_pattern": {"q_proj": 8}},
    "model": {"enable_thinking": False, "date_string": "1 May 2026", "builtin_tools": ["search"]},
}
"""Options under a library's own names, by the object that has them."""
_VARIABLE_VALUES: Final = ("", "false", "INFO", "a, b=c")
_CPUS: Final = (1, "4", "1.5", "500m")
_CPU_LIMITS: Final = (4, "8", "4500m")
_BYTES: Final = (2_000_000_000, "2000000000", "1Mi", "1.5Gi", "64Gi", "16Ti", "80G")
_RECIPE: Final = ("model", "dataset", "method")
_SMALL: Final = 3
"""Longest list or map that is drawn."""

names = st.from_regex(rf"[a-z0-9]([-a-z0-9]{{0,{NAME_LIMIT - 2}}}[a-z0-9])?", fullmatch=True)


@st.composite
def valid_manifests(draw: st.DrawFn) -> Node:
    """What a user would apply: any spec that is accepted."""
    spec: Node = draw(_specs())
    own_image = "command" in spec and draw(st.booleans())
    for repair in (_own_image, _cluster, _scheduling) if own_image else _REPAIRS:
        repair(draw, spec)
    metadata = {"name": draw(names), "namespace": draw(names)}
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": spec}


def valid_jobs() -> st.SearchStrategy[SFTJob]:
    """The typed jobs of `valid_manifests`."""
    return valid_manifests().map(_typed)


@functools.cache
def _specs() -> st.SearchStrategy[Node]:
    """Specs whose fields are within their own bounds; rules about several fields may not hold."""
    schema = resource_schema()["properties"]["spec"]
    return _object({**schema, "required": _RECIPE}, "spec")


def _typed(manifest: Node) -> SFTJob:
    served = {"uid": UID, "generation": 1, "resourceVersion": "100", "creationTimestamp": CREATED}
    return parse_job({**manifest, "metadata": {**served, **manifest["metadata"]}})


def _object(schema: Node, name: str) -> st.SearchStrategy[Node]:
    fields = {key: _value(field, key, name) for key, field in schema.get("properties", {}).items()}
    required = schema.get("required", ())
    return st.fixed_dictionaries(
        {key: value for key, value in fields.items() if key in required},
        optional={key: value for key, value in fields.items() if key not in required},
    )


def _value(schema: Node, name: str, parent: str) -> st.SearchStrategy[Any]:
    if name in ("extra", "chatTemplateKwargs"):
        return _part_of(_EXTRA[parent])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if schema.get("x-kubernetes-int-or-string"):
        return st.sampled_from({"cpu": _CPUS, "cpuLimit": _CPU_LIMITS}.get(name, _BYTES))
    if schema["type"] == "array":
        return _list(schema, name, parent)
    if schema["type"] == "object":
        return _map(schema, name) if "additionalProperties" in schema else _object(schema, name)
    return _scalar(schema)


def _scalar(schema: Node) -> st.SearchStrategy[Any]:
    if schema["type"] == "boolean":
        return st.booleans()
    if schema["type"] == "integer":
        return st.integers(schema["minimum"], schema["maximum"])
    return _number(schema) if schema["type"] == "number" else _text(schema)


def _map(schema: Node, name: str) -> st.SearchStrategy[Node]:
    keys = st.sampled_from(_OWN_KEYS if name in ("labels", "annotations") else _TEXTS[_LABEL_KEY])
    return st.dictionaries(keys, _value(schema["additionalProperties"], name, name), max_size=_SMALL)


def _part_of(options: Node) -> st.SearchStrategy[Node]:
    return st.fixed_dictionaries({}, optional={key: st.just(value) for key, value in options.items()})


def _list(schema: Node, name: str, parent: str) -> st.SearchStrategy[list[Any]]:
    by = {"set": lambda item: item, "map": lambda item: item["name"]}.get(schema["x-kubernetes-list-type"])
    items = _value(schema["items"], name, parent)
    most = min(schema["maxItems"], _SMALL)
    return st.lists(items, min_size=schema.get("minItems", 0), max_size=most, unique_by=by)


def _number(schema: Node) -> st.SearchStrategy[float]:
    low, high = bool(schema.get("exclusiveMinimum")), bool(schema.get("exclusiveMaximum"))
    return st.floats(schema["minimum"], schema["maximum"], exclude_min=low, exclude_max=high)


def _text(schema: Node) -> st.SearchStrategy[str]:
    if "x-kubernetes-validations" not in schema:
        return st.text("abc XYZ_-é{%", min_size=schema.get("minLength", 0), max_size=12)
    message = schema["x-kubernetes-validations"][0]["message"]
    (values,) = (values for begin, values in _TEXTS.items() if message.startswith(begin))
    return st.sampled_from([value for value in values if len(value) <= schema["maxLength"]])


def _keep_one(draw: st.DrawFn, node: Node, fields: tuple[str, ...], otherwise: Any) -> None:
    """Exactly one of `fields`: one of those that were drawn, or the first with the value `otherwise`."""
    given = [field for field in fields if field in node]
    kept = draw(st.sampled_from(given)) if given else fields[0]
    node.setdefault(kept, otherwise)
    _remove(node, *(field for field in fields if field != kept))


def _at_most_one(draw: st.DrawFn, node: Node, *fields: str) -> None:
    if all(field in node for field in fields):
        node.pop(draw(st.sampled_from(fields)))


def _remove(node: Node, *fields: str) -> None:
    for field in fields:
        node.pop(field, None)


def _on_hub(source: str | None) -> bool:
    return source is not None and (source.startswith("hf://") or not ("://" in source or source.startswith("/")))


def _remote(source: str | None) -> bool:
    return source is not None and source.startswith(("s3://", "gs://", "https://"))


def _own_image(_: st.DrawFn, spec: Node) -> None:
    spec.setdefault("image", "train:1")
    _remove(spec, *_RECIPE, "training", "evaluation", "checkpoints", "output", "tracking")
    _remove(spec.get("resources", {}), "prepare")
    _remove(spec.get("storage", {}), "existingContent")


def _no_command(_: st.DrawFn, spec: Node) -> None:
    _remove(spec, "command")


def _model(draw: st.DrawFn, spec: Node) -> None:
    model = spec["model"]
    if "chatTemplate" in model:
        _keep_one(draw, model["chatTemplate"], ("name", "jinja", "configMapKeyRef"), "chatml")
    _rope(model.get("ropeScaling", {}))
    if "addedSpecialTokens" in model:
        special, plain = model["addedSpecialTokens"], model.get("addedTokens", [])
        model["addedSpecialTokens"] = [token for token in special if token not in plain]
    teacher = spec["method"].get("distillation", {}).get("teacher", {})
    for node in (model, teacher):
        if not _on_hub(node.get("source")):
            _remove(node, "revision")
    start = spec.get("checkpoints", {}).get("resumeFrom", {})
    if not any(_on_hub(node.get("source")) for node in (model, teacher)):
        _remove(model, "tokenSecretRef")
    if not any(_remote(node.get("source")) for node in (model, teacher)) and (
        "sftJob" in start or not _remote(start.get("source"))
    ):
        _remove(model, "secretRef")


def _rope(scaling: Node) -> None:
    of_types = {
        "yarn": ("attentionFactor", "betaFast", "betaSlow"),
        "llama3": ("lowFreqFactor", "highFreqFactor"),
    }
    _remove(scaling, *(field for kind, fields in of_types.items() if kind != scaling.get("type") for field in fields))
    if scaling.get("type") == "linear":
        _remove(scaling, "originalMaxPositionEmbeddings")
    if scaling.get("betaSlow", 1) >= scaling.get("betaFast", 32):
        _remove(scaling, "betaSlow", "betaFast")
    if scaling.get("lowFreqFactor", 1) >= scaling.get("highFreqFactor", 4):
        _remove(scaling, "lowFreqFactor", "highFreqFactor")


def _dataset(draw: st.DrawFn, spec: Node) -> None:
    data = spec["dataset"]
    _keep_one(draw, data, ("source", "sources"), "acme/rows")
    if "sources" in data:
        _remove(data, "revision", "subset", "split", "maxSamples")
    parts = data.get("sources", [data])
    for part in parts:
        if not _on_hub(part["source"]):
            _remove(part, "revision", "subset", "split")
    for part in (data, *data.get("sources", [])):
        _rows(draw, part)
    if data.get("minTokens", 0) > data.get("maxTokens", 2**30):
        data["minTokens"], data["maxTokens"] = data["maxTokens"], data["minTokens"]
    if data.get("onInvalidRow") != "Skip":
        _remove(data, "maxInvalidRows")
    if "evaluation" in data:
        _held_out(draw, data["evaluation"], parts)
    sources = [*(part["source"] for part in parts), data.get("evaluation", {}).get("source")]
    if not any(map(_on_hub, sources)):
        _remove(data, "tokenSecretRef")
    if not any(map(_remote, sources)):
        _remove(data, "secretRef")


def _rows(draw: st.DrawFn, part: Node) -> None:
    preprocessing, validation = part.get("preprocessing"), part.get("validation")
    if preprocessing is not None:
        _keep_one(draw, preprocessing, ("template", "function"), {})
        if "template" in preprocessing:
            _remove(part, "format")
            _template(draw, preprocessing["template"])
    if validation is not None:
        if not {"regex", "syntax", "command"} & set(validation):
            validation["syntax"] = "python"
        if "command" not in validation:
            _remove(validation, "timeoutSeconds")


def _template(draw: st.DrawFn, template: Node) -> None:
    _keep_one(draw, template, ("text", "prompt"), "{{ a }}")
    if "text" in template:
        _remove(template, "completion")
    else:
        template.setdefault("completion", "{{ b }}")


def _held_out(draw: st.DrawFn, held_out: Node, parts: list[Node]) -> None:
    trained_on = {part.get("split", "train") for part in parts}
    if not all(_on_hub(part["source"]) for part in parts) or held_out.get("split") in trained_on:
        _remove(held_out, "split")
    if held_out.get("source") in {part["source"] for part in parts}:
        _remove(held_out, "source")
    _keep_one(draw, held_out, ("fraction", "split", "source"), 0)


def _method(draw: st.DrawFn, spec: Node) -> None:
    method = spec["method"]
    _keep_one(draw, method, ("full", "lora"), {})
    if "full" in method:
        _remove(method, "quantization")
    if method.get("quantization", {}).get("bits") == 8:
        _remove(method["quantization"], "type", "doubleQuantization", "computeDtype")
    modules = method.get("lora", {}).get("targetModules", [])
    if "all-linear" in modules:
        modules[:] = ["all-linear"]


def _training(draw: st.DrawFn, spec: Node) -> None:
    training = spec.get("training", {})
    _at_most_one(draw, training, "epochs", "maxSteps")
    _at_most_one(draw, training, "gradientAccumulationSteps", "globalBatchSize")
    _at_most_one(draw, training, "warmupRatio", "warmupSteps")
    if training.get("scheduler") == "constant":
        _remove(training, "warmupRatio", "warmupSteps")
    if training.get("warmupSteps", 0) >= training.get("maxSteps", 2**30):
        _remove(training, "warmupSteps")
    if not training.get("packing"):
        _remove(training, "packingStrategy")
    formats = {part.get("format", spec["dataset"].get("format", "auto")) for part in _parts(spec)} - {"auto"}
    wanted = {"completion": {"prompt-completion", "alpaca"}, "assistant": {"messages", "sharegpt"}}
    if not formats <= wanted.get(training.get("lossOn", "all"), formats):
        _remove(training, "lossOn")
    if training.get("packingStrategy") == "wrapped" and training.get("lossOn", "all") != "all":
        _remove(training, "lossOn")


def _parts(spec: Node) -> list[Node]:
    parts: list[Node] = spec["dataset"].get("sources", [spec["dataset"]])
    return parts


def _results(draw: st.DrawFn, spec: Node) -> None:
    for section in ("evaluation", "checkpoints"):
        _at_most_one(draw, spec.get(section, {}), "everySteps", "perEpoch")
    start = spec.get("checkpoints", {}).get("resumeFrom")
    if start is not None:
        _keep_one(draw, start, ("sftJob", "source"), "older")
        if "source" in start:
            _remove(start, "step")
    if "apiKeySecretRef" not in spec.get("tracking", {}).get("wandb", {}):
        _remove(spec.get("tracking", {}).get("wandb", {}), "baseUrl")
    if "trackingUri" not in spec.get("tracking", {}).get("mlflow", {}):
        _remove(spec.get("tracking", {}).get("mlflow", {}), "secretRef")


def _cluster(draw: st.DrawFn, spec: Node) -> None:
    storage, resources = spec.get("storage", {}), spec.get("resources", {})
    if "existingClaim" in storage:
        _remove(storage, "storageClassName", "retain")
    if "ReadWriteOncePod" in storage.get("accessModes", ()):
        storage["accessModes"] = ["ReadWriteOncePod"]
    if resources.get("gpus") == 0:
        _remove(resources, "nodes")
    if "/mig-" in resources.get("gpuResourceName", ""):
        _remove(resources, "gpus")
    if resources.get("nodes", 1) > 1 and "existingClaim" not in storage:
        modes = storage.get("accessModes", ["ReadWriteMany"])
        kept = ["ReadWriteMany", *(mode for mode in modes if mode == "ReadWriteOnce")]
        spec["storage"] = {**storage, "accessModes": kept}


def _scheduling(draw: st.DrawFn, spec: Node) -> None:
    scheduling = spec.get("scheduling", {})
    if spec.get("resources", {}).get("nodes", 1) == 1:
        _remove(scheduling, "topologyKey")
    for toleration in scheduling.get("tolerations", []):
        if "key" not in toleration:
            toleration["operator"] = "Exists"
        if toleration.get("operator") == "Exists":
            _remove(toleration, "value")
        if "tolerationSeconds" in toleration:
            toleration["effect"] = "NoExecute"
    for variable in spec.get("env", []):
        if "value" in variable:
            variable["value"] = draw(st.sampled_from(_VARIABLE_VALUES))
        _keep_one(draw, variable, ("value", "valueFrom"), "")


def _across_sections(draw: st.DrawFn, spec: Node) -> None:
    model, data, training = spec["model"], spec["dataset"], spec.get("training", {})
    if "tokenSecretRef" in model and "tokenSecretRef" in data:
        data["tokenSecretRef"] = dict(model["tokenSecretRef"])
    if data.get("evaluation", {}).get("fraction") == 0:
        _remove(training, "earlyStopping")
        _remove(spec.get("evaluation", {}), "everySteps", "perEpoch", "metrics", "savePredictions")
    if any("function" in part.get("preprocessing", {}) for part in (data, *data.get("sources", []))):
        model["trustRemoteCode"] = True
    if "lora" not in spec["method"]:
        _remove(spec.get("output", {}), "mergeAdapter")
    if not spec.get("output", {}).get("mergeAdapter"):
        _remove(spec.get("output", {}), "mergeDtype")
    resources = spec.get("resources", {})
    if resources.get("gpus") == 0:
        _remove(training, "precision", "kernels")
        _remove(model, "attention")
    if "globalBatchSize" in training:
        devices = max(1, resources.get("gpus", 1)) * resources.get("nodes", 1)
        training["perDeviceBatchSize"] = min(training.get("perDeviceBatchSize", 4), 2**20 // devices)
        step = devices * training["perDeviceBatchSize"]
        training["globalBatchSize"] = step * draw(st.integers(1, min(64, 2**20 // step)))


_REPAIRS: Final = (
    _no_command, _model, _dataset, _method, _training, _results, _cluster, _scheduling, _across_sections,
)  # fmt: skip
