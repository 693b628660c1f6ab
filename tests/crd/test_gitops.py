"""GitOps tools compare what lies in Git with what the API server stored: nothing of an SFTJob may differ by itself."""

from typing import Any

import pytest

from sftjob_operator.api.crd import resource_schema
from support.clients.kubectl import Kubectl
from support.jobs.manifests import ROOT, SAMPLES, VALID, load_manifest

FOLDERS = {"samples": SAMPLES, "valid": VALID}
CLIENT_SIDE: tuple[str, ...] = ()
SERVER_SIDE = {
    "argocd": ("--server-side", "--field-manager=argocd-controller"),
    "flux": ("--server-side", "--field-manager=kustomize-controller"),
}
WAYS = {"kubectl": CLIENT_SIDE, **SERVER_SIDE}
ARGO = ROOT / "gitops" / "argocd" / "argocd-cm.yaml"
Object = dict[str, Any]
EACH = pytest.mark.parametrize("folder", FOLDERS)


@pytest.fixture(scope="module")
def applied(kubectl: Kubectl) -> Kubectl:
    """kubectl on a server that has every job in each way to apply it, in a namespace of its own."""
    for way, options in WAYS.items():
        for folder in FOLDERS:
            kubectl("create", "namespace", f"{way}-{folder}")
            kubectl("apply", *options, *everything_of(folder, way), timeout=120)
    return kubectl


@pytest.fixture(scope="module")
def live(applied: Kubectl) -> dict[tuple[str, str], Object]:
    """What the server stored, by namespace and name."""
    items = applied.json("get", "sftjobs", "--all-namespaces", "--show-managed-fields")["items"]
    return {(item["metadata"]["namespace"], item["metadata"]["name"]): item for item in items}


def everything_of(folder: str, way: str) -> list[str]:
    return ["-n", f"{way}-{folder}", *(word for path in FOLDERS[folder] for word in ("-f", str(path)))]


def manifests(folder: str) -> dict[str, Object]:
    return {manifest["metadata"]["name"]: manifest for manifest in map(load_manifest, FOLDERS[folder])}


def without_nulls(value: Any) -> Any:
    """`value` as the API server takes it: a field that is null is absent."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


def differences(wanted: Any, found: Any, path: str) -> list[str]:
    """Where `found` is not as `wanted` says: objects may have more fields, everything else is compared whole."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        return [
            place
            for key, value in wanted.items()
            for place in (differences(value, found[key], f"{path}.{key}") if key in found else [f"{path}.{key}"])
        ]
    return [] if wanted == found else [path]


@EACH
@pytest.mark.parametrize("way", WAYS)
def test_kubectl_sees_no_difference_after_apply(applied: Kubectl, folder: str, way: str) -> None:
    done = applied.run("diff", *WAYS[way], *everything_of(folder, way), timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@EACH
@pytest.mark.parametrize("way", SERVER_SIDE)
def test_applying_it_again_is_no_conflict_and_no_change(
    kubectl: Kubectl, live: dict[tuple[str, str], Object], folder: str, way: str
) -> None:
    kubectl("apply", *WAYS[way], *everything_of(folder, way), timeout=120)
    for job in kubectl.json("get", "sftjobs", "-n", f"{way}-{folder}")["items"]:
        before = live[job["metadata"]["namespace"], job["metadata"]["name"]]["metadata"]
        assert job["metadata"]["resourceVersion"] == before["resourceVersion"], job["metadata"]["name"]


@EACH
@pytest.mark.parametrize("way", WAYS)
def test_what_git_says_is_stored_as_it_was_written(live: dict[tuple[str, str], Object], folder: str, way: str) -> None:
    """Argo CD lays the manifest over the stored object: lists are compared whole."""
    for name, manifest in manifests(folder).items():
        assert differences(without_nulls(manifest["spec"]), live[f"{way}-{folder}", name]["spec"], name) == []


@EACH
@pytest.mark.parametrize("way", SERVER_SIDE)
def test_its_applier_owns_what_it_wrote_and_nothing_else_is_owned(
    live: dict[tuple[str, str], Object], folder: str, way: str
) -> None:
    for name, manifest in manifests(folder).items():
        (record,) = live[f"{way}-{folder}", name]["metadata"]["managedFields"]
        assert f"--field-manager={record['manager']}" in WAYS[way]
        assert set(record["fieldsV1"]["f:spec"]) <= {f"f:{field}" for field in manifest["spec"]}, name


def test_no_list_has_items_with_defaults() -> None:
    """An item that the server completes would differ from Git's for ever."""
    assert completed_items(resource_schema()["properties"]["spec"], "spec") == []


def completed_items(node: Object, path: str, *, in_list: bool = False) -> list[str]:
    """Fields within items of lists that the server fills in."""
    found = [path] if in_list and "default" in node else []
    for name, child in node.get("properties", {}).items():
        found += completed_items(child, f"{path}.{name}", in_list=in_list)
    if "items" in node:
        found += completed_items(node["items"], f"{path}[]", in_list=True)
    if isinstance(node.get("additionalProperties"), dict):
        found += completed_items(node["additionalProperties"], f"{path}{{}}", in_list=in_list)
    return found


def test_argo_cds_part_is_added_to_its_config_map_and_takes_nothing_away(kubectl: Kubectl) -> None:
    kubectl("create", "namespace", "argocd")
    kubectl("create", "configmap", "argocd-cm", "-n", "argocd", "--from-literal=url=https://argocd.example.com")
    kubectl("apply", "--server-side", "--field-manager=sftjob", "-f", str(ARGO))
    data = kubectl.json("get", "configmap", "argocd-cm", "-n", "argocd")["data"]
    assert data == {"url": "https://argocd.example.com", **load_manifest(ARGO)["data"]}
