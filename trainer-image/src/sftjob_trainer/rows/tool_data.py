"""Chat template inputs other than text: tools, tool calls and template arguments of a row. Pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sftjob_trainer.process.errors import data_invalid
from sftjob_trainer.process.wording import type_name
from sftjob_trainer.rows.json_stream import parse_json
from sftjob_trainer.rows.readers import Row

TOOLS: Final = "tools"
KWARGS: Final = "chat_template_kwargs"
"""Optional columns of message rows, under the names of TRL and transformers."""
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
    """A row's inputs to its chat template other than messages, as `apply_chat_template` of transformers takes them."""

    tools: tuple[Tool, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict, hash=False)


def read_template_input(row: Row) -> TemplateInput:
    """The tools and template arguments of `row`.

    Raises:
        StageError: a column has another type of content.
    """
    if row.values.get(_OLD_TOOLS):
        raise data_invalid(row.location, f'"{_OLD_TOOLS}" is not read; write it as "{TOOLS}": a list of function tools')
    return TemplateInput(_read_tools(row), _read_kwargs(row))


def without_filler_nulls(row: Row, column: str) -> Any:
    """The value of a column, without the nulls that Arrow adds for keys that only other rows have."""
    value = row.values[column]
    return _without_nulls(value) if row.is_filled else value


def read_tool_calls(value: Any, path: str, location: str) -> tuple[Mapping[str, Any], ...]:
    """The tool calls of a message, each with its arguments as an object.

    Raises:
        StageError: `value` is not a list of calls, or the arguments of one are not a JSON object.
    """
    calls = _from_text(value, path, location)
    if not isinstance(calls, list):
        raise data_invalid(location, f"{path} must be a list of calls, not {type_name(calls)}")
    return tuple(_call(call, f"{path}[{index}]", location) for index, call in enumerate(calls))


def function_of(item: Mapping[str, Any]) -> Mapping[str, Any]:
    """The function of a tool or of a call, which is `item` itself in the short form."""
    function = item.get("function")
    return function if isinstance(function, dict) else item


def with_arguments_as_text(call: Mapping[str, Any]) -> Mapping[str, Any]:
    """`call` with its arguments as JSON text, for templates that print them unchanged."""
    function = function_of(call)
    function_with_text = {**function, "arguments": json.dumps(function["arguments"], ensure_ascii=False)}
    return function_with_text if function is call else {**call, "function": function_with_text}


def _call(value: Any, path: str, location: str) -> Mapping[str, Any]:
    expected = '{"type": "function", "function": {"name": ..., "arguments": {...}}}'
    if not isinstance(value, dict):
        raise data_invalid(location, f"{path} must be {expected}, not {type_name(value)}")
    call = {key: item for key, item in value.items() if item is not None}
    function = {key: item for key, item in function_of(call).items() if item is not None}
    if not isinstance(function.get("name"), str) or not function["name"]:
        raise data_invalid(location, f"{path} has no name of a function; write {expected}")
    arguments_path = f"{path}.function.arguments" if "function" in call else f"{path}.arguments"
    arguments = _from_text(function.get("arguments") or {}, arguments_path, location)
    if not isinstance(arguments, dict):
        raise data_invalid(location, f"{arguments_path} must be an object, not {type_name(arguments)}")
    function["arguments"] = arguments
    return {**call, "function": function} if "function" in call else function


def _read_tools(row: Row) -> tuple[Tool, ...]:
    if not row.values.get(TOOLS):
        return ()
    path = f'"{TOOLS}"'
    tools = _from_text(without_filler_nulls(row, TOOLS), path, row.location)
    if not isinstance(tools, list):
        raise data_invalid(row.location, f"{path} must be a list of tools or its JSON, not {type_name(tools)}")
    found = tuple(_from_text(tool, f"{TOOLS}[{index}]", row.location) for index, tool in enumerate(tools))
    for index, tool in enumerate(found):
        if not isinstance(tool, dict) or not isinstance(function_of(tool).get("name"), str):
            expected = '{"type": "function", "function": {"name": ..., "description": ..., "parameters": {...}}}'
            raise data_invalid(row.location, f"{TOOLS}[{index}] must be {expected}, not {type_name(tool)}")
    return found


def _read_kwargs(row: Row) -> Mapping[str, Any]:
    if not row.values.get(KWARGS):
        return {}
    found = _from_text(without_filler_nulls(row, KWARGS), f'"{KWARGS}"', row.location)
    if not isinstance(found, dict):
        raise data_invalid(row.location, f'"{KWARGS}" must be an object, not {type_name(found)}')
    for name in found:
        if name in RESERVED_KWARGS:
            raise data_invalid(row.location, f"{KWARGS}.{name} is set by training itself; remove it")
    return found


def _from_text(value: Any, path: str, location: str) -> Any:
    """`value`, or its parsed content if it is a JSON text."""
    if not isinstance(value, str):
        return value
    try:
        return parse_json(value)
    except RecursionError as error:
        raise data_invalid(location, f"{path} is not valid JSON: nested too deeply") from error
    except json.JSONDecodeError as error:
        raise data_invalid(location, f"{path} is not valid JSON: {error.msg} at column {error.colno}") from error
    except ValueError as error:
        raise data_invalid(location, f"{path}: {error}") from error


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value
