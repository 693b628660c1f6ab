"""Check that a rendered conversation contains the whole row: a template never omits content silently."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sftjob_trainer.rows.messages import THOUGHT_KEYS
from sftjob_trainer.rows.tool_data import TOOLS, Tool, function_of
from sftjob_trainer.tokens.turns import thought_and_answer


def hidden_keys(message: Mapping[str, Any], text: str) -> Iterator[str]:
    """The keys of `message` whose values are not in `text`, except an assistant's thoughts.

    `tool_call_id`, ids of calls and the `name` of a tool only link messages; few templates print them.
    """
    content = message["content"]
    answer = thought_and_answer(content)[1] if message["role"] == "assistant" else content
    if not _is_shown(answer, text):
        yield "content"
    if message["role"] != "tool" and not _is_shown(message.get("name", ""), text):
        yield "name"
    for index, call in enumerate(message.get("tool_calls", ())):
        function = function_of(call)
        if not all(_is_shown(part, text) for part in (function["name"], *_leaves(function["arguments"]))):
            yield f"tool_calls[{index}]"


def hidden_thought(message: Mapping[str, Any], text: str) -> str | None:
    """The key of an assistant's thought that is not in `text`; None if there is no thought, or it is in `text`."""
    for key in THOUGHT_KEYS:
        if not _is_shown(message.get(key, ""), text):
            return key
    return None if _is_shown(thought_and_answer(message["content"])[0], text) else "content"


def hidden_tools(tools: Sequence[Tool], text: str) -> Iterator[str]:
    """Locations of those of `tools` whose names are not in `text`."""
    for index, tool in enumerate(tools):
        if not _is_shown(function_of(tool)["name"], text):
            yield f"{TOOLS}[{index}]"


def _leaves(value: Any) -> Iterator[str]:
    """Names and values in the arguments of a call, except truth values and null, which have many spellings."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield str(name)
            yield from _leaves(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)
    elif value is not None and not isinstance(value, bool):
        yield str(value)


def _is_shown(part: str, text: str) -> bool:
    """Whether `part` is in `text`: verbatim, as in a JSON string, or with other white space."""
    bare = part.strip()
    if bare in text:
        return True
    forms = (json.dumps(bare, ensure_ascii=ascii_only)[1:-1] for ascii_only in (False, True))
    return any(form in text for form in forms) or " ".join(bare.split()) in " ".join(text.split())
