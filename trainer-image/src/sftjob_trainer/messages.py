"""Messages of a conversation, in the two forms that data sets have, each checked. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sftjob_trainer.failure import data_invalid
from sftjob_trainer.wording import either, type_name

Message = Mapping[str, str]
"""`role` (one of ROLES) and `content`."""

ROLES: Final = ("system", "user", "assistant", "tool")


@dataclass(frozen=True, kw_only=True)
class MessageForm:
    """How messages are written: the keys of speaker and text, and the role that each speaker has."""

    speaker: str
    text: str
    roles: Mapping[str, str]


TURNS: Final = MessageForm(speaker="role", text="content", roles={role: role for role in ROLES})
SHAREGPT: Final = MessageForm(
    speaker="from", text="value", roles={"human": "user", "gpt": "assistant", **{role: role for role in ROLES}}
)
"""Data sets of this form are mixed: some call the speakers human and gpt, others user and assistant."""


def read_messages(value: Any, column: str, place: str, form: MessageForm) -> tuple[Message, ...]:
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
    if not value.strip() and not may_be_empty:
        raise data_invalid(place, f"{at} is {'blank' if value else 'empty'}, so there is nothing to train on")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        found = f"\\u{ord(value[error.start]):04x}"
        raise data_invalid(place, f"{at} contains {found}, half of a surrogate pair, which is no character") from error
    return value


def _message(item: Any, at: str, place: str, form: MessageForm) -> Message:
    if not isinstance(item, dict):
        wanted = f"an object with {form.speaker} and {form.text}"
        raise data_invalid(place, f"{at} must be {wanted}, not {type_name(item)}")
    if form is SHAREGPT and form.speaker not in item and TURNS.speaker in item:
        form = TURNS
    for key in (form.speaker, form.text):
        if key not in item:
            raise data_invalid(place, f"{at} has no {key}; it has {_quoted(item)}")
    speaker = item[form.speaker]
    if speaker not in list(form.roles):
        shown = f'"{speaker}"' if isinstance(speaker, str) else type_name(speaker)
        raise data_invalid(place, f"{at}.{form.speaker} must be {either(list(form.roles))}, not {shown}")
    if item.get("tool_calls"):
        raise data_invalid(place, f"{at} has tool_calls, which are not supported; write the call into {form.text}")
    role = form.roles[speaker]
    text = _joined(item[form.text], f"{at}.{form.text}", place)
    return {"role": role, "content": checked_text(text, f"{at}.{form.text}", place, may_be_empty=role != "assistant")}


def _joined(content: Any, at: str, place: str) -> str:
    """Content as text: it may be a list of text parts, as for models that take images too."""
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
    text = part.get("text")
    if not isinstance(text, str):
        raise data_invalid(place, f"{at}.text must be text, not {type_name(text)}")
    return text


def _quoted(keys: Mapping[Any, Any]) -> str:
    return ", ".join(f'"{str(key)[:40]}"' for key in list(keys)[:8]) or "nothing"
