"""Messages of a conversation, in the two forms that data sets have, each checked. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from unicodedata import category

from sftjob_trainer.failure import data_invalid
from sftjob_trainer.tool_data import read_tool_calls
from sftjob_trainer.wording import either, type_name

Message = Mapping[str, Any]
"""`role` (one of ROLES), `content`, and what else of MESSAGE_KEYS the row has, as chat templates read them."""

ROLES: Final = ("system", "developer", "user", "assistant", "tool")
THOUGHT_KEYS: Final = ("reasoning_content", "reasoning", "thinking")
"""Keys under which templates read what an assistant thinks before it answers."""
WEIGHT_KEYS: Final = ("weight", "train", "training")
"""Keys that say whether an assistant's turn is trained; no template reads them."""
_KEYS: Final = ("name", "tool_calls", "tool_call_id", *THOUGHT_KEYS, *WEIGHT_KEYS)
_ROLE_OF_KEY: Final = {"tool_calls": "assistant", "tool_call_id": "tool", **dict.fromkeys(THOUGHT_KEYS, "assistant")}
_CALL: Final = "function_call"
_OBSERVATION: Final = "observation"


@dataclass(frozen=True, kw_only=True)
class MessageForm:
    """How messages are written: the keys of speaker and text, and the role that each speaker has."""

    speaker: str
    text: str
    roles: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ReadMessage:
    """A message, its place in the row for sentences, and whether an assistant's turn is trained."""

    message: Message
    at: str
    trained: bool = True


TURNS: Final = MessageForm(speaker="role", text="content", roles={role: role for role in ROLES})
SHAREGPT: Final = MessageForm(
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
"""Data sets of this form are mixed: some call the speakers human and gpt, others user and assistant. The value of a
`function_call` is the JSON of one call or of a list of them, an `observation` what the tool answers."""


def read_messages(value: Any, column: str, place: str, form: MessageForm) -> tuple[ReadMessage, ...]:
    """The messages in a row's `column`.

    Raises:
        Failure: it is no list of messages, or one of them can not be used.
    """
    if not isinstance(value, list):
        wanted = f"{{{form.speaker}, {form.text}}}"
        raise data_invalid(place, f'"{column}" must be a list of {wanted} objects, not {type_name(value)}')
    return tuple(_message(item, f"{column}[{index}]", place, form) for index, item in enumerate(value))


def checked_text(value: str, at: str, place: str, *, may_be_empty: bool) -> str:
    """`value`, which is text that can be tokenized.

    Raises:
        Failure: it can not be, or there is none.
    """
    if not may_be_empty and is_blank(value):
        raise data_invalid(place, f"{at} is {'blank' if value else 'empty'}, so there is nothing to train on")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        found = f"\\u{ord(value[error.start]):04x}"
        raise data_invalid(place, f"{at} contains {found}, half of a surrogate pair, which is no character") from error
    return value


def is_blank(text: str) -> bool:
    """Whether `text` shows nothing: no character, or only white space, controls and characters of no width."""
    return all(character.isspace() or category(character) in ("Cc", "Cf") for character in text)


def _message(item: Any, at: str, place: str, form: MessageForm) -> ReadMessage:
    if not isinstance(item, dict):
        wanted = f"an object with {form.speaker} and {form.text}"
        raise data_invalid(place, f"{at} must be {wanted}, not {type_name(item)}")
    if form is SHAREGPT and form.speaker not in item and TURNS.speaker in item:
        form = TURNS
    role = _role(item, at, place, form)
    given = {key: value for key, value in item.items() if value is not None and key not in (form.speaker, form.text)}
    if form is SHAREGPT and item[form.speaker] == _CALL:
        given["tool_calls"] = _calls_of_text(item.get(form.text), f"{at}.{form.text}", place)
        item = {}
    _check_keys(given, role, at, place, form)
    trained = _is_trained(given, role, at, place)
    extras = dict(_extras(given, at, place))
    speaks = role == "assistant" and trained and not extras
    content = _content(item.get(form.text), f"{at}.{form.text}", place, may_be_absent="tool_calls" in extras)
    checked_text(content, f"{at}.{form.text}", place, may_be_empty=not speaks)
    return ReadMessage({"role": role, "content": content, **extras}, at, trained)


def _role(item: Mapping[str, Any], at: str, place: str, form: MessageForm) -> str:
    has_calls = bool(item.get("tool_calls"))
    for key in (form.speaker, form.text):
        if key not in item and not (key == form.text and has_calls):
            raise data_invalid(place, f"{at} has no {key}; it has {_quoted(item)}")
    speaker = item[form.speaker]
    if speaker not in list(form.roles):
        shown = f'"{speaker}"' if isinstance(speaker, str) else type_name(speaker)
        raise data_invalid(place, f"{at}.{form.speaker} must be {either(list(form.roles))}, not {shown}")
    return form.roles[speaker]


def _check_keys(given: Mapping[str, Any], role: str, at: str, place: str, form: MessageForm) -> None:
    if _CALL in given:
        raise data_invalid(place, f"{at}.{_CALL} is not read; write it as tool_calls, a list of one call")
    for key in given:
        if key not in _KEYS:
            known = either([form.speaker, form.text, *_KEYS])
            raise data_invalid(place, f'{at} has the key "{str(key)[:40]}"; a message has {known}; remove the key')
        wanted = _ROLE_OF_KEY.get(key, role)
        if role != wanted and given[key]:
            raise data_invalid(place, f"{at}.{key} belongs to the role {wanted}, not {role}; remove it")


def _is_trained(given: Mapping[str, Any], role: str, at: str, place: str) -> bool:
    wanted = {key: given[key] for key in WEIGHT_KEYS if key in given}
    for key, value in wanted.items():
        if value not in (0, 1):
            raise data_invalid(place, f"{at}.{key} must be 0 or 1 (false or true), not {str(value)[:40]}")
        if value and role != "assistant":
            raise data_invalid(place, f"{at}.{key} must be 0: a turn of the role {role} is never trained; remove it")
    if len(set(map(bool, wanted.values()))) > 1:
        raise data_invalid(place, f"{at}: {' and '.join(wanted)} contradict one another; keep one")
    return all(wanted.values())


def _extras(given: Mapping[str, Any], at: str, place: str) -> Iterable[tuple[str, Any]]:
    """Keys and values that go to the chat template; what is empty is left out."""
    for key, value in given.items():
        if key in WEIGHT_KEYS or not value:
            continue
        if key == "tool_calls":
            yield key, read_tool_calls(value, f"{at}.{key}", place)
        elif isinstance(value, str):
            yield key, checked_text(value, f"{at}.{key}", place, may_be_empty=True)
        else:
            raise data_invalid(place, f"{at}.{key} must be text, not {type_name(value)}")


def _calls_of_text(value: Any, at: str, place: str) -> tuple[Mapping[str, Any], ...]:
    """The calls in the value of a ShareGPT message: the JSON of one, or of a list."""
    is_list = isinstance(value, list) or (isinstance(value, str) and value.lstrip().startswith("["))
    wrapped = f"[{value}]" if isinstance(value, str) else [value]
    calls = read_tool_calls(value if is_list else wrapped, at, place) if value else ()
    if not calls:
        raise data_invalid(place, f"{at} is empty, so there is nothing to train on")
    return calls


def _content(content: Any, at: str, place: str, *, may_be_absent: bool) -> str:
    """Content as text: it may be a list of text parts, as for models that take images too."""
    if content is None and may_be_absent:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise data_invalid(place, f"{at} must be text, not {type_name(content)}")
    return "".join(_part(part, f"{at}[{index}]", place) for index, part in enumerate(content))


def _part(part: Any, at: str, place: str) -> str:
    if not isinstance(part, dict) or "type" not in part:
        raise data_invalid(place, f'{at} must be {{"type": "text", "text": ...}}, not {type_name(part)}')
    if part["type"] != "text":
        raise data_invalid(place, f'{at} is of type "{part["type"]}", but only text can be trained on')
    others = {key: value for key, value in part.items() if value is not None and key not in ("type", "text")}
    if others:
        raise data_invalid(place, f"{at} has {_quoted(others)}; a part of text has type and text; remove the rest")
    text = part.get("text")
    if not isinstance(text, str):
        raise data_invalid(place, f"{at}.text must be text, not {type_name(text)}")
    return text


def _quoted(keys: Mapping[Any, Any]) -> str:
    return ", ".join(f'"{str(key)[:40]}"' for key in list(keys)[:8]) or "nothing"
