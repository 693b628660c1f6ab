"""The shipped manifests say what was tested, about the resource as it is called."""

from typing import Any

import yaml

from sftjob_contract.names import API_VERSION, GROUP, KIND
from support.checks.gitops import FLUX, FOLDER, HEALTH_LUA

ARGO: dict[str, Any] = yaml.safe_load((FOLDER / "argocd" / "argocd-cm.yaml").read_text(encoding="utf-8"))


def test_argo_cd_finds_the_script_under_the_name_of_the_resource() -> None:
    assert ARGO["data"][f"resource.customizations.health.{GROUP}_{KIND}"] == HEALTH_LUA


def test_reports_of_progress_do_not_make_argo_cd_look_at_an_application_anew() -> None:
    ignored = yaml.safe_load(ARGO["data"][f"resource.customizations.ignoreResourceUpdates.{GROUP}_{KIND}"])
    assert ignored == {"jsonPointers": ["/status"]}


def test_the_config_map_touches_nothing_of_argo_cds_own() -> None:
    assert (ARGO["kind"], ARGO["metadata"]["name"], ARGO["metadata"]["namespace"]) == (
        "ConfigMap",
        "argocd-cm",
        "argocd",
    )
    assert all(f"{GROUP}_{KIND}" in key for key in ARGO["data"])


def test_flux_waits_for_jobs_and_neither_prunes_nor_recreates_them() -> None:
    spec = FLUX["spec"]
    assert [(check["apiVersion"], check["kind"]) for check in spec["healthCheckExprs"]] == [(API_VERSION, KIND)]
    assert (spec["wait"], spec["prune"], spec.get("force", False)) == (True, False, False)
