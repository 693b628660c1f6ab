"""The tokenizer that comes with a model, and examples as token ids and labels."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from sftjob_contract import layout
from sftjob_contract.config import Model
from sftjob_contract.reasons import Reason
from sftjob_trainer.added_tokens import add_tokens, added
from sftjob_trainer.failure import Failure
from sftjob_trainer.limits import read_limits
from sftjob_trainer.wording import type_name

NOT_TRAINED: Final = -100
"""Label that PyTorch's cross entropy ignores."""
_PROBE: Final = "It's 12345 o'clock,\n\n  isn't it?\tna\u00efve na\u0069\u0308ve \u65e5\u672c\u8a9e files 12"
"""Text that tokenizers with other rules for words, numbers, spaces or accents cut differently."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One example; `labels` are the token ids themselves, or NOT_TRAINED."""

    place: str
    input_ids: list[int]
    labels: list[int]


Encoder = Callable[[Sequence[Any]], list[Encoded]]
"""Encodes a batch of examples."""


def load_tokenizer(directory: Path, model: Model) -> Any:
    """The tokenizer that comes with the model in `directory`, with the tokens that `model` adds, padding where it says.

    Nothing is fetched.

    Raises:
        Failure: it can not be loaded, has no end-of-sequence token, or does not take a token.
    """
    from transformers import AutoTokenizer

    trust = model.trust_remote_code
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=trust, local_files_only=True)
    except MemoryError:
        raise
    except Exception as error:
        # Loading runs whatever the files ask for, so any exception can come out of it; all are about the model.
        if "trust_remote_code" in str(error) and not trust:
            raise _unusable("it comes with code; read that code, then set model.trustRemoteCode: true") from error
        raise _unusable(str(error).partition("\n")[0][:300] or type(error).__name__) from error
    # For a known model type without tokenizer files transformers makes up an empty tokenizer.
    names = tokenizer.vocab_files_names.values()
    if names and not any((directory / name).is_file() for name in names):
        raise _unusable(f"none of {', '.join(names)} is there")
    if not isinstance(tokenizer.model_max_length, int | float):
        found = type_name(tokenizer.model_max_length)
        raise _unusable(f"model_max_length in its tokenizer_config.json must be a number, not {found}")
    if tokenizer.eos_token_id is None:
        raise Failure(
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
    """Ids, by token, of what `model` adds and the tokenizer in `directory` does not have.

    Raises:
        Failure: as `load_tokenizer`.
    """
    return add_tokens(own_tokenizer(directory, model), model) if added(model) else {}


def own_tokenizer(directory: Path, model: Model) -> Any:
    """The tokenizer in `directory` without added tokens.

    Raises:
        Failure: as `load_tokenizer`.
    """
    return load_tokenizer(directory, replace(model, added_tokens=None, added_special_tokens=None))


def text_tokens(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """The token ids of each of `texts`, with the special tokens that the tokenizer itself adds.

    A text that is written with the beginning-of-sequence or the end-of-sequence token gets no second one.
    """
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    encodings = tokenizer(list(texts))["input_ids"] if texts else []
    begun = [ids[1:] if bos is not None and ids[:2] == [bos, bos] else ids for ids in encodings]
    return [ids[:-1] if ids[-2:] == [eos, eos] else ids for ids in begun]


def cuts_otherwise(tokenizer: Any, directory: Path) -> bool:
    """Whether `tokenizer`, loaded from `directory`, cuts text in another way than the tokenizer.json there says.

    For model types that it knows, transformers puts rules of its own in the place of those in the file.
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
    """The same with the chat template that Prepare left on the volume, if one was asked for; to keep with the model.

    Raises:
        Failure: as `load_tokenizer`.
    """
    tokenizer = load_tokenizer(directory, model)
    if model.chat_template is not None:
        tokenizer.chat_template = (volume / layout.PREPARED_CHAT_TEMPLATE).read_text(encoding="utf-8")
    return tokenizer


def _unusable(problem: str) -> Failure:
    return Failure(Reason.CONFIG_INVALID, f"the model's tokenizer can not be loaded: {problem}")
