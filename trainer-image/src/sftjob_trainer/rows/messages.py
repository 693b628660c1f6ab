"""Messages of a conversation, in the two forms that datasets use, each validated. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from unicodedata import category

from sftjob_trainer.process.errors import data_invalid
from sftjob_trainer.process.wording import one_of, type_name
from sftjob_trainer.rows.tool_data import read_tool_calls

Message = Mapping[str, Any]
"""`role` (one of ROLES), `content`, and the row's other MESSAGE_KEYS, as chat templates read them."""

ROLES: Final = ("system", "developer", "user", "assistant", "tool")
THOUGHT_KEYS: Final = ("reasoning_content", "reasoning", "thinking")
"""Keys under which templates read the assistant's thought before its answer."""
WEIGHT_KEYS: Final = ("weight", "train", "training")
"""Keys that say whether an assistant's turn is trained; no template reads them."""
_KEYS: Final = ("name", "tool_calls", "tool_call_id", *THOUGHT_KEYS, *WEIGHT_KEYS)
_ROLE_OF_KEY: Final = {"tool_calls": "assistant", "tool_call_id": "tool", **dict.fromkeys(THOUGHT_KEYS, "assistant")}
_CALL: Final = "function_call"
_OBSERVATION: Final = "observation"


@dataclass(frozen=True, kw_only=True)
class MessageFormat:
    """The message format: the keys of speaker and text, and the role of each speaker."""

    speaker: str
    text: str
    roles: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ReadMessage:
    """A message, its location in the row for messages to the user, and whether an assistant's turn is trained."""

    message: Message
    path: str
    trained: bool = True


TURNS: Final = MessageFormat(speaker="role", text="content", roles={role: role for role in ROLES})
SHAREGPT: Final = MessageFormat(
    speaker="from",
    text="value",
    roles={
        "human": "user",
        "gpt": "assistant",
        _CALL: "assistant",
        _OBSERVATION: "tool",
        **{role: role for role in ROLES},
    },
)
"""Datasets of this form are inconsistent: some name the speakers human and gpt, others user and assistant. The value
of a `function_call` is the JSON of one call or of a list of calls; an `observation` is the tool's response."""


def read_messages(value: Any, column: str, location: str, message_format: MessageFormat) -> tuple[ReadMessage, ...]:
    """The messages in a row's `column`.

    Raises:
        StageError: it is not a list of messages, or one of them is unusable.
    """
    if not isinstance(value, list):
        wanted = f"{{{message_format.speaker}, {message_format.text}}}"
        raise data_invalid(location, f'"{column}" must be a list of {wanted} objects, not {type_name(value)}')
    return tuple(_message(item, f"{column}[{index}]", location, message_format) for index, item in enumerate(value))


def checked_text(value: str, path: str, location: str, *, may_be_empty: bool) -> str:
    """`value`, if it is text that can be tokenized.

    Raises:
        StageError: it is not, or it is blank.
    """
    if not may_be_empty and is_blank(value):
        raise data_invalid(location, f"{path} is {'blank' if value else 'empty'}, so there is nothing to train on")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        found = f"\\u{ord(value[error.start]):04x}"
        raise data_invalid(
            location, f"{path} contains {found}, half of a surrogate pair, which is not a character"
        ) from error
    return value


def is_blank(text: str) -> bool:
    """Whether `text` shows nothing: no characters, or only white space, controls and zero-width characters."""
    return all(character.isspace() or category(character) in ("Cc", "Cf") for character in text)


def _message(item: Any, path: str, location: str, message_format: MessageFormat) -> ReadMessage:
    if not isinstance(item, dict):
        wanted = f"an object with {message_format.speaker} and {message_format.text}"
        raise data_invalid(location, f"{path} must be {wanted}, not {type_name(item)}")
    if message_format is SHAREGPT and message_format.speaker not in item and TURNS.speaker in item:
        message_format = TURNS
    role = _role(item, path, location, message_format)
    extra_keys = {
        key: value
        for key, value in item.items()
        if value is not None and key not in (message_format.speaker, message_format.text)
    }
    if message_format is SHAREGPT and item[message_format.speaker] == _CALL:
        extra_keys["tool_calls"] = _calls_from_text(
            item.get(message_format.text), f"{path}.{message_format.text}", location
        )
        item = {}
    _check_keys(extra_keys, role, path, location, message_format)
    trained = _is_trained(extra_keys, role, path, location)
    extras = dict(_extras(extra_keys, path, location))
    speaks = role == "assistant" and trained and not extras
    content = _content(
        item.get(message_format.text), f"{path}.{message_format.text}", location, may_be_absent="tool_calls" in extras
    )
    checked_text(content, f"{path}.{message_format.text}", location, may_be_empty=not speaks)
    return ReadMessage({"role": role, "content": content, **extras}, path, trained)


def _role(item: Mapping[str, Any], path: str, location: str, message_format: MessageFormat) -> str:
    has_calls = bool(item.get("tool_calls"))
    for key in (message_format.speaker, message_format.text):
        if key not in item and not (key == message_format.text and has_calls):
            raise data_invalid(location, f"{path} has no {key}; it has {_quoted(item)}")
    speaker = item[message_format.speaker]
    if speaker not in list(message_format.roles):
        shown = f'"{speaker}"' if isinstance(speaker, str) else type_name(speaker)
        raise data_invalid(
            location, f"{path}.{message_format.speaker} must be {one_of(list(message_format.roles))}, not {shown}"
        )
    return message_format.roles[speaker]


def _check_keys(
    extra_keys: Mapping[str, Any], role: str, path: str, location: str, message_format: MessageFormat
) -> None:
    if _CALL in extra_keys:
        raise data_invalid(location, f"{path}.{_CALL} is not read; write it as tool_calls, a list of one call")
    for key in extra_keys:
        if key not in _KEYS:
            known = one_of([message_format.speaker, message_format.text, *_KEYS])
            raise data_invalid(location, f'{path} has the key "{str(key)[:40]}"; a message has {known}; remove the key')
        wanted = _ROLE_OF_KEY.get(key, role)
        if role != wanted and extra_keys[key]:
            raise data_invalid(location, f"{path}.{key} belongs to the role {wanted}, not {role}; remove it")


def _is_trained(extra_keys: Mapping[str, Any], role: str, path: str, location: str) -> bool:
    wanted = {key: extra_keys[key] for key in WEIGHT_KEYS if key in extra_keys}
    for key, value in wanted.items():
        if value not in (0, 1):
            raise data_invalid(location, f"{path}.{key} must be 0 or 1 (false or true), not {str(value)[:40]}")
        if value and role != "assistant":
            raise data_invalid(
                location, f"{path}.{key} must be 0: a turn of the role {role} is never trained; remove it"
            )
    if len(set(map(bool, wanted.values()))) > 1:
        raise data_invalid(location, f"{path}: {' and '.join(wanted)} contradict one another; keep one")
    return all(wanted.values())


def _extras(extra_keys: Mapping[str, Any], path: str, location: str) -> Iterable[tuple[str, Any]]:
    """Keys and values for the chat template; empty values are left out."""
    for key, value in extra_keys.items():
        if key in WEIGHT_KEYS or not value:
            continue
        if key == "tool_calls":
            yield key, read_tool_calls(value, f"{path}.{key}", location)
        elif isinstance(value, str):
            yield key, checked_text(value, f"{path}.{key}", location, may_be_empty=True)
        else:
            raise data_invalid(location, f"{path}.{key} must be text, not {type_name(value)}")


def _calls_from_text(value: Any, path: str, location: str) -> tuple[Mapping[str, Any], ...]:
    """The calls in the value of a ShareGPT message: the JSON of one call, or of a list."""
    is_list = isinstance(value, list) or (isinstance(value, str) and value.lstrip().startswith("["))
    wrapped = f"[{value}]" if isinstance(value, str) else [value]
    calls = read_tool_calls(value if is_list else wrapped, path, location) if value else ()
    if not calls:
        raise data_invalid(location, f"{path} is empty, so there is nothing to train on")
    return calls


def _content(content: Any, path: str, location: str, *, may_be_absent: bool) -> str:
    """Content as text; a list of text parts, as for models that also take images, is accepted."""
    if content is None and may_be_absent:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise data_invalid(location, f"{path} must be text, not {type_name(content)}")
    return "".join(_part(part, f"{path}[{index}]", location) for index, part in enumerate(content))


def _part(part: Any, path: str, location: str) -> str:
    if not isinstance(part, dict) or "type" not in part:
        raise data_invalid(location, f'{path} must be {{"type": "text", "text": ...}}, not {type_name(part)}')
    if part["type"] != "text":
        raise data_invalid(location, f'{path} is of type "{part["type"]}", but only text can be trained on')
    others = {key: value for key, value in part.items() if value is not None and key not in ("type", "text")}
    if others:
        raise data_invalid(location, f"{path} has {_quoted(others)}; a part of text has type and text; remove the rest")
    text = part.get("text")
    if not isinstance(text, str):
        raise data_invalid(location, f"{path}.text must be text, not {type_name(text)}")
    return text


def _quoted(keys: Mapping[Any, Any]) -> str:
    return ", ".join(f'"{str(key)[:40]}"' for key in list(keys)[:8]) or "nothing"
