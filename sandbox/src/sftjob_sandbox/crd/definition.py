"""What the API server refuses about a CustomResourceDefinition.

Source: apiextensions-apiserver's pkg/apis/apiextensions/validation/validation.go. Where all versions share a schema,
columns or subresources (so always with one version) the API server tells of them as `spec.validation`,
`spec.additionalPrinterColumns` and `spec.subresources`; so do these causes.
"""

from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import urlsplit

from sftjob_sandbox import names
from sftjob_sandbox.causes import duplicate, forbidden, invalid, required, too_many
from sftjob_sandbox.crd.default_checks import check_defaults
from sftjob_sandbox.crd.field_paths import resolve
from sftjob_sandbox.crd.rule_checks import RuleScope
from sftjob_sandbox.crd.schema_checks import check_schema
from sftjob_sandbox.crd.structure import check_structural
from sftjob_sandbox.errors import Cause
from sftjob_sandbox.metadata import immutable, one_of
from sftjob_sandbox.objects import Object

_COLUMN_TYPES: Final = ("boolean", "date", "integer", "number", "string")
_COLUMN_FORMATS: Final = ("byte", "date", "date-time", "double", "float", "int32", "int64", "password")
_AT_ROOT: Final = (
    "Description", "Type", "Format", "Title", "Maximum", "ExclusiveMaximum", "Minimum", "ExclusiveMinimum", "MaxLength",
    "MinLength", "Pattern", "MaxItems", "MinItems", "UniqueItems", "MultipleOf", "Required", "Items", "Properties",
    "ExternalDocs", "Example", "XPreserveUnknownFields", "XValidations",
)  # fmt: skip
_ROOT_KEYWORDS: Final = frozenset({
    *(name[0].lower() + name[1:] for name in _AT_ROOT[:-2]),
    "x-kubernetes-preserve-unknown-fields", "x-kubernetes-validations",
})  # fmt: skip
_MAX_SELECTABLE_FIELDS: Final = 8
_APPROVAL: Final = "api-approved.kubernetes.io"


def check_definition(definition: Object) -> list[Cause]:
    """Every reason to refuse a CustomResourceDefinition with defaults, beside those of its metadata."""
    spec, declared = definition["spec"], definition["spec"].get("names") or {}
    name, wanted = definition["metadata"].get("name", ""), f"{declared.get('plural', '')}.{spec.get('group', '')}"
    causes = [] if name == wanted else [invalid("metadata.name", name, 'must be spec.names.plural+"."+spec.group')]
    return [
        *causes,
        *_check_group(spec.get("group") or ""),
        *one_of("spec.scope", spec.get("scope"), ("Cluster", "Namespaced")),
        *_check_schemas_present(spec),
        *_check_versions(spec),
        *_check_names(declared),
        *_check_shared(spec),
        *_check_conversion(spec),
        *_check_approval(definition),
    ]


def check_definition_update(new: Object, old: Object) -> list[Cause]:
    """What a change may not touch."""
    causes: list[Cause] = []
    conditions = (old.get("status") or {}).get("conditions") or ()
    established = any(c.get("type") == "Established" and c.get("status") == "True" for c in conditions)
    before, after = old["spec"], new["spec"]
    if established:
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


def _schema_of(version: Object) -> Object | None:
    schema: Object | None = (version.get("schema") or {}).get("openAPIV3Schema")
    return schema


def _check_schemas_present(spec: Object) -> list[Cause]:
    return [
        required(f"spec.versions[{index}].schema.openAPIV3Schema", "schemas are required")
        for index, version in enumerate(spec.get("versions") or ())
        if _schema_of(version) is None
    ]


def _check_versions(spec: Object) -> list[Cause]:
    versions = spec.get("versions") or []
    causes: list[Cause] = []
    shared = {
        key: _shared(versions, key)
        for key in ("schema", "subresources", "additionalPrinterColumns", "selectableFields")
    }
    for index, version in enumerate(versions):
        where = f"spec.versions[{index}]"
        name = version.get("name") or ""
        if texts := names.dns1035_label(name):
            causes.append(invalid(f"{where}.name", name, ",".join(texts)))
        causes += _check_deprecation(version, where)
        for key, check in _PER_VERSION.items():
            if not shared[key] and version.get(key):
                causes += check(version, f"{where}.{key}")
    declared = [version.get("name") for version in versions]
    if len(set(declared)) != len(declared):
        causes.append(invalid("spec.versions", versions, "must contain unique version names"))
    if sum(bool(version.get("storage")) for version in versions) != 1:
        text = "must have exactly one version marked as storage version"
        causes.append(invalid("spec.versions", versions, text))
    return causes


def _shared(versions: list[Object], key: str) -> bool:
    return all(version.get(key) == versions[0].get(key) for version in versions)


def _check_shared(spec: Object) -> list[Cause]:
    """What all versions have in common is told once."""
    versions = spec.get("versions") or []
    if not versions:
        return []
    paths = {"schema": "spec.validation"}
    causes: list[Cause] = []
    for key, check in _PER_VERSION.items():
        if _shared(versions, key) and versions[0].get(key):
            causes += check(versions[0], paths.get(key, f"spec.{key}"))
    return causes


def _check_deprecation(version: Object, path: str) -> list[Cause]:
    warning = version.get("deprecationWarning")
    if warning is None:
        return []
    texts = [] if version.get("deprecated") else ["can only be set for deprecated versions"]
    if not texts and names.byte_length(warning) > 256:
        texts.append("must be <= 256 characters long")
    if not texts and not warning:
        texts.append("must not be an empty string")
    return [invalid(f"{path}.deprecationWarning", warning, text) for text in texts]


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


def _check_validation(version: Object, path: str) -> list[Cause]:
    schema = _schema_of(version)
    if schema is None:
        return []
    where = f"{path}.openAPIV3Schema"
    causes = _check_root(schema, where) if (version.get("subresources") or {}).get("status") is not None else []
    if schema.get("nullable"):
        causes.append(forbidden(f"{where}.nullable", "nullable cannot be true at the root"))
    found = check_structural(schema, where) or check_defaults(schema, where)
    scope = None if found else RuleScope.of_root(schema)
    causes += [*found, *check_schema(schema, where, scope)]
    return causes + (scope.costs.causes(where) if scope is not None else [])


def _check_root(schema: Object, path: str) -> list[Cause]:
    """With a status subresource the root can only describe an object."""
    if schema.get("type") not in (None, "object"):
        text = 'only "object" is allowed as the type at the root of the schema if the status subresource is enabled'
        return [invalid(f"{path}.type", schema["type"], text)]
    if set(schema) <= _ROOT_KEYWORDS:
        return []
    shown = "[" + " ".join(_AT_ROOT) + "]"
    text = f"only {shown} fields are allowed at the root of the schema if the status subresource is enabled"
    return [invalid(path, schema, text)]


def _check_columns(version: Object, path: str) -> list[Cause]:
    causes: list[Cause] = []
    types, formats = ",".join(_COLUMN_TYPES), ",".join(_COLUMN_FORMATS)
    for index, column in enumerate(version["additionalPrinterColumns"]):
        where = f"{path}[{index}]"
        kind = column.get("type") or ""
        causes += [] if column.get("name") else [required(f"{where}.name")]
        if not kind:
            causes.append(required(f"{where}.type", f"must be one of {types}"))
        elif kind not in _COLUMN_TYPES:
            causes.append(invalid(f"{where}.type", kind, f"must be one of {types}"))
        if column.get("format") and column["format"] not in _COLUMN_FORMATS:
            causes.append(invalid(f"{where}.format", column["format"], f"must be one of {formats}"))
        if not column.get("jsonPath"):
            causes.append(required(f"{where}.JSONPath"))
        else:
            causes += _check_json_path(column["jsonPath"], f"{where}.JSONPath")
    return causes


def _check_json_path(text: str, path: str) -> list[Cause]:
    return [] if text.startswith(".") else [invalid(path, text, "must be a simple json path starting with .")]


def _check_selectable(version: Object, path: str) -> list[Cause]:
    schema, causes = _schema_of(version) or {}, []
    seen: set[str] = set()
    for index, entry in enumerate(version["selectableFields"]):
        where, text = f"{path}[{index}].jsonPath", entry.get("jsonPath") or ""
        if not text:
            causes.append(required(where))
            continue
        try:
            found = resolve(text, schema, brackets=False)
        except ValueError as error:
            causes.append(invalid(where, text, f"is an invalid path: {error}"))
            continue
        if found.text.split(".")[0] == "metadata":
            causes.append(invalid(where, text, "must not point to fields in metadata"))
        if found.schema.get("type") not in ("string", "boolean", "integer"):
            problem = (
                "must point to a field of type string, boolean or integer. "
                "Enum string fields and strings with formats are allowed."
            )
            causes.append(invalid(where, text, problem))
        if found.text in seen:
            causes.append(duplicate(where, text))
        seen.add(found.text)
    if len(seen) > _MAX_SELECTABLE_FIELDS:
        causes.append(too_many(path, len(seen), _MAX_SELECTABLE_FIELDS))
    return causes


def _check_subresources(version: Object, path: str) -> list[Cause]:
    scale = version["subresources"].get("scale")
    if scale is None:
        return []
    causes: list[Cause] = []
    for key, root in (("specReplicasPath", ".spec."), ("statusReplicasPath", ".status.")):
        where, text = f"{path}.scale.{key}", scale.get(key) or ""
        if not text:
            causes.append(required(where))
        elif problems := _check_json_path(text, where):
            causes += problems
        elif not text.startswith(root):
            causes.append(invalid(where, text, f"should be a json path under {root.rstrip('.')}"))
    causes.append(invalid(f"{path}.scale", scale, "a real API server serves /scale; this one does not"))
    return causes


def _check_conversion(spec: Object) -> list[Cause]:
    conversion = spec.get("conversion") or {}
    strategy = conversion.get("strategy") or ""
    causes = one_of("spec.conversion.strategy", strategy, ("None", "Webhook"))
    if strategy == "Webhook":
        text = "a real API server calls conversion webhooks; this one does not"
        causes.append(invalid("spec.conversion.strategy", strategy, text))
    if spec.get("preserveUnknownFields"):
        text = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead"
        causes.append(invalid("spec.preserveUnknownFields", True, text))
    return causes


def _check_approval(definition: Object) -> list[Cause]:
    """Groups of the Kubernetes project need an approval."""
    group = definition["spec"].get("group") or ""
    if not f".{group}".endswith((".k8s.io", ".kubernetes.io")):
        return []
    value = (definition["metadata"].get("annotations") or {}).get(_APPROVAL) or ""
    where = f"metadata.annotations[{_APPROVAL}]"
    text = f'protected groups must have approval annotation "{_APPROVAL}"'
    see = "see https://github.com/kubernetes/enhancements/pull/1111"
    if not value:
        return [required(where, f"{text}, {see}")]
    url = urlsplit(value)
    if value.startswith("unapproved") or (url.scheme and url.netloc):
        return []
    return [invalid(where, value, f'{text} with either a URL or a reason starting with "unapproved", {see}')]


_PER_VERSION: Final[Mapping[str, Callable[[Object, str], list[Cause]]]] = {
    "schema": _check_validation,
    "subresources": _check_subresources,
    "additionalPrinterColumns": _check_columns,
    "selectableFields": _check_selectable,
}
