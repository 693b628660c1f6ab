"""What rendered Roles and their bindings grant to a ServiceAccount, as a set to compare with."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

EVERYWHERE = "*"
Object = dict[str, Any]


class Grant(NamedTuple):
    """One request that is allowed. `resource` is `pods` or `sftjobs/status`; `name` is empty for every object."""

    verb: str
    group: str
    resource: str
    namespace: str
    name: str = ""


def grants(objects: Iterable[Object], account: str, account_namespace: str) -> set[Grant]:
    """What the bindings among `objects` grant to the account. A binding to a role that is not there is an error."""
    found = list(objects)
    roles = {identity(each): each for each in found if each["kind"] in ("Role", "ClusterRole")}
    subject = {"kind": "ServiceAccount", "name": account, "namespace": account_namespace}
    granted: set[Grant] = set()
    for binding in found:
        if binding["kind"] not in ("RoleBinding", "ClusterRoleBinding") or subject not in binding["subjects"]:
            continue
        reference, namespace = binding["roleRef"], binding["metadata"].get("namespace", EVERYWHERE)
        home = namespace if reference["kind"] == "Role" else ""
        granted |= set(_rules(roles[(reference["kind"], home, reference["name"])], namespace))
    return granted


def identity(obj: Object) -> tuple[str, str, str]:
    """Kind, namespace (empty for an object of the cluster) and name."""
    return obj["kind"], obj["metadata"].get("namespace", ""), obj["metadata"]["name"]


def _rules(role: Object, namespace: str) -> Iterator[Grant]:
    for rule in role["rules"]:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                for verb in rule["verbs"]:
                    for name in rule.get("resourceNames") or ("",):
                        yield Grant(verb, group, resource, namespace, name)
