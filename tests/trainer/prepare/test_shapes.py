"""Rows as examples: what each shape reads from which columns."""

from collections.abc import Mapping
from typing import Any

import pytest

from sftjob_contract.run.config import DataFormat
from sftjob_trainer.rows.examples import (
    Conversation,
    Example,
    PromptCompletion,
    PromptCompletionMessages,
    Text,
    detect_format,
    to_example,
)
from sftjob_trainer.rows.readers import Row
from support.trainer.tiny import data_source

COLUMNS = data_source("").columns
HI = {"role": "user", "content": "hi"}
YO = {"role": "assistant", "content": "yo"}
KIND = {"role": "system", "content": "be kind"}
TASK = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
TASK_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request."
)

ROWS: list[tuple[dict[str, Any], DataFormat, Example]] = [
    ({"text": "hi", "id": 1}, DataFormat.TEXT, Text("p", "hi")),
    ({"prompt": "", "completion": "yo"}, DataFormat.PROMPT_COMPLETION, PromptCompletion("p", "", "yo")),
    (
        {"prompt": [KIND, HI], "completion": [YO]},
        DataFormat.PROMPT_COMPLETION,
        PromptCompletionMessages("p", Conversation("p", (KIND, HI, YO)), 2),
    ),
    ({"messages": [HI, YO], "prompt": "hi"}, DataFormat.MESSAGES, Conversation("p", (HI, YO))),
    (
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]},
                {**YO, "name": None, "tool_calls": None},
            ]
        },
        DataFormat.MESSAGES,
        Conversation("p", (HI, YO)),
    ),
    (
        {"instruction": "add", "input": "", "output": "3"},
        DataFormat.ALPACA,
        PromptCompletion("p", f"{TASK}\n\n### Instruction:\nadd\n\n### Response:\n", "3", has_own_format=True),
    ),
    (
        {"instruction": "add", "input": "1, 2", "output": "3", "system": None},
        DataFormat.ALPACA,
        PromptCompletion(
            "p",
            f"{TASK_WITH_INPUT}\n\n### Instruction:\nadd\n\n### Input:\n1, 2\n\n### Response:\n",
            "3",
            has_own_format=True,
        ),
    ),
    (
        {"instruction": "add", "output": "3", "system": "be kind"},
        DataFormat.ALPACA,
        PromptCompletion("p", "be kind\n\n### Instruction:\nadd\n\n### Response:\n", "3", has_own_format=True),
    ),
    (
        {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yo"}]},
        DataFormat.SHAREGPT,
        Conversation("p", (HI, YO)),
    ),
    (
        {
            "conversations": [
                {"from": "system", "value": "be kind"},
                {"from": "user", "value": "hi"},
                {"from": "tool", "value": "7"},
                {"from": "assistant", "value": "yo"},
            ]
        },
        DataFormat.SHAREGPT,
        Conversation("p", (KIND, HI, {"role": "tool", "content": "7"}, YO)),
    ),
    ({"conversations": [HI, YO]}, DataFormat.SHAREGPT, Conversation("p", (HI, YO))),
    ({"conversations": [HI, YO], "system": "be kind"}, DataFormat.SHAREGPT, Conversation("p", (KIND, HI, YO))),
    *[
        ({"messages": messages, "system": "be kind"}, DataFormat.MESSAGES, Conversation("p", (KIND, HI, YO)))
        for messages in ([HI, YO], [KIND, HI, YO])
    ],
    (
        {"prompt": [HI], "completion": [YO], "system": "be kind"},
        DataFormat.PROMPT_COMPLETION,
        PromptCompletionMessages("p", Conversation("p", (KIND, HI, YO)), 2),
    ),
    (
        {"prompt": "hi", "completion": "yo", "system": "be kind"},
        DataFormat.PROMPT_COMPLETION,
        PromptCompletion("p", "be kind\n\nhi", "yo", system="be kind"),
    ),
    ({"conversations": [HI, YO], "system": " "}, DataFormat.SHAREGPT, Conversation("p", (HI, YO))),
]


@pytest.mark.parametrize(("values", "shape", "expected"), ROWS)
def test_the_columns_tell_the_shape_of_a_row(values: Mapping[str, Any], shape: DataFormat, expected: Example) -> None:
    row = Row("p", values)
    assert detect_format(row, COLUMNS) is shape
    assert to_example(row, shape, COLUMNS) == expected


def test_a_row_of_several_shapes_is_read_as_the_one_that_is_asked_for() -> None:
    row = Row("p", {"instruction": "add", "output": "3", "text": "add 3"})
    assert to_example(row, DataFormat.TEXT, COLUMNS) == Text("p", "add 3")
