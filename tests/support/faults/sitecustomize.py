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
from pathlib import Path
from types import ModuleType
from typing import Any

WATCHED = {
    "sftjob_trainer.distributed.launch": "arrange_launcher",
    "sftjob_trainer.prepare": "arrange_calls",
    "sftjob_trainer.training.build": "arrange",
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


def _play(scripts: list[dict[str, Any]], stage: str) -> None:
    """Do what is scripted for this stage and attempt instead of the trainer; does not return."""
    attempt = int(os.environ["SFTJOB_ATTEMPT"])
    mine = [each for each in scripts if each["stage"] == stage and each.get("attempt", attempt) == attempt]
    importlib.import_module("scripted").play(stage, mine[0] if mine else {})


def _is_there(module: str) -> bool:
    """Whether the trainer has this module, without importing the packages around it."""
    root = importlib.machinery.PathFinder.find_spec(module.partition(".")[0])
    assert root is not None
    assert root.submodule_search_locations
    path = Path(root.submodule_search_locations[0], *module.split(".")[1:])
    return path.is_dir() or path.with_suffix(".py").is_file()


if "TRAINER_FAULTS" in os.environ:
    missing = [name for name in WATCHED if not _is_there(name)]
    if missing:
        # Anything but SystemExit would be printed and passed over: the trainer would run as if it had no faults.
        raise SystemExit(f"no fault can be arranged: this trainer does not have {', '.join(missing)}")
    scripts = [fault for fault in json.loads(os.environ["TRAINER_FAULTS"]) if fault["kind"] == "scripted"]
    if scripts and sys.orig_argv[-3:-1] == ["-m", "sftjob_trainer"]:
        _play(scripts, sys.orig_argv[-1])
    sys.meta_path.insert(0, _Finder())
