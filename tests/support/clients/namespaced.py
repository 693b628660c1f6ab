"""kubectl in one namespace, in words that tests need."""

import subprocess
from dataclasses import dataclass
from typing import Any

import yaml

from support.clients.kubectl import Kubectl


@dataclass(frozen=True)
class Namespaced:
    """`kubectl -n NAMESPACE`."""

    kubectl: Kubectl
    namespace: str

    def __call__(self, *arguments: str, text: str | None = None) -> str:
        """Standard output of a command that must succeed."""
        return self.kubectl("-n", self.namespace, *arguments, text=text)

    def apply(self, *objects: Any, options: tuple[str, ...] = ()) -> str:
        """What `kubectl apply -f -` says."""
        return self("apply", *options, "-f", "-", text=yaml.safe_dump_all(objects))

    def refused(self, *arguments: str, obj: Any = None) -> str:
        """What a command that must fail says on standard error; `obj` goes to standard input."""
        text = None if obj is None else yaml.safe_dump(obj)
        done = self.kubectl.run("-n", self.namespace, *arguments, text=text)
        assert done.returncode != 0, done.stdout
        return done.stderr.strip()

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        """A command that goes on; its output is a pipe."""
        command = self.kubectl.command("-n", self.namespace, *arguments)
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
