"""What rows give a chat template beside text: tools, tool calls and arguments of the template. Pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sftjob_trainer.failure import data_invalid
from sftjob_trainer.json_text import parse_json
from sftjob_trainer.readers import Row
from sftjob_trainer.wording import type_name

TOOLS: Final = "tools"
KWARGS: Final = "chat_template_kwargs"
"""Columns that rows of messages may have, under the names of TRL and transformers."""
RESERVED_KWARGS: Final = (
    "messages",
    "conversation",
    "conversations",
    "tools",
    "chat_template",
    "add_generation_prompt",
    "continue_final_message",
    "return_assistant_tokens_mask",
)
"""Arguments of transformers' apply_chat_template that training itself sets."""
_OLD_TOOLS: Final = "functions"

Tool = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class TemplateInput:
    """What a row gives its chat template beside messages, as `apply_chat_template` of transformers takes it."""

    tools: tuple[Tool, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict, hash=False)


def read_template_input(row: Row) -> TemplateInput:
    """The tools and template arguments of `row`.

    Raises:
        Failure: a column holds something else.
    """
    if row.values.get(_OLD_TOOLS):
        raise data_invalid(row.place, f'"{_OLD_TOOLS}" is not read; write it as "{TOOLS}": a list of function tools')
    return TemplateInput(_read_tools(row), _read_kwargs(row))


def without_fillers(row: Row, column: str) -> Any:
    """The value of a column, without the nulls that Arrow fills into objects whose neighbours have more keys."""
    value = row.values[column]
    return _pruned(value) if row.is_filled else value


def read_tool_calls(value: Any, at: str, place: str) -> tuple[Mapping[str, Any], ...]:
    """The tool calls of a message, each with its arguments as an object.

    Raises:
        Failure: `value` is no list of calls, or the arguments of one are no JSON object.
    """
    calls = _from_text(value, at, place)
    if not isinstance(calls, list):
        raise data_invalid(place, f"{at} must be a list of calls, not {type_name(calls)}")
    return tuple(_call(call, f"{at}[{index}]", place) for index, call in enumerate(calls))


def function_of(item: Mapping[str, Any]) -> Mapping[str, Any]:
    """The function of a tool or of a call, which is `item` itself in the short form."""
    function = item.get("function")
    return function if isinstance(function, dict) else item


def with_arguments_as_text(call: Mapping[str, Any]) -> Mapping[str, Any]:
    """`call` with its arguments as JSON text, for templates that print them as they are."""
    function = function_of(call)
    changed = {**function, "arguments": json.dumps(function["arguments"], ensure_ascii=False)}
    return changed if function is call else {**call, "function": changed}


def _call(value: Any, at: str, place: str) -> Mapping[str, Any]:
    form = '{"type": "function", "function": {"name": ..., "arguments": {...}}}'
    if not isinstance(value, dict):
        raise data_invalid(place, f"{at} must be {form}, not {type_name(value)}")
    call = {key: item for key, item in value.items() if item is not None}
    function = {key: item for key, item in function_of(call).items() if item is not None}
    if not isinstance(function.get("name"), str) or not function["name"]:
        raise data_invalid(place, f"{at} has no name of a function; write {form}")
    where = f"{at}.function.arguments" if "function" in call else f"{at}.arguments"
    arguments = _from_text(function.get("arguments") or {}, where, place)
    if not isinstance(arguments, dict):
        raise data_invalid(place, f"{where} must be an object, not {type_name(arguments)}")
    function["arguments"] = arguments
    return {**call, "function": function} if "function" in call else function


def _read_tools(row: Row) -> tuple[Tool, ...]:
    if not row.values.get(TOOLS):
        return ()
    at = f'"{TOOLS}"'
    tools = _from_text(without_fillers(row, TOOLS), at, row.place)
    if not isinstance(tools, list):
        raise data_invalid(row.place, f"{at} must be a list of tools or its JSON, not {type_name(tools)}")
    found = tuple(_from_text(tool, f"{TOOLS}[{index}]", row.place) for index, tool in enumerate(tools))
    for index, tool in enumerate(found):
        if not isinstance(tool, dict) or not isinstance(function_of(tool).get("name"), str):
            form = '{"type": "function", "function": {"name": ..., "description": ..., "parameters": {...}}}'
            raise data_invalid(row.place, f"{TOOLS}[{index}] must be {form}, not {type_name(tool)}")
    return found


def _read_kwargs(row: Row) -> Mapping[str, Any]:
    if not row.values.get(KWARGS):
        return {}
    found = _from_text(without_fillers(row, KWARGS), f'"{KWARGS}"', row.place)
    if not isinstance(found, dict):
        raise data_invalid(row.place, f'"{KWARGS}" must be an object, not {type_name(found)}')
    for name in found:
        if name in RESERVED_KWARGS:
            raise data_invalid(row.place, f"{KWARGS}.{name} is set by training itself; remove it")
    return found


def _from_text(value: Any, at: str, place: str) -> Any:
    """`value`, or what it says if it is a JSON text."""
    if not isinstance(value, str):
        return value
    try:
        return parse_json(value)
    except RecursionError as error:
        raise data_invalid(place, f"{at} is not valid JSON: nested too deeply") from error
    except json.JSONDecodeError as error:
        raise data_invalid(place, f"{at} is not valid JSON: {error.msg} at column {error.colno}") from error
    except ValueError as error:
        raise data_invalid(place, f"{at}: {error}") from error


def _pruned(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _pruned(item) for key, item in value.items() if item is not None}
    return [_pruned(item) for item in value] if isinstance(value, list) else value
