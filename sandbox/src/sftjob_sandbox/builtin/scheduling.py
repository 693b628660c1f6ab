"""Rules of what places a Pod: tolerations, affinity, topology spread. Source: kubernetes' pkg/apis/core/validation."""

from typing import Final

from sftjob_sandbox import names
from sftjob_sandbox.causes import duplicate, forbidden, invalid, not_supported, required
from sftjob_sandbox.errors import Cause
from sftjob_sandbox.metadata import validate_labels
from sftjob_sandbox.objects import Object

_EFFECTS: Final = ("NoSchedule", "PreferNoSchedule", "NoExecute")


def check_tolerations(tolerations: list[Object], path: str) -> list[Cause]:
    """Keys, operators, values and effects."""
    causes: list[Cause] = []
    for index, toleration in enumerate(tolerations):
        where = f"{path}[{index}]"
        key, operator = toleration.get("key") or "", toleration.get("operator") or ""
        effect, value = toleration.get("effect") or "", toleration.get("value") or ""
        causes += [invalid(f"{where}.key", key, text) for text in (names.qualified_name(key) if key else ())]
        if not key and operator != "Exists":
            text = 'operator must be Exists when `key` is empty, which means "match all values and all keys"'
            causes.append(invalid(f"{where}.operator", operator, text))
        if toleration.get("tolerationSeconds") is not None and effect != "NoExecute":
            text = "effect must be 'NoExecute' when `tolerationSeconds` is set"
            causes.append(invalid(f"{where}.effect", effect, text))
        if operator in ("Equal", ""):
            texts = names.label_value(value)
            causes += [invalid(f"{where}.operator", value, ";".join(texts))] if texts else []
        elif operator != "Exists":
            causes.append(not_supported(f"{where}.operator", operator, ("Equal", "Exists")))
        elif value:
            causes.append(invalid(f"{where}.operator", toleration, "value must be empty when `operator` is 'Exists'"))
        if effect and effect not in _EFFECTS:
            causes.append(not_supported(f"{where}.effect", effect, _EFFECTS))
    return causes


def check_affinity(affinity: Object, path: str) -> list[Cause]:
    """Node affinity, and affinity to other Pods."""
    causes: list[Cause] = []
    node = affinity.get("nodeAffinity") or {}
    where = f"{path}.nodeAffinity"
    if "requiredDuringSchedulingIgnoredDuringExecution" in node:
        key = "requiredDuringSchedulingIgnoredDuringExecution"
        causes += _check_node_selector(node[key], f"{where}.{key}.nodeSelectorTerms")
    for index, term in enumerate(node.get("preferredDuringSchedulingIgnoredDuringExecution") or ()):
        place = f"{where}.preferredDuringSchedulingIgnoredDuringExecution[{index}]"
        causes += _check_weight(term, place)
        causes += _check_node_term(term.get("preference") or {}, f"{place}.preference")
    for kind in ("podAffinity", "podAntiAffinity"):
        causes += _check_pod_affinity(affinity.get(kind) or {}, f"{path}.{kind}")
    return causes


def _check_weight(term: Object, path: str) -> list[Cause]:
    weight = term.get("weight", 0)
    return [] if 1 <= weight <= 100 else [invalid(f"{path}.weight", weight, "must be in the range 1-100")]


def _check_node_selector(selector: Object, path: str) -> list[Cause]:
    terms = selector.get("nodeSelectorTerms") or []
    if not terms:
        return [required(path, "must have at least one node selector term")]
    return [cause for index, term in enumerate(terms) for cause in _check_node_term(term, f"{path}[{index}]")]


def _check_node_term(term: Object, path: str) -> list[Cause]:
    causes: list[Cause] = []
    for index, requirement in enumerate(term.get("matchExpressions") or ()):
        where = f"{path}.matchExpressions[{index}]"
        operator, values = requirement.get("operator") or "", requirement.get("values") or []
        if operator in ("Gt", "Lt"):
            if len(values) != 1:
                text = "must be specified single value when `operator` is 'Lt' or 'Gt'"
                causes.append(required(f"{where}.values", text))
        else:
            causes += _check_operator(operator, values, where)
        key = requirement.get("key") or ""
        causes += [invalid(f"{where}.key", key, text) for text in names.qualified_name(key)]
    for index, requirement in enumerate(term.get("matchFields") or ()):
        where = f"{path}.matchFields[{index}]"
        if requirement.get("operator") not in ("In", "NotIn"):
            causes.append(
                invalid(f"{where}.operator", requirement.get("operator", ""), "not a valid selector operator")
            )
        elif len(requirement.get("values") or ()) != 1:
            text = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector"
            causes.append(required(f"{where}.values", text))
        if requirement.get("key") != "metadata.name":
            causes.append(invalid(f"{where}.key", requirement.get("key", ""), "not a valid field selector key"))
    return causes


def _check_operator(operator: str, values: list[str], path: str) -> list[Cause]:
    if operator in ("In", "NotIn"):
        text = "must be specified when `operator` is 'In' or 'NotIn'"
        return [] if values else [required(f"{path}.values", text)]
    if operator in ("Exists", "DoesNotExist"):
        text = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
        return [forbidden(f"{path}.values", text)] if values else []
    return [invalid(f"{path}.operator", operator, "not a valid selector operator")]


def _check_pod_affinity(affinity: Object, path: str) -> list[Cause]:
    causes: list[Cause] = []
    for index, term in enumerate(affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or ()):
        causes += _check_pod_term(term, f"{path}.requiredDuringSchedulingIgnoredDuringExecution[{index}]")
    for index, term in enumerate(affinity.get("preferredDuringSchedulingIgnoredDuringExecution") or ()):
        where = f"{path}.preferredDuringSchedulingIgnoredDuringExecution[{index}]"
        causes += _check_weight(term, where)
        causes += _check_pod_term(term.get("podAffinityTerm") or {}, f"{where}.podAffinityTerm")
    return causes


def _check_pod_term(term: Object, path: str) -> list[Cause]:
    causes = check_label_selector(term.get("labelSelector") or {}, f"{path}.labelSelector")
    for name in term.get("namespaces") or ():
        causes += [invalid(f"{path}.namespace", name, text) for text in names.dns1123_label(name)]
    key = term.get("topologyKey") or ""
    causes += [] if key else [required(f"{path}.topologyKey", "can not be empty")]
    return [*causes, *(invalid(f"{path}.topologyKey", key, text) for text in names.qualified_name(key))]


def check_label_selector(selector: Object, path: str) -> list[Cause]:
    """A metav1.LabelSelector."""
    causes = validate_labels(selector.get("matchLabels") or {}, f"{path}.matchLabels")
    for index, requirement in enumerate(selector.get("matchExpressions") or ()):
        where = f"{path}.matchExpressions[{index}]"
        key, values = requirement.get("key") or "", requirement.get("values") or []
        causes += _check_operator(requirement.get("operator") or "", values, where)
        causes += [invalid(f"{where}.key", key, text) for text in names.qualified_name(key)]
        for position, value in enumerate(values):
            causes += [invalid(f"{where}.values[{position}]", value, text) for text in names.label_value(value)]
    return causes


def check_topology_spread(constraints: list[Object], path: str) -> list[Cause]:
    """Topology spread constraints."""
    causes: list[Cause] = []
    taken: set[tuple[str, str]] = set()
    for index, constraint in enumerate(constraints):
        where = f"{path}[{index}]"
        skew = constraint.get("maxSkew", 0)
        if skew <= 0:
            causes.append(invalid(f"{where}.maxSkew", skew, "must be greater than zero"))
        key, action = constraint.get("topologyKey") or "", constraint.get("whenUnsatisfiable") or ""
        if not key:
            causes.append(required(f"{where}.topologyKey", "can not be empty"))
        else:
            causes += [invalid(f"{where}.topologyKey", key, text) for text in names.qualified_name(key)]
        if action not in ("DoNotSchedule", "ScheduleAnyway"):
            causes.append(not_supported(f"{where}.whenUnsatisfiable", action, ("DoNotSchedule", "ScheduleAnyway")))
        if (key, action) in taken:
            shown = "{" + f"{key}, {action}" + "}"
            causes.append(duplicate(f"{where}.{{topologyKey, whenUnsatisfiable}}", shown))
        taken.add((key, action))
        causes += check_label_selector(constraint.get("labelSelector") or {}, f"{where}.labelSelector")
    return causes
