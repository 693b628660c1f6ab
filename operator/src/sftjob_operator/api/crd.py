"""Write the CustomResourceDefinition: `python -m sftjob_operator.api.crd PATH`.

The models' JSON schema is converted to the structural form that the API server requires. Anything without a structural
form is an error, so that a new field cannot lose its meaning in the conversion.
"""

import re
import sys
from pathlib import Path
from typing import Any, Final

import yaml

from sftjob_contract.names import GROUP, KIND, PLURAL, SHORT_NAME, SINGULAR, VERSION
from sftjob_operator.api.v1alpha1.sftjob import SFTJob

Schema = dict[str, Any]

_HEADER: Final = "# Generated from sftjob_operator.api by `make generate`. Do not edit.\n"
_RULES: Final = "x-kubernetes-validations"
_ORDER: Final = (
    "type", "x-kubernetes-int-or-string", "x-kubernetes-preserve-unknown-fields",
    "anyOf", "format", "description", "default", "enum", "pattern",
    "minLength", "maxLength", "minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum",
    "minItems", "maxItems", "maxProperties", "x-kubernetes-list-type", "x-kubernetes-list-map-keys",
    _RULES, "required", "properties", "items", "additionalProperties",
)  # fmt: skip
"""Keywords that a structural schema may contain, in output order."""
_FITTING: Final = {
    "string": {"format", "enum", "pattern", "minLength", "maxLength"},
    "integer": {"format", "enum", "minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"},
    "number": {"format", "minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"},
    "boolean": set(),
    "array": {"items", "minItems", "maxItems", "x-kubernetes-list-type", "x-kubernetes-list-map-keys"},
    "object": {"properties", "required", "additionalProperties", "maxProperties"},
    None: {"anyOf", "maxLength", "x-kubernetes-int-or-string", "x-kubernetes-preserve-unknown-fields"},
}
"""Additional keywords of each type. On another type, the API server would accept them and never check them."""
_ANYWHERE: Final = {"type", "description", "default", _RULES}
_COLUMNS: Final = (
    ("Phase", "string", ".status.phase", "Phase of the job's life cycle", 0),
    ("Reason", "string", '.status.conditions[?(@.type=="Succeeded")].reason', "Reason of the phase", 0),
    ("Step", "integer", ".status.progress.step", "Optimizer steps done", 0),
    ("Progress", "string", ".status.progress.percentText", "Share of the steps done", 0),
    ("Loss", "number", ".status.progress.loss", "Mean training loss over the last logging window", 0),
    ("Eval", "string", ".status.progress.evalLossChange", "First and newest evaluation loss", 0),
    ("ETA", "string", ".status.progress.eta", "Time until the last step, at the present speed", 0),
    ("GPUs", "integer", ".status.gpus", "GPUs for training, on all nodes", 0),
    ("Age", "date", ".metadata.creationTimestamp", "Time since creation", 0),
    ("Model", "string", ".spec.model.source", "The model that training starts from", 1),
    ("Method", "string", ".status.method", "full, lora or qlora", 1),
    ("Tok/s", "number", ".status.progress.tokensPerSecond", "Tokens per second over all devices", 1),
)
_METADATA: Final[Schema] = {
    "apiVersion": {"type": "string", "description": f"Always {GROUP}/{VERSION}."},
    "kind": {"type": "string", "description": f"Always {KIND}."},
    "metadata": {"type": "object"},
}


class UnsupportedSchemaError(TypeError):
    """A model uses something without a structural form; the text names the location and the feature."""


def definition() -> Schema:
    """Return the CustomResourceDefinition as JSON data."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": SINGULAR,
                "shortNames": [SHORT_NAME],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [_column(*column) for column in _COLUMNS],
                    "schema": {"openAPIV3Schema": resource_schema()},
                }
            ],
        },
    }


def resource_schema() -> Schema:
    """Return the structural schema of an SFTJob. Only spec has defaults: the operator writes the status."""
    raw = SFTJob.model_json_schema(by_alias=True)
    root = structural(raw)
    root["properties"] |= _METADATA
    root["required"] = ["spec"]
    root["properties"] = {key: root["properties"][key] for key in (*_METADATA, "spec", "status")}
    root["properties"]["status"] = _without_defaults(root["properties"]["status"])
    return root


def structural(raw: Schema) -> Schema:
    """Convert `raw`, a JSON schema from pydantic, to structural form.

    Raises:
        UnsupportedSchemaError: it uses something that has no structural form.
    """
    return _node(raw, raw.get("$defs", {}), "")


def _node(raw: Schema, definitions: Schema, path: str) -> Schema:
    raw = _resolved(raw, definitions, path)
    raw.pop("title", None)
    raw.pop("$defs", None)
    _numeric_bounds(raw)
    _refuse_unfitting(raw, path or "the root")
    if "description" in raw:
        raw["description"] = " ".join(raw["description"].split())
    if "properties" in raw:
        raw["properties"] = {
            key: _node(value, definitions, f"{path}.{key}") for key, value in raw["properties"].items()
        }
    for members in ("items", "additionalProperties"):
        if members in raw:
            raw[members] = _node(_schema(raw[members], f"{path}.{members}"), definitions, f"{path}.{members}")
    _tidy_default(raw)
    return {key: raw[key] for key in _ORDER if key in raw}


def _refuse_unfitting(raw: Schema, path: str) -> None:
    kind = raw.get("type")
    open_ended = raw.get("x-kubernetes-int-or-string") or raw.get("x-kubernetes-preserve-unknown-fields")
    if kind not in _FITTING or (kind is None and not open_ended):
        raise UnsupportedSchemaError(f"{path}: has no single type")
    if unfitting := sorted(set(raw) - _FITTING[kind] - _ANYWHERE):
        raise UnsupportedSchemaError(f"{path}: {unfitting[0]} has no place in the structural schema of a {kind}")


def _schema(value: Any, path: str) -> Schema:
    if not isinstance(value, dict):
        raise UnsupportedSchemaError(f"{path} must be a schema, not {value}")
    return value


def _resolved(raw: Schema, definitions: Schema, path: str) -> Schema:
    """Copy `raw` with its reference inlined and its null branch removed.

    Sibling keywords take precedence; rules are appended.
    """
    raw = dict(raw)
    if "$ref" in raw:
        name = raw.pop("$ref").removeprefix("#/$defs/")
        return _resolved(_beside(definitions[name], raw), definitions, path)
    if "anyOf" in raw and not raw.get("x-kubernetes-int-or-string"):
        arms = [arm for arm in raw.pop("anyOf") if arm != {"type": "null"}]
        if len(arms) != 1:
            raise UnsupportedSchemaError(f"{path}: a union of {len(arms)} types; use optional members and a rule")
        return _resolved(_beside(arms[0], raw), definitions, path)
    if "const" in raw:
        raw["enum"] = [raw.pop("const")]
    return raw


def _beside(own: Schema, more: Schema) -> Schema:
    merged = {**own, **more}
    if entries := [*own.get(_RULES, ()), *more.get(_RULES, ())]:
        merged[_RULES] = entries
    return merged


def _numeric_bounds(raw: Schema) -> None:
    """Write exclusive bounds as flags beside minimum and maximum, and a format that holds every allowed number."""
    for bound, flag in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if flag in raw:
            raw[bound] = raw[flag]
            raw[flag] = True
    if raw.get("type") == "integer":
        largest = raw.get("maximum", max(raw.get("enum", [2**53])))
        raw["format"] = "int32" if largest < 2**31 else "int64"
    if raw.get("type") == "number":
        raw["format"] = "double"


def _tidy_default(raw: Schema) -> None:
    """Return a default without nulls and empty collections; for a nested model, omit values that its fields default to.

    The API server runs rules on a default as written, so the values that they read stay in it.
    """
    default = raw.get("default")
    if isinstance(default, dict) and "properties" in raw:
        own = raw["properties"]
        seen = set(re.findall(r"\bself[.](\w+)", " ".join(entry["rule"] for entry in raw.get(_RULES, ()))))
        raw["default"] = {
            key: value
            for key, value in default.items()
            if value is not None and (not _implied(value, own[key]) or (key in seen and "default" in own[key]))
        }
    elif default is None or default in ([], {}):
        raw.pop("default", None)


def _implied(value: Any, schema: Schema) -> bool:
    if isinstance(value, dict) and "properties" in schema and "default" in schema:
        return all(_implied(item, schema["properties"][key]) for key, item in value.items() if item is not None)
    return bool(value == schema.get("default")) or value in ([], {})


def _without_defaults(schema: Schema) -> Schema:
    plain = {key: value for key, value in schema.items() if key != "default"}
    if "properties" in plain:
        plain["properties"] = {key: _without_defaults(value) for key, value in plain["properties"].items()}
    if "items" in plain:
        plain["items"] = _without_defaults(plain["items"])
    return plain


def _column(name: str, kind: str, path: str, description: str, priority: int) -> Schema:
    return {"name": name, "type": kind, "jsonPath": path, "description": description, "priority": priority}


class _Text(str):
    """A string value, always quoted: YAML would read a bare `2e-4` or `no` as another type."""

    __slots__ = ()


class _Dumper(yaml.SafeDumper):
    """YAML dumper that double-quotes values of _Text and writes no aliases."""

    def ignore_aliases(self, _data: Any) -> bool:
        return True


_Dumper.add_representer(_Text, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"'))


def to_yaml(data: Schema) -> str:
    """Serialize `data` to YAML with every string value in double quotes."""
    return yaml.dump(_quoted(data), Dumper=_Dumper, sort_keys=False, width=sys.maxsize, allow_unicode=True)


def _quoted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _quoted(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_quoted(item) for item in value]
    return _Text(value) if isinstance(value, str) else value


def main() -> None:
    """Write the definition to the path on the command line."""
    path = Path(sys.argv[1])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_HEADER + to_yaml(definition()), encoding="utf-8")


if __name__ == "__main__":
    main()
