"""Run by every Python process that has this directory on its PYTHONPATH: arranges faults as the trainer is loaded.

Nothing of the trainer or of its libraries is imported before the trainer itself does so.
"""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import sys
from types import ModuleType

WATCHED = {
    "sftjob_trainer.launch": "arrange_launcher",
    "sftjob_trainer.prepare": "arrange_calls",
    "sftjob_trainer.fit": "arrange",
}
"""Modules, and the function that arranges what befalls them."""


class _Loader(importlib.abc.Loader):
    """Loads a module, then arranges the faults."""

    def __init__(self, loader: importlib.abc.Loader, function: str) -> None:
        self._loader = loader
        self._function = function

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        arrangements = importlib.import_module("arrangements")
        getattr(arrangements, self._function)(json.loads(os.environ["TRAINER_FAULTS"]))


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self) -> None:
        self._left = dict(WATCHED)

    def find_spec(self, name: str, *_: object) -> importlib.machinery.ModuleSpec | None:
        function = self._left.pop(name, None)
        if function is None:
            return None
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.loader is not None
        spec.loader = _Loader(spec.loader, function)
        return spec


if "TRAINER_FAULTS" in os.environ:
    sys.meta_path.insert(0, _Finder())
