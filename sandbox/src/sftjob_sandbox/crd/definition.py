"""The rules for CustomResourceDefinitions.

Source: apiextensions-apiserver's pkg/apis/apiextensions/validation/validation.go. With one version, the API server
names its schema and columns `spec.validation` and `spec.additionalPrinterColumns`; so do these causes.
"""

from collections.abc import Mapping
from typing import Any, Final

from sftjob_sandbox.apimachinery import names
from sftjob_sandbox.apimachinery.causes import forbidden, invalid, required
from sftjob_sandbox.apimachinery.errors import Cause
from sftjob_sandbox.apimachinery.metadata import immutable, one_of
from sftjob_sandbox.apimachinery.objects import Object
from sftjob_sandbox.crd.rule_checks import RuleScope
from sftjob_sandbox.crd.rules import compile_rules, run_rules
from sftjob_sandbox.crd.schema_checks import check_schema
from sftjob_sandbox.crd.structural import prune
from sftjob_sandbox.crd.structure import check_structural
from sftjob_sandbox.crd.values import ValueSchema

_COLUMN_TYPES: Final = ("boolean", "date", "integer", "number", "string")
_COLUMN_FORMATS: Final = ("byte", "date", "date-time", "double", "float", "int32", "int64", "password")
_SCHEMA: Final = "spec.validation.openAPIV3Schema"
_AT_ROOT: Final = (
    "Description", "Type", "Format", "Title", "Maximum", "ExclusiveMaximum", "Minimum", "ExclusiveMinimum", "MaxLength",
    "MinLength", "Pattern", "MaxItems", "MinItems", "UniqueItems", "MultipleOf", "Required", "Items", "Properties",
    "ExternalDocs", "Example", "XPreserveUnknownFields", "XValidations",
)  # fmt: skip
_ROOT_KEYWORDS: Final = frozenset({
    *(name[0].lower() + name[1:] for name in _AT_ROOT[:-2]),
    "x-kubernetes-preserve-unknown-fields", "x-kubernetes-validations",
})  # fmt: skip
_UNSUPPORTED: Final = "this local server does not support the field: remove it"


def check_definition(definition: Object) -> list[Cause]:
    """Every reason to refuse a CustomResourceDefinition with defaults, besides those of its metadata."""
    spec, declared = definition["spec"], definition["spec"].get("names") or {}
    name, wanted = definition["metadata"].get("name", ""), f"{declared.get('plural', '')}.{spec.get('group', '')}"
    causes = [] if name == wanted else [invalid("metadata.name", name, 'must be spec.names.plural+"."+spec.group')]
    causes += [
        *_check_group(spec.get("group") or ""),
        *one_of("spec.scope", spec.get("scope"), ("Cluster", "Namespaced")),
        *_check_names(declared),
    ]
    versions = spec.get("versions") or []
    if len(versions) != 1:
        return [*causes, invalid("spec.versions", len(versions), "this local server supports exactly one version")]
    if (strategy := (spec.get("conversion") or {}).get("strategy")) != "None":
        text = "this local server calls no conversion webhooks: write None"
        causes.append(invalid("spec.conversion.strategy", strategy, text))
    return [*causes, *_check_version(versions[0])]


def check_definition_update(new: Object, old: Object) -> list[Cause]:
    """What a change may not touch."""
    causes: list[Cause] = []
    conditions = (old.get("status") or {}).get("conditions") or ()
    before, after = old["spec"], new["spec"]
    if any(c.get("type") == "Established" and c.get("status") == "True" for c in conditions):
        causes += immutable("spec.scope", after.get("scope"), before.get("scope"))
        causes += immutable("spec.names.kind", after["names"].get("kind"), before["names"].get("kind"))
    causes += immutable("spec.group", after.get("group"), before.get("group"))
    causes += immutable("spec.names.plural", after["names"].get("plural"), before["names"].get("plural"))
    known = {version["name"] for version in after["versions"]}
    for index, stored in enumerate((old.get("status") or {}).get("storedVersions") or ()):
        if stored not in known:
            causes.append(invalid(f"status.storedVersions[{index}]", stored, "must appear in spec.versions"))
    return causes


def _check_group(group: str) -> list[Cause]:
    if not group:
        return [required("spec.group")]
    if texts := names.dns1123_subdomain(group):
        return [invalid("spec.group", group, ",".join(texts))]
    return [] if "." in group else [invalid("spec.group", group, "should be a domain with at least one dot")]


def _check_version(version: Object) -> list[Cause]:
    where, name = "spec.versions[0]", version.get("name") or ""
    texts = names.dns1035_label(name)
    causes = [invalid(f"{where}.name", name, ",".join(texts))] if texts else []
    if not version.get("storage"):
        causes.append(invalid("spec.versions", [version], "must have exactly one version marked as storage version"))
    for key in ("deprecated", "deprecationWarning", "selectableFields"):
        causes += [forbidden(f"{where}.{key}", _UNSUPPORTED)] if version.get(key) else []
    if "scale" in (version.get("subresources") or {}):
        causes.append(forbidden("spec.subresources.scale", _UNSUPPORTED))
    schema = (version.get("schema") or {}).get("openAPIV3Schema")
    if schema is None:
        return [*causes, required(f"{where}.schema.openAPIV3Schema", "schemas are required")]
    if (version.get("subresources") or {}).get("status") is not None:
        causes += _check_root(schema)
    return [*causes, *_check_schema(schema), *_check_columns(version.get("additionalPrinterColumns") or [])]


def _check_names(declared: Object) -> list[Cause]:
    causes = [
        required(f"spec.names.{key}") for key in ("plural", "singular", "kind", "listKind") if not declared.get(key)
    ]
    for key in ("plural", "singular"):
        value = declared.get(key) or ""
        texts = names.dns1035_label(value) if value else []
        causes += [invalid(f"spec.names.{key}", value, ",".join(texts))] if texts else []
    for key in ("kind", "listKind"):
        value = declared.get(key) or ""
        texts = names.dns1035_label(value.lower()) if value else []
        text = "may have mixed case, but should otherwise match: " + ",".join(texts)
        causes += [invalid(f"spec.names.{key}", value, text)] if texts else []
    if declared.get("kind") and declared.get("kind") == declared.get("listKind"):
        text = "kind and listKind may not be the same"
        causes.append(invalid("spec.names.listKind", declared["listKind"], text))
    for key in ("shortNames", "categories"):
        for index, value in enumerate(declared.get(key) or ()):
            texts = names.dns1035_label(value)
            causes += [invalid(f"spec.names.{key}[{index}]", value, ",".join(texts))] if texts else []
    return causes


def _check_schema(schema: Object) -> list[Cause]:
    found = check_structural(schema, _SCHEMA) or check_defaults(schema, _SCHEMA)
    scope = None if found else RuleScope.of_root(schema)
    causes = [*found, *check_schema(schema, _SCHEMA, scope)]
    return causes + (scope.costs.causes(_SCHEMA) if scope is not None else [])


def _check_root(schema: Object) -> list[Cause]:
    """With a status subresource the root can only describe an object."""
    if schema.get("type") not in (None, "object"):
        text = 'only "object" is allowed as the type at the root of the schema if the status subresource is enabled'
        return [invalid(f"{_SCHEMA}.type", schema["type"], text)]
    if set(schema) <= _ROOT_KEYWORDS:
        return []
    shown = "[" + " ".join(_AT_ROOT) + "]"
    text = f"only {shown} fields are allowed at the root of the schema if the status subresource is enabled"
    return [invalid(_SCHEMA, schema, text)]


def _check_columns(columns: list[dict[str, Any]]) -> list[Cause]:
    causes: list[Cause] = []
    types, formats = ",".join(_COLUMN_TYPES), ",".join(_COLUMN_FORMATS)
    for index, column in enumerate(columns):
        where, kind, path = f"spec.additionalPrinterColumns[{index}]", column.get("type") or "", column.get("jsonPath")
        causes += [] if column.get("name") else [required(f"{where}.name")]
        if kind not in _COLUMN_TYPES:
            text = f"must be one of {types}"
            causes.append(invalid(f"{where}.type", kind, text) if kind else required(f"{where}.type", text))
        if column.get("format") and column["format"] not in _COLUMN_FORMATS:
            causes.append(invalid(f"{where}.format", column["format"], f"must be one of {formats}"))
        if not path:
            causes.append(required(f"{where}.JSONPath"))
        elif not path.startswith("."):
            causes.append(invalid(f"{where}.JSONPath", path, "must be a simple json path starting with ."))
    return causes


Schema = Mapping[str, Any]


def check_defaults(schema: Schema, path: str) -> list[Cause]:
    """Defaults with unknown fields, or that break the schema or a rule of the field that they are for."""
    causes: list[Cause] = []
    if schema.get("default") is not None:
        causes += _check_default(schema, f"{path}.default")
    if isinstance(schema.get("items"), dict):
        causes += check_defaults(schema["items"], f"{path}.items")
    for name, part in (schema.get("properties") or {}).items():
        causes += check_defaults(part, f"{path}.properties[{name}]")
    return causes


def _check_default(schema: Schema, path: str) -> list[Cause]:
    value = schema["default"]
    unknown: list[str] = []
    prune(value, schema, "x", unknown)
    causes = [invalid(path, value, "must not have unknown fields")] if unknown else []
    errors = ValueSchema(schema).errors(value, "", root=path)
    if errors:
        return [*causes, *errors]
    return [*causes, *run_rules(compile_rules(schema), value, path)]
