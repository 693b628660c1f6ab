"""Which tokens of a real tokenizer are trained, read as text: golden/labels.txt has them between >> and <<.

That file is written by hand from the published ChatML format of SmolLM2, Qwen2.5 and Qwen3, and never generated.
"""

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from sftjob_contract.run.config import DataFormat
from sftjob_trainer.process.errors import StageError
from sftjob_trainer.rows.examples import to_example
from sftjob_trainer.rows.readers import Row
from sftjob_trainer.tokens.label_report import marked
from sftjob_trainer.tokens.labels import encoder
from sftjob_trainer.tokens.tokenizer import load_tokenizer
from support.trainer.chats import config
from support.trainer.tiny import data_source

pytestmark = pytest.mark.slow

GOLDEN = Path(__file__).parent / "golden" / "labels.txt"

Turn = Mapping[str, Any]
BRIEF = {"role": "system", "content": "Be brief."}
CODE = "```python\ndef one(x: int) -> int:\n    return x + 1\n\n\n```\n"
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "Forecast."}}]
PRIME = {"role": "user", "content": "Is 91 prime?"}
RAIN = {"role": "user", "content": "Rain in Turin?"}
DRY = {"role": "tool", "content": '{"rain": false}', "tool_call_id": "call00001", "name": "weather"}


def user(text: str) -> Turn:
    return {"role": "user", "content": text}


def told(text: str | None, **more: Any) -> Turn:
    return {"role": "assistant", "content": text, **more}


def call(city: str, number: int = 1) -> Mapping[str, Any]:
    function = {"name": "weather", "arguments": {"city": city}}
    return {"type": "function", "id": f"call{number:05}", "function": function}


def answer(text: str, number: int) -> Turn:
    return {"role": "tool", "content": text, "tool_call_id": f"call{number:05}", "name": "weather"}


def talk(*messages: Turn, **more: Any) -> Mapping[str, Any]:
    return {"messages": [BRIEF, *messages], **more}


ROWS: Mapping[str, Mapping[str, Any]] = {
    "two turns without a system prompt": {
        "messages": [user("Name a river."), told("The Po."), user("Another one?"), told("The Danube.")]
    },
    "a system prompt": {
        "messages": [{**BRIEF, "content": "Answer in one word."}, user("Where is Turin?"), told("Italy")]
    },
    "other scripts and emoji": talk(user("「ありがとう」の意味は? 🙂"), told("Dziękuję — спасибо, naïve 谢谢 👩🏽‍🚀!")),
    "code of several lines": talk(user("Write it."), told(CODE)),
    "a thought in tags": talk(PRIME, told("<think>\n91 is 7 times 13.\n</think>\n\nNo.")),
    "a turn of weight 0": talk(user("Two and two?"), told("Five.", weight=0), user("Really?"), told("Four.")),
    "what a tool answers": talk(RAIN, told("I look it up."), DRY, told("No rain.")),
    "a tool call in the form of Qwen2.5": talk(
        RAIN, told(None, tool_calls=[call("Turin")]), DRY, told("No rain."), tools=TOOLS
    ),
    "two calls at once in the form of Qwen2.5": talk(
        user("Rain in Turin and 京都?"),
        told("I look.", tool_calls=[call("Turin"), call("京都", 2)]),
        answer("dry", 1),
        answer("wet", 2),
        told("In 京都."),
        tools=TOOLS,
    ),
    "a thought in a key in the form of Qwen3": talk(PRIME, told("No.", reasoning_content="91 is 7 times 13.")),
}


def golden() -> Mapping[str, str]:
    sections = GOLDEN.read_text(encoding="utf-8").removeprefix("=== ").removesuffix("\n").split("\n=== ")
    return {name: text + "\n" for name, _, text in (section.partition("\n") for section in sections)}


@pytest.fixture(scope="module")
def loaded(smollm2_tokenizer: Path) -> Any:
    return load_tokenizer(smollm2_tokenizer, config().model)


@pytest.fixture
def tokenizer(loaded: Any) -> Any:
    """With its own template again, whatever the last test set."""
    own = loaded.chat_template
    yield loaded
    loaded.chat_template = own


def encoded(row: Mapping[str, Any], tokenizer: Any) -> Any:
    example = to_example(Row("d.jsonl:1", row), DataFormat.MESSAGES, data_source("").columns)
    [found] = encoder(tokenizer, config())([example])
    return found


@pytest.mark.parametrize("name", ROWS)
def test_what_is_trained_of_a_row_is_what_the_published_format_says(name: str, tokenizer: Any) -> None:
    if " in the form of " in name:
        family = name.rpartition(" ")[2].lower().replace(".", "_")
        templates = resources.files("trl").joinpath("chat_templates")
        tokenizer.chat_template = templates.joinpath(f"{family}.jinja").read_text(encoding="utf-8")

    assert marked(encoded(ROWS[name], tokenizer), tokenizer) == golden()[name]


def test_every_row_of_the_golden_file_is_looked_at() -> None:
    assert list(golden()) == list(ROWS)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("a tool call in the form of Qwen2.5", "messages[2].tool_calls[0]"),
        ("a thought in a key in the form of Qwen3", "messages[2].reasoning_content"),
    ],
)
def test_what_the_models_own_template_leaves_out_is_refused_by_name(name: str, key: str, tokenizer: Any) -> None:
    with pytest.raises(StageError) as raised:
        encoded(ROWS[name], tokenizer)
    assert f"d.jsonl:1: the model's chat template leaves out {key}; remove it" in raised.value.message
