"""Run by every Python process that has this directory on its PYTHONPATH: arranges faults once the trainer is loaded.

Nothing of the trainer or of its libraries is imported before the trainer itself does so.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import sys
from types import ModuleType

WATCHED = "sftjob_trainer.fit"


class _Loader(importlib.abc.Loader):
    """Loads a module, then arranges the faults."""

    def __init__(self, loader: importlib.abc.Loader) -> None:
        self._loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        from arrangements import arrange

        arrange(json.loads(os.environ["TRAINER_FAULTS"]))


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, *_: object) -> importlib.machinery.ModuleSpec | None:
        if name != WATCHED:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.loader is not None
        spec.loader = _Loader(spec.loader)
        return spec


if "TRAINER_FAULTS" in os.environ:
    sys.meta_path.insert(0, _Finder())
