"""Write the generated part of gitops/: the ConfigMap that gives Argo CD the health check of health.lua."""

from pathlib import Path
from typing import Final

import yaml

from sftjob_contract.names import GROUP, KIND

FOLDER: Final = Path(__file__).resolve().parents[1] / "gitops" / "argocd"
SCRIPT: Final = FOLDER / "health.lua"
CONFIG_MAP: Final = FOLDER / "argocd-cm.yaml"
HEADER: Final = "# Argo CD's health check of SFTJobs (docs/gitops.md). Generated from health.lua by make generate.\n"


class _Dumper(yaml.SafeDumper):
    """Writes multi-line text as a block scalar."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def config_map(health: str) -> dict[str, object]:
    """The SFTJob part of Argo CD's own ConfigMap. Changes of progress alone do not refresh an application."""
    customization = "resource.customizations"
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": "argocd-cm",
            "namespace": "argocd",
            "labels": {"app.kubernetes.io/part-of": "argocd"},
        },
        "data": {
            f"{customization}.health.{GROUP}_{KIND}": health,
            f"{customization}.ignoreResourceUpdates.{GROUP}_{KIND}": "jsonPointers:\n  - /status\n",
        },
    }


def main() -> None:
    """Write the file."""
    text = yaml.dump(config_map(SCRIPT.read_text(encoding="utf-8")), Dumper=_Dumper, sort_keys=False, width=120)
    CONFIG_MAP.write_text(HEADER + text, encoding="utf-8")


if __name__ == "__main__":
    main()
