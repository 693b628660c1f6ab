"""Tool calls and thoughts in the chat formats of nine model families: what is between >> and << is trained.

The templates render the published format of each family in its plainest form; the expected texts are written by hand.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from sftjob_contract.reasons import Reason
from sftjob_contract.run.config import DataFormat
from sftjob_trainer.process.errors import StageError
from sftjob_trainer.rows.examples import to_example
from sftjob_trainer.rows.readers import Row
from sftjob_trainer.tokens.label_report import marked
from sftjob_trainer.tokens.labels import encoder
from support.trainer.chats import config
from support.trainer.tiny import data_source

CALL = {
    "type": "function",
    "id": "call00001",
    "function": {"name": "weather", "arguments": {"city": "Turin", "days": 2}},
}
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "Forecast."}}]
ASKED = {"role": "user", "content": "Rain in Turin?"}
RESULT = {"role": "tool", "tool_call_id": "call00001", "name": "weather", "content": "dry"}
TOLD = {"role": "assistant", "content": "No rain."}
USES_TOOLS: Mapping[str, Any] = {
    "messages": [ASKED, {"role": "assistant", "content": None, "tool_calls": [CALL]}, RESULT, TOLD],
    "tools": TOOLS,
}
AGAIN = {"role": "user", "content": "And snow?"}


def thinks(key: str) -> Mapping[str, Any]:
    """Two turns, each with a thought under `key`."""
    first, second = {**TOLD, key: "a dry week"}, {"role": "assistant", "content": "None.", key: "too warm"}
    return {"messages": [ASKED, first, AGAIN, second]}


IN_TAGS: Mapping[str, Any] = {
    "messages": [
        ASKED,
        {"role": "assistant", "content": "<think>\na dry week\n</think>\n\nNo rain."},
        AGAIN,
        {"role": "assistant", "content": "<think>\ntoo warm\n</think>\n\nNone."},
    ]
}

LAST_USER = (
    "{%- set ns = namespace(last=0) -%}"
    "{%- for m in messages if m.role == 'user' -%}{%- set ns.last = messages.index(m) -%}{%- endfor -%}"
)
XML_CALLS = (
    "{% for c in m.tool_calls %}{% set f = c.function %}"
    "<tool_call>\n{{ '{\"name\": \"' ~ f.name ~ '\", \"arguments\": ' ~ (f.arguments | tojson) ~ '}' }}\n</tool_call>"
    "{% endfor %}"
)


@dataclass(frozen=True)
class Family:
    """`template` and its `tokens`, the last of which closes the assistant's turns."""

    template: str
    tokens: tuple[str, ...]


FAMILIES = {
    "chatml": Family(
        "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}"
        "{{ m.content }}{% if m.tool_calls %}" + XML_CALLS + "{% endif %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        ("<|im_start|>", "<|im_end|>"),
    ),
    "qwen2.5": Family(
        "<|im_start|>system\nYou help.{% for t in tools or [] %}{{ '\n' ~ (t | tojson) }}{% endfor %}<|im_end|>\n"
        "{% for m in messages %}{% if m.role == 'tool' %}"
        "{% if messages[loop.index0 - 1].role != 'tool' %}<|im_start|>user{% endif %}"
        "{{ '\n' }}<tool_response>\n{{ m.content }}\n</tool_response>"
        "{% if loop.last or messages[loop.index0 + 1].role != 'tool' %}<|im_end|>\n{% endif %}"
        "{% else %}<|im_start|>{{ m.role }}\n{{ m.content or '' }}{% if m.tool_calls %}" + XML_CALLS + "{% endif %}"
        "<|im_end|>\n{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        ("<|im_start|>", "<|im_end|>"),
    ),
    "qwen3": Family(
        LAST_USER + "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
        "{% for m in messages %}{% if m.role == 'tool' %}<|im_start|>user\n<tool_response>\n{{ m.content }}\n"
        "</tool_response><|im_end|>\n{% elif m.role == 'assistant' %}<|im_start|>assistant\n"
        "{% if loop.index0 > ns.last and (loop.last or m.reasoning_content) %}"
        "<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}"
        "{{ m.content }}{% if m.tool_calls %}" + XML_CALLS + "{% endif %}<|im_end|>\n"
        "{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n"
        "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}",
        ("<|im_start|>", "<|im_end|>"),
    ),
    "llama-3.1": Family(
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'tool' %}"
        "<|start_header_id|>ipython<|end_header_id|>\n\n{{ m.content | tojson }}<|eot_id|>"
        "{% elif m.tool_calls %}<|start_header_id|>assistant<|end_header_id|>\n\n{% set f = m.tool_calls[0].function %}"
        "{{ '{\"name\": \"' ~ f.name ~ '\", \"parameters\": ' ~ (f.arguments | tojson) ~ '}' }}<|eot_id|>"
        "{% else %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
        "{% if loop.first and tools %}{{ tools[0] | tojson(indent=4) }}\n\n{% endif %}{{ m.content | trim }}<|eot_id|>"
        "{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
        ("<s>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    ),
    "llama-4": Family(
        "{{ bos_token }}{% if tools %}<|header_start|>system<|header_end|>\n\n{{ tools | tojson }}<|eot|>{% endif %}"
        "{% for m in messages %}<|header_start|>{{ 'ipython' if m.role == 'tool' else m.role }}<|header_end|>\n\n"
        "{% if m.tool_calls %}<|python_start|>[{% for c in m.tool_calls %}{{ c.function.name }}("
        "{% for name, value in c.function.arguments.items() %}{{ name }}={{ value | tojson }}"
        "{{ '' if loop.last else ', ' }}{% endfor %}){% endfor %}]<|python_end|>{% else %}{{ m.content }}{% endif %}"
        "<|eot|>{% endfor %}{% if add_generation_prompt %}<|header_start|>assistant<|header_end|>\n\n{% endif %}",
        ("<s>", "<|header_start|>", "<|header_end|>", "<|eot|>"),
    ),
    "mistral-v3": Family(
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}"
        "{% if tools and loop.first %}[AVAILABLE_TOOLS]{{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}"
        "[INST]{{ m.content }}[/INST]{% elif m.role == 'tool' %}"
        "[TOOL_RESULTS]{{ {'content': m.content, 'call_id': m.tool_call_id} | tojson }}[/TOOL_RESULTS]"
        "{% elif m.tool_calls %}{% if m.content is not none and not m.content %}{{ raise_exception('null, please') }}"
        "{% endif %}[TOOL_CALLS][{% for c in m.tool_calls %}"
        "{{ {'name': c.function.name, 'arguments': c.function.arguments, 'id': c.id} | tojson }}{% endfor %}]</s>"
        "{% elif m.role == 'assistant' %}{{ m.content }}</s>{% else %}{{ raise_exception('no such role') }}{% endif %}"
        "{% endfor %}",
        ("<s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "</s>"),
    ),
    "gemma-3": Family(
        "{{ bos_token }}{% for m in messages %}"
        "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
        "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}<end_of_turn>\n"
        "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
        ("<s>", "<start_of_turn>", "<end_of_turn>"),
    ),
    "deepseek-r1": Family(
        "{{ bos_token }}{% for t in tools or [] %}{{ t | tojson }}{% endfor %}{% for m in messages %}"
        "{% if m.role == 'user' %}<|User|>{{ m.content }}{% elif m.role == 'tool' %}"
        "<|tool_outputs|>{{ m.content }}{% elif m.content is none %}<|Assistant|>{% for c in m.tool_calls %}"
        "{{ '<|tool_call|>' + c.function.name + '\n```json\n' + c.function.arguments + '\n```' }}{% endfor %}<|end|>"
        "{% else %}<|Assistant|>{{ m.content.split('</think>')[-1] }}<|end|>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|Assistant|><think>\n{% endif %}",
        ("<s>", "<|User|>", "<|Assistant|>", "<|end|>"),
    ),
    "gpt-oss": Family(
        "{% set ns = namespace(name='') %}"
        "{% if tools %}<|start|>developer<|message|>{{ tools | tojson }}<|end|>{% endif %}"
        "{% for m in messages %}{% if m.role == 'assistant' %}"
        "{% if m.thinking and (loop.last or m.tool_calls and loop.index == loop.length) %}"
        "<|start|>assistant<|channel|>analysis<|message|>{{ m.thinking }}<|end|>{% endif %}"
        "{% if m.tool_calls %}{% set f = m.tool_calls[0].function %}{% set ns.name = f.name %}"
        "<|start|>assistant to=functions.{{ f.name }}<|channel|>commentary json<|message|>"
        "{{ f.arguments | tojson }}<|call|>"
        "{% else %}<|start|>assistant<|channel|>final<|message|>{{ m.content }}"
        "{{ '<|return|>' if loop.last else '<|end|>' }}{% endif %}"
        "{% elif m.role == 'tool' %}<|start|>functions.{{ ns.name }} to=assistant<|channel|>commentary<|message|>"
        "{{ m.content | tojson }}<|end|>{% else %}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}<|start|>assistant{% endif %}",
        ("<|start|>", "<|end|>", "<|call|>", "<|return|>"),
    ),
}

TOOL_JSON = '{"type": "function", "function": {"name": "weather", "description": "Forecast."}}'
TOOL_LINES = (
    '{\n    "type": "function",\n    "function": {\n'
    '        "name": "weather",\n        "description": "Forecast."\n    }\n}'
)
XML_CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Turin", "days": 2}}\n</tool_call>'

WITH_TOOLS = {
    "chatml": (
        f"<|im_start|>system\n[{TOOL_JSON}]<|im_end|>\n<|im_start|>user\nRain in Turin?<|im_end|>\n"
        f"<|im_start|>assistant\n>>{XML_CALL}<|im_end|><<\n<|im_start|>tool\ndry<|im_end|>\n"
        "<|im_start|>assistant\n>>No rain.<|im_end|><<\n"
    ),
    "qwen2.5": (
        f"<|im_start|>system\nYou help.\n{TOOL_JSON}<|im_end|>\n<|im_start|>user\nRain in Turin?<|im_end|>\n"
        f"<|im_start|>assistant\n>>{XML_CALL}<|im_end|><<\n"
        "<|im_start|>user\n<tool_response>\ndry\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n>>No rain.<|im_end|><<\n"
    ),
    "qwen3": (
        f"<|im_start|>system\n[{TOOL_JSON}]<|im_end|>\n<|im_start|>user\nRain in Turin?<|im_end|>\n"
        f"<|im_start|>assistant\n>>{XML_CALL}<|im_end|><<\n"
        "<|im_start|>user\n<tool_response>\ndry\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n>><think>\n\n</think>\n\nNo rain.<|im_end|><<\n"
    ),
    "llama-3.1": (
        f"<s><|start_header_id|>user<|end_header_id|>\n\n{TOOL_LINES}\n\nRain in Turin?<|eot_id|>"
        '<|start_header_id|>assistant<|end_header_id|>\n\n>>{"name": "weather", '
        '"parameters": {"city": "Turin", "days": 2}}<|eot_id|><<'
        '<|start_header_id|>ipython<|end_header_id|>\n\n"dry"<|eot_id|>'
        "<|start_header_id|>assistant<|end_header_id|>\n\n>>No rain.<|eot_id|><<"
    ),
    "llama-4": (
        f"<s><|header_start|>system<|header_end|>\n\n[{TOOL_JSON}]<|eot|>"
        "<|header_start|>user<|header_end|>\n\nRain in Turin?<|eot|><|header_start|>assistant<|header_end|>\n\n"
        '>><|python_start|>[weather(city="Turin", days=2)]<|python_end|><|eot|><<'
        "<|header_start|>ipython<|header_end|>\n\ndry<|eot|>"
        "<|header_start|>assistant<|header_end|>\n\n>>No rain.<|eot|><<"
    ),
    "mistral-v3": (
        f"<s>[AVAILABLE_TOOLS][{TOOL_JSON}][/AVAILABLE_TOOLS][INST]Rain in Turin?[/INST]"
        '>>[TOOL_CALLS][{"name": "weather", "arguments": {"city": "Turin", "days": 2}, "id": "call00001"}]</s><<'
        '[TOOL_RESULTS]{"content": "dry", "call_id": "call00001"}[/TOOL_RESULTS]>>No rain.</s><<'
    ),
    "gemma-3": "the model's chat template refuses the conversation: roles must alternate",
    "deepseek-r1": (
        f"<s>{TOOL_JSON}<|User|>Rain in Turin?<|Assistant|>"
        '>><|tool_call|>weather\n```json\n{"city": "Turin", "days": 2}\n```<|end|><<'
        "<|tool_outputs|>dry<|Assistant|>>>No rain.<|end|><<"
    ),
    "gpt-oss": (
        f"<|start|>developer<|message|>[{TOOL_JSON}]<|end|><|start|>user<|message|>Rain in Turin?<|end|>"
        "<|start|>assistant>> to=functions.weather<|channel|>commentary json<|message|>"
        '{"city": "Turin", "days": 2}<|call|><<'
        '<|start|>functions.weather to=assistant<|channel|>commentary<|message|>"dry"<|end|>'
        "<|start|>assistant>><|channel|>final<|message|>No rain.<|return|><<"
    ),
}

WAY_OUT = (
    "remove it from the row, or choose another one with model.chatTemplate.name, "
    "or write your own into model.chatTemplate.jinja"
)
LEAVES_OUT = f"the model's chat template leaves out messages[3].reasoning_content; {WAY_OUT}"

WITH_THOUGHTS = {
    "chatml": (
        "<|im_start|>user\nRain in Turin?<|im_end|>\n"
        "<|im_start|>assistant\n>><think>a dry week</think>No rain.<|im_end|><<\n"
        "<|im_start|>user\nAnd snow?<|im_end|>\n<|im_start|>assistant\n>><think>too warm</think>None.<|im_end|><<\n"
    ),
    "qwen2.5": LEAVES_OUT,
    "qwen3": (
        "<|im_start|>user\nRain in Turin?<|im_end|>\n<|im_start|>assistant\nNo rain.<|im_end|>\n"
        "<|im_start|>user\nAnd snow?<|im_end|>\n"
        "<|im_start|>assistant\n>><think>\ntoo warm\n</think>\n\nNone.<|im_end|><<\n"
    ),
    "llama-3.1": LEAVES_OUT,
    "llama-4": LEAVES_OUT,
    "mistral-v3": LEAVES_OUT,
    "gemma-3": LEAVES_OUT,
    "deepseek-r1": LEAVES_OUT,
    "gpt-oss": (
        "<|start|>user<|message|>Rain in Turin?<|end|><|start|>assistant<|channel|>final<|message|>No rain.<|end|>"
        "<|start|>user<|message|>And snow?<|end|><|start|>assistant>><|channel|>analysis<|message|>too warm<|end|>"
        "<|start|>assistant<|channel|>final<|message|>None.<|return|><<"
    ),
}


def family_tokenizer(name: str, tokenizer: Any) -> Any:
    """`tokenizer` with the tokens and the template of a family."""
    family = FAMILIES[name]
    tokenizer.add_tokens(list(family.tokens), special_tokens=True)
    tokenizer.eos_token = family.tokens[-1]
    if "<s>" in family.tokens:
        tokenizer.bos_token = "<s>"
    tokenizer.chat_template = family.template
    return tokenizer


def shown(name: str, row: Mapping[str, Any], tokenizer: Any) -> str:
    """What is trained of `row`, or why it is refused."""
    used = family_tokenizer(name, tokenizer)
    example = to_example(Row("d.jsonl:1", row), DataFormat.MESSAGES, data_source("").columns)
    try:
        [encoded] = encoder(used, config())([example])
    except StageError as failure:
        return f"{failure.reason} {failure.message}".removeprefix("DataInvalid d.jsonl:1: ")
    return marked(encoded, used)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_tool_call_is_trained_and_what_the_tool_answers_is_not(name: str, tokenizer: Any) -> None:
    assert shown(name, USES_TOOLS, tokenizer) == WITH_TOOLS[name]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_thought_is_trained_where_the_template_shows_it_and_refused_elsewhere(name: str, tokenizer: Any) -> None:
    key = "thinking" if name == "gpt-oss" else "reasoning_content"
    assert shown(name, thinks(key), tokenizer) == WITH_THOUGHTS[name]


def test_a_template_that_takes_thoughts_out_of_every_turn_refuses_them(tokenizer: Any) -> None:
    assert shown("deepseek-r1", IN_TAGS, tokenizer) == (
        f"the model's chat template leaves out the thought in messages[3].content; {WAY_OUT}"
    )
    plain = {"messages": [ASKED, TOLD, AGAIN, {"role": "assistant", "content": "None."}]}
    assert shown("deepseek-r1", plain, tokenizer) == (
        "<s><|User|>Rain in Turin?<|Assistant|>>>No rain.<|end|><<<|User|>And snow?<|Assistant|>>>None.<|end|><<"
    )


def test_a_thought_in_tags_is_trained_as_it_is_written(tokenizer: Any) -> None:
    assert shown("qwen2.5", IN_TAGS, tokenizer).count(">><think>\n") == 2


@pytest.mark.parametrize("name", ["chatml", "qwen2.5", "qwen3", "llama-3.1", "llama-4", "gpt-oss"])
def test_a_turn_of_weight_0_is_context(name: str, tokenizer: Any) -> None:
    first, call, *others = USES_TOOLS["messages"]
    row = {**USES_TOOLS, "messages": [first, {**call, "weight": 0}, *others]}
    before, _, rest = WITH_TOOLS[name].partition(">>")
    assert shown(name, row, tokenizer) == before + rest.replace("<<", "", 1)


def test_arguments_and_tools_may_be_json_texts(tokenizer: Any) -> None:
    as_text = {**CALL, "function": {"name": "weather", "arguments": '{"city":"Turin","days":2}'}}
    asked, call, *others = USES_TOOLS["messages"]
    row = {"messages": [asked, {**call, "tool_calls": [as_text]}, *others], "tools": json.dumps(TOOLS)}
    for name in ("qwen2.5", "deepseek-r1"):
        assert shown(name, row, tokenizer) == WITH_TOOLS[name]


def test_nulls_that_a_table_fills_in_are_no_keys(tokenizer: Any) -> None:
    empty = dict.fromkeys(("tool_calls", "tool_call_id", "name", "reasoning_content", "weight"))
    call = {**CALL, "function": {"name": "weather", "arguments": {"city": "Turin", "days": 2, "unit": None}}}
    asked, calling, *others = ({**empty, **message} for message in USES_TOOLS["messages"])
    values = {"messages": [asked, {**calling, "tool_calls": [call]}, *others], "tools": TOOLS}
    used = family_tokenizer("qwen2.5", tokenizer)
    texts = {}
    for is_filled in (True, False):
        row = Row("d.parquet row 1", values, is_filled)
        [encoded] = encoder(used, config())([to_example(row, DataFormat.MESSAGES, data_source("").columns)])
        texts[is_filled] = marked(encoded, used)
    assert texts[True] == WITH_TOOLS["qwen2.5"]
    assert '"days": 2, "unit": null}' in texts[False]


def test_arguments_of_the_template_are_those_of_the_job_and_of_the_row(tokenizer: Any) -> None:
    used = family_tokenizer("chatml", tokenizer)
    used.chat_template = "{{ style | default('plain') }} {{ date | default('') }}\n" + used.chat_template
    row = {"messages": [ASKED, TOLD], "chat_template_kwargs": {"date": "May"}}
    example = to_example(Row("d.jsonl:1", row), DataFormat.MESSAGES, data_source("").columns)
    [encoded] = encoder(used, config(chat_template_kwargs={"style": "fine", "date": "June"}))([example])
    assert marked(encoded, used).startswith("fine May\n<|im_start|>user")
    with pytest.raises(StageError) as raised:
        encoder(used, config(chat_template_kwargs={"enable_thinking": False}))([example])
    assert raised.value.reason is Reason.CONFIG_INVALID
    assert raised.value.message == (
        "model.chatTemplateKwargs.enable_thinking is not read by the model's chat template; remove it"
    )
