"""Every shape of a row, with every loss that suits it, in every chat template, through the Prepare stage: each token.

What is in [brackets] in the tables of golden/matrix is trained; -- is between two rows.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.reasons import Reason
from sftjob_contract.run.config import ChatTemplateName, DataFormat, LossOn
from sftjob_trainer.process.errors import StageError
from sftjob_trainer.tokens.tokenizer import Encoded
from support.checks.golden import check_golden_text
from support.trainer.chats import named, token_table
from support.trainer.preparing import Workbench

GOLDEN = Path(__file__).parent / "golden" / "matrix"
LIMITS = dict.fromkeys([name.value for name in ChatTemplateName], 72) | {"llama": 320}
"""Tokens of a row in each template; the long rows below have more, the others fewer."""
LONG = "open a file " * 100

Turns = list[tuple[str, str]]
TALKS: dict[str, Turns] = {
    "a system prompt and two turns": [
        ("system", "kind"), ("user", "hi"), ("assistant", "yo"), ("user", "so"), ("assistant", "ok"),
    ],
    "unicode": [("system", "é"), ("user", "日?"), ("assistant", "a:\n  本🙂")],
    "cut in the answer": [("system", "kind"), ("user", "hi"), ("assistant", LONG)],
}  # fmt: skip


def turns(talk: Turns, speaker: str, text: str, **renamed: str) -> list[dict[str, str]]:
    return [{speaker: renamed.get(role, role), text: content} for role, content in talk]


def message_rows() -> list[dict[str, Any]]:
    return [{"messages": turns(talk, "role", "content")} for talk in TALKS.values()]


def prompted_rows() -> list[dict[str, Any]]:
    talks = [turns(talk, "role", "content") for talk in TALKS.values()]
    return [{"prompt": talk[:2], "completion": talk[2:]} for talk in talks]


def sharegpt_rows() -> list[dict[str, Any]]:
    """The system prompt of the second one is in a column of its own."""
    talks = [turns(talk, "from", "value", user="human", assistant="gpt") for talk in TALKS.values()]
    first, second, third = talks
    return [{"conversations": first}, {"system": "é", "conversations": second[1:]}, {"conversations": third}]


def pairs(prompt: str, completion: str, **more: str) -> list[dict[str, Any]]:
    answers = {"hi\n": "yo", "日?": "a:\n  本🙂", "so\n": LONG}
    return [{prompt: question, completion: answer, **more} for question, answer in answers.items()]


SHAPES: dict[str, tuple[DataFormat, list[dict[str, Any]], tuple[LossOn | None, ...]]] = {
    "text": (DataFormat.TEXT, [{"text": "yo"}, {"text": "日 本🙂"}, {"text": LONG}], (None, LossOn.ALL)),
    "prompt and completion": (
        DataFormat.PROMPT_COMPLETION,
        pairs("prompt", "completion"),
        (None, LossOn.COMPLETION, LossOn.ALL),
    ),
    "alpaca": (
        DataFormat.ALPACA,
        pairs("instruction", "output", system="kind"),
        (None, LossOn.COMPLETION, LossOn.ALL),
    ),
    "messages": (DataFormat.MESSAGES, message_rows(), (None, LossOn.ASSISTANT, LossOn.ALL)),
    "sharegpt": (DataFormat.SHAREGPT, sharegpt_rows(), (None, LossOn.ASSISTANT, LossOn.ALL)),
    "prompt and completion of messages": (
        DataFormat.PROMPT_COMPLETION,
        prompted_rows(),
        (None, LossOn.COMPLETION, LossOn.ASSISTANT, LossOn.ALL),
    ),
}
"""Format, rows, and the losses that suit them."""


@pytest.fixture
def bench(tmp_path: Path, model_without_weights: Path) -> Workbench:
    return Workbench(tmp_path, model_without_weights)


def prepared(bench: Workbench, shape: str, loss_on: LossOn | None, name: str) -> list[Encoded]:
    """The rows of `shape` as they lie on the volume."""
    data_format, rows, _ = SHAPES[shape]
    config = bench.config(
        bench.write("d.jsonl", rows), data_format=data_format, loss_on=loss_on, max_length=LIMITS[name]
    )
    bench.run(replace(config, model=replace(config.model, chat_template=named(name))))
    return [Encoded("", row["input_ids"], row["labels"]) for row in bench.sequences()]


@pytest.mark.parametrize("name", [name.value for name in ChatTemplateName])
def test_every_token_of_every_shape_and_loss(bench: Workbench, name: str, tokenizer: Any) -> None:
    sections = []
    for shape, (_, rows, losses) in SHAPES.items():
        for loss_on in losses:
            encoded = prepared(bench, shape, loss_on, name)
            assert len(encoded) == len(rows)
            assert max(len(row.input_ids) for row in encoded[:-1]) < LIMITS[name]
            assert len(encoded[-1].input_ids) == LIMITS[name]
            tables = "--\n".join(token_table(row, tokenizer) for row in encoded)
            sections.append(f"== {shape}, loss on {loss_on or 'what suits it'}\n{tables}")
    check_golden_text(GOLDEN / f"{name}.txt", "\n".join(sections))


@pytest.mark.parametrize(
    ("shape", "loss_on"),
    [(shape, loss) for shape, (_, _, losses) in SHAPES.items() for loss in LossOn if loss not in losses],
)
def test_a_loss_that_does_not_suit_a_shape_ends_the_job(bench: Workbench, shape: str, loss_on: LossOn) -> None:
    with pytest.raises(StageError) as raised:
        prepared(bench, shape, loss_on, "chatml")
    assert (raised.value.reason, raised.value.exit_code) == (Reason.CONFIG_INVALID, ExitCode.INVALID)
    assert raised.value.message.startswith(f"training.lossOn: {loss_on} does not match ")


HI, EMPTY = ("user", "hi"), ("assistant", "")


@pytest.mark.parametrize("name", [name.value for name in ChatTemplateName])
@pytest.mark.parametrize(
    ("row", "at"),
    [
        ({"text": ""}, '"text"'),
        ({"prompt": "hi", "completion": ""}, '"completion"'),
        ({"instruction": "hi", "output": ""}, '"output"'),
        ({"messages": turns([HI, EMPTY, HI, ("assistant", "ok")], "role", "content")}, "messages[1].content"),
        ({"conversations": turns([("human", "hi"), ("gpt", "")], "from", "value")}, "conversations[1].value"),
        (
            {"prompt": turns([HI], "role", "content"), "completion": turns([EMPTY], "role", "content")},
            "completion[0].content",
        ),
    ],
)
def test_an_empty_answer_is_a_row_that_can_not_be_used(
    bench: Workbench, name: str, row: dict[str, Any], at: str
) -> None:
    config = bench.config(bench.write("d.jsonl", [row]))
    with pytest.raises(StageError) as raised:
        bench.run(replace(config, model=replace(config.model, chat_template=named(name))))
    assert raised.value.reason is Reason.DATA_INVALID
    assert raised.value.message == f"d.jsonl:1: {at} is empty, so there is nothing to train on"
