"""What the user reads when the data cannot be used: one row of a table for each kind of fault."""

import gzip
import io
import json
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from sftjob_contract.codec import to_json
from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.names import Stage
from sftjob_contract.reasons import Reason
from sftjob_contract.run.config import DataFormat, HeldOut, OnInvalidRow
from sftjob_trainer.process.errors import StageError
from support.trainer.entry import ending
from support.trainer.preparing import Workbench
from support.trainer.tiny import held_out_fraction, held_out_source


def jsonl(*rows: Any) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def as_parquet(table: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    parquet.write_table(pa.table(table), buffer)
    return buffer.getvalue()


def talk(*turns: Any) -> dict[str, Any]:
    return {"messages": list(turns)}


USER = {"role": "user", "content": "what does it do"}
ASSISTANT = {"role": "assistant", "content": "return the first item"}
GOOD = {"text": "open a file"}
CALL_FORM = '{"type": "function", "function": {"name": ..., "arguments": {...}}}'
TOOL_FORM = '{"type": "function", "function": {"name": ..., "description": ..., "parameters": {...}}}'
NO_KEY = "Expecting property name enclosed in double quotes"
KEYS = (
    "role, content, name, tool_calls, tool_call_id, reasoning_content, reasoning, thinking, weight, train or training"
)
WAY_OUT = (
    "remove it from the row, or choose another one with model.chatTemplate.name, "
    "or write your own into model.chatTemplate.jinja"
)

LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 12345\n"
PULL = "the data itself was never downloaded: run git lfs pull where the file comes from"

FILES = [
    # name, content, sentence
    ("train.jsonl", jsonl(GOOD, GOOD, {"body": "a"}), 'train.jsonl:3: no column "text", there is "body"'),
    ("train.jsonl", jsonl(GOOD, {}), 'train.jsonl:2: no column "text", the row is empty'),
    ("train.jsonl", jsonl(GOOD, {"text": 7}), 'train.jsonl:2: "text" must be text, not a number'),
    ("train.jsonl", jsonl(GOOD, {"text": None}), 'train.jsonl:2: "text" must be text, not null'),
    ("train.jsonl", jsonl(GOOD, {"text": ""}), 'train.jsonl:2: "text" is empty, so there is nothing to train on'),
    (
        "train.jsonl",
        jsonl({"prompt": "a", "completion": ["b"]}),
        'train.jsonl:1: "prompt" and "completion" must both be text, or both lists of messages',
    ),
    (
        "train.jsonl",
        jsonl({"prompt": "a", "completion": ""}),
        'train.jsonl:1: "completion" is empty, so there is nothing to train on',
    ),
    (
        "train.jsonl",
        jsonl({"prompt": "a", "completion": " \n"}),
        'train.jsonl:1: "completion" is blank, so there is nothing to train on',
    ),
    *[
        (
            "train.jsonl",
            jsonl({"prompt": "a", "completion": nothing}),
            'train.jsonl:1: "completion" is blank, so there is nothing to train on',
        )
        for nothing in ("\u200b", "\ufeff\u2060", "\x00", "\u3000\u00a0\u00ad")
    ],
    (
        "alpaca.jsonl",
        b'{"instruction": "a", "input": NaN, "output": "b"}',
        'alpaca.jsonl:1: "input" must be text, not NaN (write null for a missing value)',
    ),
    (
        "train.jsonl",
        jsonl(GOOD) + b'{"text": "a", "text": "b"}\n',
        'train.jsonl:2: an object has the key "text" twice; remove one of them',
    ),
    (
        "chat.jsonl",
        b'{"messages": [{"role": "user", "content": "a", "role": "assistant"}]}',
        'chat.jsonl:1: an object has the key "role" twice; remove one of them',
    ),
    (
        "train.json",
        b'[{"text": "a", "text": "b"}]',
        'train.json:1: an object has the key "text" twice; remove one of them',
    ),
    (
        "train.jsonl",
        jsonl(GOOD) + b'{"text": "a", "id": ' + b"7" * 5000 + b"}\n",
        "train.jsonl:2: an integer has 5000 digits; write it as text",
    ),
    (
        "train.json",
        b'[{"text": "a"},\n{"text": "b", "id": ' + b"7" * 5000 + b"}]",
        "train.json:2: an integer has 5000 digits; write it as text",
    ),
    (
        "train.jsonl",
        gzip.compress(jsonl(GOOD), mtime=0),
        "train.jsonl: the file contains gzip, which does not match its name; rename it to train.jsonl.gz",
    ),
    (
        "train.csv",
        as_parquet({"text": ["a"]}),
        "train.csv: the file contains Parquet, which does not match its name; rename it to train.parquet",
    ),
    (
        "train.csv",
        b"PK\x03\x04 and more",
        (
            "train.csv: the file contains ZIP, which does not match its name; unpack it first "
            "(an .xlsx workbook is one too: export it as CSV)"
        ),
    ),
    (
        "train.json",
        b"\x28\xb5\x2f\xfd and more",
        "train.json: the file contains Zstandard, which does not match its name; rename it to train.json.zst",
    ),
    *[
        (name, content, f"{name}: the file contains {found}, which does not match its name; {advice}")
        for name, content, found, advice in (
            ("train.jsonl.zst", jsonl(GOOD), "text", "rename it to train.jsonl"),
            ("train.jsonl.gz", b"no gzip", "text", "rename it to train.jsonl"),
            ("train.csv.xz", "text\n\u65e5\u672c\u8a9e".encode() * 9, "text", "rename it to train.csv"),
            ("train.jsonl.bz2", gzip.compress(jsonl(GOOD), mtime=0), "gzip", "rename it to train.jsonl.gz"),
            ("train.json.gz", as_parquet({"text": ["a"]}), "Parquet", "rename it to train.parquet"),
            ("train.jsonl", '{"text": "a"}'.encode("utf-16-le"), "UTF-16", "save the file as UTF-8"),
            ("train.csv", "text\na".encode("utf-16-be"), "UTF-16", "save the file as UTF-8"),
            ("train.txt", b"%PDF-1.7\n", "PDF", "convert it to text first"),
            *((name, LFS_POINTER, "a Git LFS pointer", PULL) for name in ("a.jsonl", "a.txt", "a.parquet", "a.csv.gz")),
        )
    ],
    ("train.jsonl", b"", "train.jsonl: the file has no rows"),
    ("train.jsonl", b"\n \n", "train.jsonl: the file has no rows"),
    (
        "train.jsonl",
        jsonl(GOOD) + b'{"text": "caf\xe9"}\n',
        "train.jsonl:2: not valid UTF-8: byte 0xe9 at column 14; save the file as UTF-8",
    ),
    (
        "train.jsonl",
        '{"text": "a"}'.encode("utf-16"),
        "train.jsonl:1: not valid UTF-8: byte 0xff at column 1; save the file as UTF-8",
    ),
    (
        "train.jsonl",
        jsonl(GOOD) + b'\n{"text": "a"\n',
        "train.jsonl:3: not valid JSON: Expecting ',' delimiter at column 1; every line must be one JSON object",
    ),
    (
        "train.jsonl",
        b"[" * 100_000,
        "train.jsonl:1: not valid JSON: nested too deeply",
    ),
    ("train.jsonl", b'[{"text": "a"}]', "train.jsonl:1: a row must be a JSON object, not a list"),
    (
        "train.jsonl",
        b'{"text": "a \\ud800"}',
        'train.jsonl:1: "text" contains \\ud800, half of a surrogate pair, which is not a character',
    ),
    (
        "chat.jsonl",
        jsonl(talk(USER, ASSISTANT), talk(USER)),
        'chat.jsonl:2: "messages" has no assistant turn, so there is nothing to train on',
    ),
    ("chat.jsonl", jsonl(talk()), 'chat.jsonl:1: "messages" has no assistant turn, so there is nothing to train on'),
    (
        "chat.jsonl",
        jsonl(talk({"role": "human", "content": "a"}, ASSISTANT)),
        'chat.jsonl:1: messages[0].role must be system, developer, user, assistant or tool, not "human"',
    ),
    (
        "chat.jsonl",
        jsonl(talk({"from": "user", "value": "a"}, ASSISTANT)),
        'chat.jsonl:1: messages[0] has no role; it has "from", "value"',
    ),
    (
        "chat.jsonl",
        jsonl(talk(USER, {"role": "assistant", "content": ""})),
        "chat.jsonl:1: messages[1].content is empty, so there is nothing to train on",
    ),
    (
        "chat.jsonl",
        jsonl(talk({"role": "user", "content": [{"type": "image", "url": "a.png"}]}, ASSISTANT)),
        'chat.jsonl:1: messages[0].content[0] is of type "image", but only text can be trained on',
    ),
    (
        "chat.jsonl",
        jsonl(talk({"role": "user", "content": ["hello"]}, ASSISTANT)),
        'chat.jsonl:1: messages[0].content[0] must be {"type": "text", "text": ...}, not text',
    ),
    (
        "chat.jsonl",
        jsonl(talk({"role": "user", "content": [{"type": "text"}]}, ASSISTANT)),
        "chat.jsonl:1: messages[0].content[0].text must be text, not null",
    ),
    (
        "chat.jsonl",
        jsonl(talk(USER, {"role": "assistant", "content": [{"type": "text", "text": ""}]})),
        "chat.jsonl:1: messages[1].content is empty, so there is nothing to train on",
    ),
    (
        "chat.jsonl",
        jsonl(talk(USER, {"role": "assistant", "content": None})),
        "chat.jsonl:1: messages[1].content must be text, not null",
    ),
    (
        "chat.jsonl",
        jsonl({"prompt": [ASSISTANT], "completion": [USER]}),
        'chat.jsonl:1: "completion" has no assistant turn, so there is nothing to train on',
    ),
    (
        "share.jsonl",
        jsonl({"conversations": [{"from": "bing", "value": "a"}]}),
        (
            "share.jsonl:1: conversations[0].from must be human, gpt, function_call, observation, system, developer, "
            'user, assistant or tool, not "bing"'
        ),
    ),
    (
        "share.jsonl",
        jsonl({"conversations": [{"from": "human", "text": "a"}]}),
        'share.jsonl:1: conversations[0] has no value; it has "from", "text"',
    ),
    (
        "share.jsonl",
        jsonl({"conversations": [{"from": "system", "value": "a"}, {"from": "gpt", "value": "b"}], "system": "c"}),
        'share.jsonl:1: "system" and conversations[0] are both system prompts; keep one',
    ),
    *[
        ("a.jsonl", jsonl(row), f"a.jsonl:1: {problem}")
        for row, problem in (
            (
                {**talk({"role": "system", "content": "a"}, USER, ASSISTANT), "system": "b"},
                '"system" and messages[0] are both system prompts; keep one',
            ),
            (
                {"instruction": "a", "output": "b", "history": [["c", "d"]]},
                '"history" is not read; write the turns before the last one, and that one, as messages',
            ),
            (
                {**talk(USER, ASSISTANT), "images": ["a.png"]},
                '"images" is not read; only text can be trained on: remove the column',
            ),
            (
                {"prompt": "a", "completion": "b", "tools": [{"name": "f"}]},
                '"tools" is only read next to messages; write "prompt" and "completion" as lists of messages',
            ),
            (
                talk(USER, {"role": "assistant", "content": [{"type": "text", "text": "b", "thinking": "c"}]}),
                'messages[1].content[0] has "thinking"; a part of text has type and text; remove the rest',
            ),
        )
    ],
    (
        "share.jsonl",
        jsonl({"conversations": "hello"}),
        'share.jsonl:1: "conversations" must be a list of {from, value} objects, not text',
    ),
    (
        "alpaca.jsonl",
        jsonl({"instruction": "", "output": "a"}),
        'alpaca.jsonl:1: "instruction" is empty, so there is nothing to train on',
    ),
    (
        "alpaca.jsonl",
        jsonl({"instruction": "a", "input": 3, "output": "a"}),
        'alpaca.jsonl:1: "input" must be text, not a number',
    ),
    (
        "chat.jsonl",
        jsonl(talk(USER, {**ASSISTANT, "tool_calls": [{}]})),
        f"chat.jsonl:1: messages[1].tool_calls[0] has no name of a function; write {CALL_FORM}",
    ),
    *[
        ("chat.jsonl", jsonl({**talk(USER, {**ASSISTANT, **keys}), **columns}), f"chat.jsonl:1: {problem}")
        for keys, columns, problem in (
            (
                {"tool_calls": "[{"},
                {},
                f"messages[1].tool_calls is not valid JSON: {NO_KEY} at column 3",
            ),
            ({"tool_calls": ["f()"]}, {}, f"messages[1].tool_calls[0] must be {CALL_FORM}, not text"),
            (
                {"tool_calls": [{"name": "f", "arguments": "{1}"}]},
                {},
                f"messages[1].tool_calls[0].arguments is not valid JSON: {NO_KEY} at column 2",
            ),
            (
                {"tool_calls": [{"function": {"name": "f", "arguments": "[1]"}}]},
                {},
                "messages[1].tool_calls[0].function.arguments must be an object, not a list",
            ),
            (
                {"function_call": {"name": "f", "arguments": "{}"}},
                {},
                "messages[1].function_call is not read; write it as tool_calls, a list of one call",
            ),
            ({"weight": 0.5}, {}, "messages[1].weight must be 0 or 1 (false or true), not 0.5"),
            ({"weight": 1, "train": False}, {}, "messages[1]: weight and train contradict one another; keep one"),
            ({"weight": 0}, {}, '"messages" has no assistant turn that is trained, so there is nothing to train on'),
            ({"reasoning_content": ["x"]}, {}, "messages[1].reasoning_content must be text, not a list"),
            ({"tool_call_id": "1"}, {}, "messages[1].tool_call_id belongs to the role tool, not assistant; remove it"),
            ({"score": 3}, {}, f'messages[1] has the key "score"; a message has {KEYS}; remove the key'),
            ({"thinking": "hm"}, {}, f"the model's chat template leaves out messages[1].thinking; {WAY_OUT}"),
            ({"name": "Ada"}, {}, f"the model's chat template leaves out messages[1].name; {WAY_OUT}"),
            (
                {"tool_calls": [{"name": "f", "arguments": {}}]},
                {},
                f"the model's chat template leaves out messages[1].tool_calls; {WAY_OUT}",
            ),
            ({}, {"tools": [{"name": "f"}]}, f"the model's chat template leaves out tools; {WAY_OUT}"),
            (
                {},
                {"tools": "{"},
                f'"tools" is not valid JSON: {NO_KEY} at column 2',
            ),
            ({}, {"tools": [7]}, f"tools[0] must be {TOOL_FORM}, not a number"),
            (
                {},
                {"functions": [{"name": "f"}]},
                '"functions" is not read; write it as "tools": a list of function tools',
            ),
            (
                {},
                {"chat_template_kwargs": {"enable_thinking": True}},
                "chat_template_kwargs.enable_thinking is not read by the model's chat template; remove it",
            ),
            (
                {},
                {"chat_template_kwargs": {"tools": []}},
                "chat_template_kwargs.tools is set by training itself; remove it",
            ),
        )
    ],
    (
        "chat.jsonl",
        jsonl(talk({**USER, "weight": 1}, ASSISTANT)),
        "chat.jsonl:1: messages[0].weight must be 0: a turn of the role user is never trained; remove it",
    ),
    (
        "share.jsonl",
        jsonl({"conversations": [{"from": "human", "value": "a"}, {"from": "function_call", "value": "f("}]}),
        "share.jsonl:1: conversations[1].value is not valid JSON: Expecting value at column 2",
    ),
    ("chat.jsonl", jsonl(talk("hello")), "chat.jsonl:1: messages[0] must be an object with role and content, not text"),
    (
        "chat.jsonl",
        jsonl({"messages": '[{"role": "user"}]'}),
        'chat.jsonl:1: "messages" must be a list of {role, content} objects, not text',
    ),
    (
        "train.json",
        b'{"data": [{"text": "a"}]}',
        "train.json: the file is a single object; it must be a list of them: [{...}, {...}]",
    ),
    ("train.json", b'"text"', "train.json:1: the file must be a list of objects: [{...}, {...}]"),
    ("train.json", b'[{"text": "a"},\n3]', "train.json:2: a row must be a JSON object, not a number"),
    ("train.json", b'[{"text": "a"},\n{"text": }]', "train.json:2: not valid JSON: Expecting value"),
    (
        "train.json",
        b'[{"text": "a"}\n{"text": "b"}]',
        "train.json:2: not valid JSON: a comma or the end of the list is missing",
    ),
    ("train.json", b'[{"text": "a"},', "train.json:1: not valid JSON: Expecting value"),
    ("train.json", b'[{"text": "a"}]\n[]', "train.json:2: not valid JSON: something follows the end of the list"),
    ("train.json", b'[{"text": ' + b"[" * 100_000, "train.json:1: not valid JSON: nested too deeply"),
    (
        "train.json",
        b'[{"text": "a"},\n{"text": "\xe9"}]',
        "train.json:2: not valid UTF-8: byte 0xe9; save the file as UTF-8",
    ),
    ("train.txt", b"fine\ncaf\xe9\n", "train.txt:2: not valid UTF-8: byte 0xe9 at column 4; save the file as UTF-8"),
    ("train.txt", b" \n", "train.txt: the file has no rows"),
    ("train.jsonl.gz", b"\0\1\2", "train.jsonl.gz: not readable as gzip: Not a gzipped file (b'\\x00\\x01')"),
    (
        "train.jsonl.gz",
        gzip.compress(jsonl(GOOD), mtime=0)[:-12],
        "train.jsonl.gz: not readable as gzip: Compressed file ended before the end-of-stream marker was reached",
    ),
    ("train.csv", b"text\n", "train.csv: the file has no rows"),
    ("train.csv", b"", "train.csv: the file has no rows"),
    (
        "train.csv",
        b'text,id\n"two\nlines",1\nthree\n',
        "train.csv:4: the row has 1 fields but the header has 2",
    ),
    ("train.csv", b"text,text\na,b\n", 'train.csv:1: the header names the column "text" twice'),
    ("train.csv", b'text\nfine\n"open\n', "train.csv:3: not valid CSV: unexpected end of data"),
    (
        "train.csv",
        b"text\nfine\ncaf\xe9\n",
        "train.csv:3: not valid UTF-8: byte 0xe9 at column 4; save the file as UTF-8",
    ),
    ("train.csv", b'text\nfine\n""\n', 'train.csv:3: "text" is empty, so there is nothing to train on'),
    ("train.parquet", as_parquet({"text": ["a", None]}), 'train.parquet row 2: "text" must be text, not null'),
    ("train.parquet", as_parquet({"text": pa.array([], pa.string())}), "train.parquet: the file has no rows"),
    (
        "train.parquet",
        as_parquet({"text": pa.array(["fine", b"caf\xe9"], pa.binary()).view(pa.string())}),
        "train.parquet row 2: text that is not valid UTF-8",
    ),
]


NO_FORMAT = (
    'no column "text", "prompt" and "completion", "messages", "instruction" and "output" or "conversations", there is '
    '"body", "id"; name the right ones in dataset.columns'
)
BODY = {"body": "a", "id": 1}


@pytest.mark.parametrize("options", [{}, {"on_invalid_row": OnInvalidRow.SKIP, "max_invalid_rows": 5}], ids=str)
@pytest.mark.parametrize(
    ("rows", "data_format", "sentence"),
    [
        ([BODY], DataFormat.AUTO, f"train.jsonl:1: {NO_FORMAT}"),
        ([BODY, {**BODY, "more": 1}, {"x": 1}], DataFormat.AUTO, f"train.jsonl:1 and every other row: {NO_FORMAT}"),
        ([BODY] * 300, DataFormat.AUTO, f"train.jsonl:1 and the 199 rows after it: {NO_FORMAT}"),
        (
            [{"text": "a"}] * 2,
            DataFormat.PROMPT_COMPLETION,
            (
                'train.jsonl:1 and every other row: no column "prompt", there is "text"; name the one to read in '
                "dataset.columns.prompt, or set another dataset.format"
            ),
        ),
        (
            [{"prompt": "a", "answer": "b"}] * 2,
            DataFormat.PROMPT_COMPLETION,
            (
                'train.jsonl:1 and every other row: no column "completion", there is "prompt", "answer"; name the one '
                "to read in dataset.columns.completion, or set another dataset.format"
            ),
        ),
        (
            [{"text": "a", "messages": []}] * 2,
            DataFormat.AUTO,
            (
                "train.jsonl:1 and every other row: the columns fit more than one format; set dataset.format to text "
                "or messages"
            ),
        ),
        (
            [{"instruction": "a", "output": "b", "text": "c"}],
            DataFormat.AUTO,
            "train.jsonl:1: the columns fit more than one format; set dataset.format to text or alpaca",
        ),
    ],
)
def test_what_no_row_has_is_for_the_spec_to_name_and_not_for_rows_to_be_left_out(
    bench: Workbench, rows: list[dict[str, Any]], data_format: DataFormat, sentence: str, options: dict[str, Any]
) -> None:
    config = bench.config(bench.write("train.jsonl", rows), data_format=data_format)
    config = replace(config, dataset=replace(config.dataset, **options))
    with pytest.raises(StageError) as raised:
        bench.run(config)
    assert (raised.value.reason, raised.value.exit_code) == (Reason.CONFIG_INVALID, ExitCode.INVALID)
    assert raised.value.message == sentence


def test_a_column_that_some_rows_have_is_missing_from_the_data(bench: Workbench) -> None:
    rows = [BODY, {"text": "a"}, BODY]
    with pytest.raises(StageError, match=r'^train\.jsonl:1: no column "text", "prompt" and') as raised:
        bench.prepare(bench.write("train.jsonl", rows))
    assert raised.value.reason is Reason.DATA_INVALID


OFFER = "; dataset.onInvalidRow: Skip leaves such rows out"


def problem_with_rows_left_out(bench: Workbench, name: str) -> str | None:
    config = bench.config(bench.root / "data" / name)
    skipping = replace(config.dataset, on_invalid_row=OnInvalidRow.SKIP, max_invalid_rows=100)
    try:
        bench.run(replace(config, dataset=skipping))
    except StageError as failure:
        return failure.full_message
    return None


@pytest.mark.usefixtures("no_finalizers")
@pytest.mark.parametrize(("name", "content", "sentence"), FILES)
def test_bad_data_is_told_with_file_and_line(bench: Workbench, name: str, content: bytes, sentence: str) -> None:
    ended = ending(Stage.PREPARE, bench.root, to_json(bench.config(bench.write(name, content))))
    told, offer, _ = (ended.message or "").partition(OFFER)
    assert (ended.exit_code, ended.reason, told) == (ExitCode.INVALID, Reason.DATA_INVALID, sentence)
    assert not (bench.volume / "prepared" / "stats.json").exists()
    assert bool(offer) == (told != problem_with_rows_left_out(bench, name)), "the offer is for what it helps with"


def test_a_file_that_is_no_parquet(bench: Workbench) -> None:
    with pytest.raises(StageError, match=r"^train\.parquet after row 0: not readable as Parquet: .*magic bytes"):
        bench.prepare(bench.write("train.parquet", b"PAR2" * 10))


def test_a_file_that_is_no_arrow(bench: Workbench) -> None:
    with pytest.raises(StageError, match=r"^train\.arrow after row 0: not readable as Arrow: "):
        bench.prepare(bench.write("train.arrow", b"no arrow" * 10))


def test_a_bad_row_of_the_second_file_is_told_with_that_file(bench: Workbench) -> None:
    bench.write("a.jsonl", [GOOD])
    bench.write("sub/b.jsonl", [GOOD, {"text": 1}])
    with pytest.raises(StageError, match=r'^sub/b\.jsonl:2: "text" must be text, not a number$'):
        bench.prepare(bench.root / "data")


def test_a_bad_row_beyond_the_first_batch_is_found(bench: Workbench) -> None:
    path = bench.write("train.jsonl", [*[GOOD] * 2500, {"text": 1}])
    with pytest.raises(StageError, match=r"^train\.jsonl:2501: "):
        bench.prepare(path)


def test_a_missing_column_of_a_named_format_is_told_by_its_own_name(bench: Workbench) -> None:
    config = bench.config(bench.write("train.jsonl", [{"text": "a"}]), data_format=DataFormat.PROMPT_COMPLETION)
    with pytest.raises(StageError, match=r'^train\.jsonl:1: no column "prompt", there is "text"; name the one to read'):
        bench.run(config)


def test_a_file_of_an_unknown_kind(bench: Workbench) -> None:
    path = bench.write("train.xlsx", b"hello")
    with pytest.raises(StageError) as raised:
        bench.prepare(path)
    assert raised.value.message == (
        f"{path}: train.xlsx must be a .jsonl, .json, .csv, .tsv, .parquet, .arrow or .txt file; convert it first"
    )
    assert raised.value.reason is Reason.DATA_INVALID


@pytest.mark.parametrize(
    ("held_out", "sentence"),
    [
        (
            held_out_fraction(0.5),
            (
                "{path} has 1 usable row(s), too few to hold out 0.5 of them; "
                "add rows, or set dataset.evaluation.fraction: 0"
            ),
        ),
        (held_out_source("{root}/data/empty.jsonl"), "empty.jsonl: the file has no rows"),
    ],
)
def test_nothing_to_evaluate_on(bench: Workbench, held_out: HeldOut, sentence: str) -> None:
    bench.write("empty.jsonl", b"")
    path = bench.write("train.jsonl", [GOOD])
    source = held_out.source.format(root=bench.root) if held_out.source else None
    with pytest.raises(StageError) as raised:
        bench.prepare(path, held_out=replace(held_out, source=source))
    assert raised.value.message == sentence.format(path=path)
    assert raised.value.reason is Reason.DATA_INVALID


def test_no_row_with_a_trained_token_within_the_length(bench: Workbench) -> None:
    path = bench.write("train.jsonl", [{"prompt": "a very long prompt " * 20, "completion": "short"}] * 3)
    with pytest.raises(StageError) as raised:
        bench.prepare(path, max_length=16)
    assert raised.value.message == (
        "train.jsonl:1 and every other row: no token to train on among the first 16 of the row; "
        "raise training.maxLength, or check that the chat template marks what the assistant writes"
    )
    assert raised.value.reason is Reason.DATA_INVALID


def test_columns_can_be_named_and_the_names_are_used_in_messages(bench: Workbench) -> None:
    config = bench.config(bench.write("train.jsonl", [{"body": "a"}, {"body": 3}]))
    (part,) = config.dataset.sources
    columns = replace(part.columns, text="body", prompt="question", completion="answer", messages="turns")
    with pytest.raises(StageError, match=r'^train\.jsonl:2: "body" must be text, not a number$'):
        bench.run(replace(config, dataset=replace(config.dataset, sources=(replace(part, columns=columns),))))
