"""Check a model's configs in Prepare: transformers can load them, and fields have the types that it reads."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from sftjob_contract.reasons import Reason
from sftjob_trainer.models.limits import model_settings
from sftjob_trainer.process.errors import StageError
from sftjob_trainer.process.wording import type_name

_MAX_SHOWN: Final = 40
_ADVICE: Final = "correct the file, or name another model"
_FIELD_ERROR: Final = re.compile(r"(?:Class v|V)alidation error for \w+ '[^']*':\s*(?:\w+: )?(?P<words>.*)", re.DOTALL)
"""How huggingface_hub's dataclasses, which transformers' configs are, report an error in one field or in several."""


_DTYPE: Final = re.compile(r"auto|(b?float|u?int|half|double|long|short|bool)\w*")


def _is_text_list(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_dtype(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, str) and _DTYPE.fullmatch(value) is not None)


_FIELD_TYPES: Final[Mapping[str, tuple[Callable[[Any], bool], str]]] = {
    "model_type": (lambda value: isinstance(value, str), "text"),
    **dict.fromkeys(("dtype", "torch_dtype"), (_is_dtype, "the name of a dtype such as bfloat16")),
    "architectures": (_is_text_list, "a list of names"),
    **dict.fromkeys(
        ("quantization_config", "compression_config", "text_config", "auto_map"),
        (lambda value: isinstance(value, dict), "an object"),
    ),
}
"""Fields that transformers accepts unchecked and fails on later; null stands for an absent field."""
_SIZES: Final = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "intermediate_size", "n_embd", "n_layer", "n_head",
)  # fmt: skip
"""Fields that must be above 0 to build a model."""


def check_config(directory: Path, *, trust_remote_code: bool, label: str = "the model") -> None:
    """Check that the configs of the model in `directory` can be loaded. `label` names the model in messages.

    Raises:
        StageError: a config cannot be loaded; the message names file, field and value.
    """
    settings = model_settings(directory)
    problem = next(_field_problems(settings), None) or _loading_problem(directory, trust_remote_code)
    if problem is not None:
        raise StageError(Reason.CONFIG_INVALID, f"{label}'s config.json: {problem}")
    problem = _generation_problem(directory)
    if problem is not None:
        raise StageError(Reason.CONFIG_INVALID, f"{label}'s generation_config.json: {problem}; {_ADVICE}")


def _field_problems(settings: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, (fits, expected) in _FIELD_TYPES.items():
        value = settings.get(name)
        if value is not None and not fits(value):
            found = f'"{value[:_MAX_SHOWN]}"' if isinstance(value, str) else type_name(value)
            yield f"{prefix}{name} must be {expected}, not {found}; {_ADVICE}"
    for name in _SIZES:
        value = settings.get(name)
        if isinstance(value, int) and value < 1:
            yield f"{prefix}{name} must be above 0, not {value}; {_ADVICE}"
    if not prefix and settings.get("text_config") is not None:
        yield from _field_problems(settings["text_config"], "text_config.")


def _loading_problem(directory: Path, trust_remote_code: bool) -> str | None:
    from transformers import AutoConfig

    try:
        AutoConfig.from_pretrained(directory, trust_remote_code=trust_remote_code, local_files_only=True)
    except MemoryError:
        raise
    except Exception as error:  # a config may belong to the model's own code and raise anything
        if getattr(error, "errno", None) is not None:  # an error of the disk, not of the content
            raise
        if "trust_remote_code" in str(error) and not trust_remote_code:
            return "it comes with code; read that code, then set model.trustRemoteCode: true"
        return f"{_error_message(error)}; {_ADVICE}"
    return None


def _generation_problem(directory: Path) -> str | None:
    """Why generation_config.json cannot be loaded. Like transformers, ignores one that is absent or is not JSON."""
    from transformers import GenerationConfig

    try:
        settings = json.loads((directory / "generation_config.json").read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(settings, dict):
        return f"must be an object, not {type_name(settings)}"
    try:
        GenerationConfig.from_pretrained(directory, local_files_only=True)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 -- as above
        return _error_message(error)
    return None


def _error_message(error: Exception) -> str:
    """An error of transformers as one sentence."""
    field_error = _FIELD_ERROR.match(str(error))
    message = field_error["words"].partition(". Errors:")[0] if field_error else str(error) or type(error).__name__
    first_line = message.partition("\n")[0][:300].removesuffix(".")
    return re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", first_line)
