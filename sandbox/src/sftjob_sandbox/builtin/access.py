"""Rules of Roles and their bindings, which are kept and have no effect, since nothing here is authorized by them.

Source: kubernetes' pkg/apis/rbac/validation and pkg/apis/rbac/v1/defaults.go.
"""

from typing import Final

from sftjob_sandbox import names
from sftjob_sandbox.causes import GoText, invalid, not_supported, quoted, required
from sftjob_sandbox.errors import Cause
from sftjob_sandbox.objects import Object

GROUP: Final = "rbac.authorization.k8s.io"
_PEOPLE: Final = ("User", "Group")


def default_binding(binding: Object) -> None:
    """A RoleBinding or ClusterRoleBinding."""
    reference = binding.setdefault("roleRef", {})
    if not reference.get("apiGroup"):
        reference["apiGroup"] = GROUP
    for subject in binding.get("subjects") or ():
        if subject.get("kind") in _PEOPLE and not subject.get("apiGroup"):
            subject["apiGroup"] = GROUP


def validate_role(role: Object, old: Object | None) -> list[Cause]:  # noqa: ARG001 -- one signature
    """Rules of a Role name groups and resources; paths are the cluster's."""
    return _rules(role, namespaced=True)


def validate_cluster_role(role: Object, old: Object | None) -> list[Cause]:  # noqa: ARG001 -- one signature
    """Rules of a ClusterRole name groups and resources, or paths."""
    return _rules(role, namespaced=False)


def validate_role_binding(binding: Object, old: Object | None) -> list[Cause]:
    """Role and subjects of a RoleBinding."""
    return _binding(binding, old, namespaced=True)


def validate_cluster_role_binding(binding: Object, old: Object | None) -> list[Cause]:
    """Role and subjects of a ClusterRoleBinding."""
    return _binding(binding, old, namespaced=False)


def _rules(role: Object, *, namespaced: bool) -> list[Cause]:
    rules = role.get("rules") or ()
    return [cause for index, rule in enumerate(rules) for cause in _rule(rule, f"rules[{index}]", namespaced)]


def _rule(rule: Object, path: str, namespaced: bool) -> list[Cause]:
    causes = [] if rule.get("verbs") else [required(f"{path}.verbs", "verbs must contain at least one value")]
    if urls := rule.get("nonResourceURLs"):
        where, shown = f"{path}.nonResourceURLs", GoText("[]string{" + ", ".join(quoted(url) for url in urls) + "}")
        if namespaced:
            causes.append(invalid(where, shown, "namespaced rules cannot apply to non-resource URLs"))
        if rule.get("apiGroups") or rule.get("resources") or rule.get("resourceNames"):
            text = "rules cannot apply to both regular resources and non-resource URLs"
            causes.append(invalid(where, shown, text))
        return causes
    if not rule.get("apiGroups"):
        causes.append(required(f"{path}.apiGroups", "resource rules must supply at least one api group"))
    if not rule.get("resources"):
        causes.append(required(f"{path}.resources", "resource rules must supply at least one resource"))
    return causes


def _binding(binding: Object, old: Object | None, *, namespaced: bool) -> list[Cause]:
    reference = binding.get("roleRef") or {}
    group, kind = reference.get("apiGroup") or "", reference.get("kind") or ""
    causes = [] if group == GROUP else [not_supported("roleRef.apiGroup", group, (GROUP,))]
    kinds = ("Role", "ClusterRole") if namespaced else ("ClusterRole",)
    if kind not in kinds:
        causes.append(not_supported("roleRef.kind", kind, kinds))
    if not reference.get("name"):
        causes.append(required("roleRef.name"))
    for index, subject in enumerate(binding.get("subjects") or ()):
        causes += _subject(subject, f"subjects[{index}]", namespaced)
    if old is not None and reference != old.get("roleRef"):
        causes.append(invalid("roleRef", reference, "cannot change roleRef"))
    return causes


def _subject(subject: Object, path: str, namespaced: bool) -> list[Cause]:
    name, kind, group = (subject.get(field) or "" for field in ("name", "kind", "apiGroup"))
    causes = [] if name else [required(f"{path}.name")]
    if kind == "ServiceAccount":
        causes += [invalid(f"{path}.name", name, text) for text in (names.dns1123_subdomain(name) if name else ())]
        if group:
            causes.append(not_supported(f"{path}.apiGroup", group, ("",)))
        if not namespaced and not subject.get("namespace"):
            causes.append(required(f"{path}.namespace"))
    elif kind in _PEOPLE:
        causes += [] if group == GROUP else [not_supported(f"{path}.apiGroup", group, (GROUP,))]
    else:
        causes.append(not_supported(f"{path}.kind", kind, ("ServiceAccount", *_PEOPLE)))
    return causes
