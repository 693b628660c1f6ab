"""Load a model's tokenizer, and represent examples as token ids and labels."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from sftjob_contract import layout
from sftjob_contract.reasons import Reason
from sftjob_contract.run.config import Model
from sftjob_trainer.models.added_tokens import add_tokens, tokens_to_add
from sftjob_trainer.models.limits import read_limits
from sftjob_trainer.process.errors import StageError
from sftjob_trainer.process.wording import type_name

NOT_TRAINED: Final = -100
"""Label that PyTorch's cross entropy ignores."""
_PROBE: Final = "It's 12345 o'clock,\n\n  isn't it?\tna\u00efve na\u0069\u0308ve \u65e5\u672c\u8a9e files 12"
"""Text that tokenizers with different rules for words, numbers, spaces or accents split differently."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One example; `labels` are the token ids themselves, or NOT_TRAINED."""

    location: str
    input_ids: list[int]
    labels: list[int]


Encoder = Callable[[Sequence[Any]], list[Encoded]]
"""Encodes a batch of examples."""


def load_tokenizer(directory: Path, model: Model) -> Any:
    """Load the tokenizer of the model in `directory`, with the tokens that `model` adds, and its padding side.

    Nothing is downloaded.

    Raises:
        StageError: it cannot be loaded, has no end-of-sequence token, or refuses a token.
    """
    from transformers import AutoTokenizer

    trust = model.trust_remote_code
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=trust, local_files_only=True)
    except MemoryError:
        raise
    except Exception as error:
        # Loading executes what the files specify, so any exception can occur; all are about the model.
        if "trust_remote_code" in str(error) and not trust:
            raise _unusable("it comes with code; read that code, then set model.trustRemoteCode: true") from error
        raise _unusable(str(error).partition("\n")[0][:300] or type(error).__name__) from error
    # For a known model type without tokenizer files, transformers creates an empty tokenizer.
    names = tokenizer.vocab_files_names.values()
    if names and not any((directory / name).is_file() for name in names):
        raise _unusable(f"none of {', '.join(names)} is there")
    if not isinstance(tokenizer.model_max_length, int | float):
        found = type_name(tokenizer.model_max_length)
        raise _unusable(f"model_max_length in its tokenizer_config.json must be a number, not {found}")
    if tokenizer.eos_token_id is None:
        raise StageError(
            Reason.CONFIG_INVALID,
            "the model's tokenizer has no end-of-sequence token, so a model could not learn to stop; "
            "set eos_token in its tokenizer_config.json",
        )
    add_tokens(tokenizer, model)
    tokenizer.padding_side = model.padding_side.value
    if model.rope_scaling is not None:
        positions = read_limits(directory, model.rope_scaling).positions
        tokenizer.model_max_length = max(tokenizer.model_max_length, positions or 0)
    return tokenizer


def new_tokens(directory: Path, model: Model) -> Mapping[str, int]:
    """Ids, by token, of the tokens that `model` adds to the tokenizer in `directory`.

    Raises:
        StageError: as for `load_tokenizer`.
    """
    return add_tokens(load_original_tokenizer(directory, model), model) if tokens_to_add(model) else {}


def load_original_tokenizer(directory: Path, model: Model) -> Any:
    """The tokenizer in `directory` without added tokens.

    Raises:
        StageError: as for `load_tokenizer`.
    """
    return load_tokenizer(directory, replace(model, added_tokens=None, added_special_tokens=None))


def text_tokens(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """The token ids of each of `texts`, with the special tokens that the tokenizer itself adds.

    A beginning-of-sequence or end-of-sequence token that a text already contains is not duplicated.
    """
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    encodings = tokenizer(list(texts))["input_ids"] if texts else []
    begun = [ids[1:] if bos is not None and ids[:2] == [bos, bos] else ids for ids in encodings]
    return [ids[:-1] if ids[-2:] == [eos, eos] else ids for ids in begun]


def tokenizes_differently(tokenizer: Any, directory: Path) -> bool:
    """Whether `tokenizer`, loaded from `directory`, splits text differently than the tokenizer.json there.

    For known model types, transformers replaces the rules in the file by its own.
    """
    path = directory / "tokenizer.json"
    if not path.is_file():
        return False
    from tokenizers import Tokenizer

    file = Tokenizer.from_file(str(path))
    file.no_padding()
    file.no_truncation()
    ids = tokenizer(_PROBE, add_special_tokens=False)["input_ids"]
    return bool(ids != file.encode(_PROBE, add_special_tokens=False).ids)


def load_prepared_tokenizer(directory: Path, model: Model, volume: Path) -> Any:
    """The same with the chat template that Prepare saved on the volume, if one was configured; to save with the model.

    Raises:
        StageError: as for `load_tokenizer`.
    """
    tokenizer = load_tokenizer(directory, model)
    if model.chat_template is not None:
        tokenizer.chat_template = (volume / layout.PREPARED_CHAT_TEMPLATE).read_text(encoding="utf-8")
    return tokenizer


def _unusable(problem: str) -> StageError:
    return StageError(Reason.CONFIG_INVALID, f"the model's tokenizer cannot be loaded: {problem}")
