"""The real Helm, through its SDK for Python, in a process of its own: its Go runtime must not be forked."""

import json
import multiprocessing
import os
import signal
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

Values = Mapping[str, Any]
CHART = Path(__file__).parents[3] / "charts" / "sftjob-operator"
NOTES = "NOTES.txt"


class HelmRefusalError(Exception):
    """Helm's own sentence."""


@dataclass(frozen=True)
class Helm:
    """Helm's commands on the chart."""

    pool: ProcessPoolExecutor

    def lint(self, values: Values) -> list[str]:
        """What it complains of, remarks left out."""
        return self.pool.submit(_lint, dict(values)).result()

    def render(self, values: Values, name: str = "sftjob-operator", namespace: str = "sftjob-system") -> dict[str, str]:
        """Text of every template, by its file's name."""
        return _rendered(self.pool, json.dumps(values), name, namespace)

    def objects(self, values: Values, **release: str) -> list[dict[str, Any]]:
        """Every rendered object, in the order of the templates' names."""
        files = sorted(self.render(values, **release).items())
        return [found for name, text in files if name != NOTES for found in json.loads(_json_of(text))]

    def release(self, kubeconfig: Path, namespace: str, action: str, **arguments: Any) -> Any:
        """`helm install`, `upgrade`, `rollback`, `history` or `uninstall` on a cluster."""
        return self.pool.submit(_release, kubeconfig, namespace, action, arguments).result()


@contextmanager
def running_helm(scratch: Path, *, home: Path | None = None) -> Iterator[Helm]:
    """Helm, away from the user's own files; programs that log in to a cluster need the user's `home`."""
    spawn = multiprocessing.get_context("spawn")
    arguments = (str(scratch), str(home or scratch))
    with ProcessPoolExecutor(1, mp_context=spawn, initializer=_start, initargs=arguments) as pool:
        yield Helm(pool)


@cache
def _rendered(pool: ProcessPoolExecutor, values: str, name: str, namespace: str) -> dict[str, str]:
    """The templates of a release: many tests look at the same one."""
    return pool.submit(_render, json.loads(values), name, namespace).result()


@cache
def _json_of(text: str) -> str:
    """The documents of a rendered template; the definition is long, and the same for most values."""
    return json.dumps([found for found in yaml.load_all(text, yaml.CSafeLoader) if found])


def _start(scratch: str, home: str) -> None:
    own = {f"HELM_{kind}_HOME": f"{scratch}/helm-{kind.lower()}" for kind in ("CACHE", "CONFIG", "DATA")}
    os.environ.update(own, HOME=home, KUBECACHEDIR=f"{scratch}/kube-cache")
    os.environ.pop("KUBECONFIG", None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends its owner, who may still have something to uninstall


def _lint(values: dict[str, Any]) -> list[str]:
    import helm_python

    report = helm_python.lint(CHART, values, strict=True)
    remark = 1
    return [*report["errors"], *(found["error"] for found in report["messages"] if found["severity"] > remark)]


def _render(values: dict[str, Any], name: str, namespace: str) -> dict[str, str]:
    import helm_python

    try:
        with helm_python.Chart.load(CHART) as chart:
            files: dict[str, str] = chart.render(values, name=name, namespace=namespace)
    except helm_python.HelmError as error:
        raise HelmRefusalError(str(error)) from None
    return {path.rpartition("/")[2]: text for path, text in files.items()}


def _release(kubeconfig: Path, namespace: str, action: str, arguments: dict[str, Any]) -> Any:
    import helm_python

    try:
        with helm_python.Config(kubeconfig_path=kubeconfig, namespace=namespace) as config:
            return getattr(config, action)(**arguments)
    except helm_python.HelmError as error:
        raise HelmRefusalError(str(error)) from None
