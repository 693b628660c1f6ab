"""Option names of the tools that our fields stand for: read from the installed libraries, or listed where none is."""

import ast
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import yaml

_TRAINING_ARGUMENTS: Final = ("transformers/training_args.py", "TrainingArguments")
_PLACES: Final = {
    "TRL": (
        ("trl/trainer/sft_config.py", "SFTConfig"),
        ("trl/trainer/base_config.py", "_BaseConfig"),
        ("trl/trainer/model_config.py", "ModelConfig"),
        ("trl/scripts/utils.py", "ScriptArguments"),
        ("trl/scripts/utils.py", "DatasetMixtureConfig"),
        ("trl/scripts/utils.py", "DatasetConfig"),
        _TRAINING_ARGUMENTS,
    ),
    "PEFT": (("peft/tuners/lora/config.py", "LoraConfig"), ("peft/config.py", "PeftConfig")),
    "transformers": (
        _TRAINING_ARGUMENTS,
        ("transformers/modeling_utils.py", "PreTrainedModel"),
        ("transformers/modeling_rope_utils.py", "RopeParameters"),
        ("transformers/models/auto/auto_factory.py", "_BaseAutoModelClass"),
        ("transformers/utils/quantization_config.py", "BitsAndBytesConfig"),
        ("transformers/trainer_callback.py", "EarlyStoppingCallback"),
        ("transformers/generation/configuration_utils.py", "GenerationConfig"),
    ),
}
"""Classes whose fields and keyword arguments are a library's options."""
_TAKING_OPTIONS: Final = frozenset({"__init__", "from_pretrained"})

_PUBLISHED: Final = Path(__file__).with_name("upstream.yaml")
"""Options of tools that are not installed here, since they pin libraries of their own."""


@cache
def options(library: str) -> frozenset[str]:
    """Every option name of a library.

    Raises:
        KeyError: no such library.
    """
    published = yaml.safe_load(_PUBLISHED.read_text(encoding="utf-8"))
    if library in published:
        return frozenset(published[library].split())
    found = (name for file, class_name in _PLACES[library] for name in _options_in(_class(file, class_name)))
    return frozenset(name for name in found if not name.startswith("_")) - {"self", "cls"}


def own_options(library: str, class_name: str) -> frozenset[str]:
    """Options that one class of an installed library declares, without those that it inherits.

    Raises:
        KeyError: no such library or class.
    """
    file = {name: file for file, name in _PLACES[library]}[class_name]
    declared = _class(file, class_name).body
    return frozenset(name for node in declared if (name := _declared(node)) and not name.startswith("_"))


def default_of(library: str, option: str) -> object:
    """Default of a field of an installed library's dataclasses, the most derived one first.

    Raises:
        KeyError: no such library, or no such field with a constant default.
    """
    for file, class_name in _PLACES[library]:
        for node in _class(file, class_name).body:
            if _declared(node) == option and isinstance(node, ast.AnnAssign) and node.value is not None:
                return ast.literal_eval(_default_in(node.value))
    raise KeyError(option)


def _default_in(value: ast.expr) -> ast.expr:
    """The default itself: that of `field(default=...)`, or the value as it stands."""
    if isinstance(value, ast.Call):
        return {keyword.arg: keyword.value for keyword in value.keywords}["default"]
    return value


@cache
def _class(file: str, class_name: str) -> ast.ClassDef:
    root = Path(str(find_spec("peft").origin)).parents[1]  # type: ignore[union-attr]  # installed for tests
    tree = ast.parse((root / file).read_text(encoding="utf-8"))
    (found,) = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == class_name]
    return found


def _declared(node: ast.stmt) -> str | None:
    return node.target.id if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) else None


def _options_in(found: ast.ClassDef) -> Iterator[str]:
    for node in found.body:
        if name := _declared(node):
            yield name
        if isinstance(node, ast.FunctionDef) and node.name in _TAKING_OPTIONS:
            yield from (argument.arg for argument in (*node.args.args, *node.args.kwonlyargs))
            yield from _taken_from_kwargs(node)


def _taken_from_kwargs(function: ast.FunctionDef) -> Iterator[str]:
    """Names that a function takes out of its keyword arguments: `kwargs.pop("dtype", None)`."""
    for node in ast.walk(function):
        match node:
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id="kwargs" | "kwargs_copy"), attr="pop" | "get"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                yield name
