"""Columns by Jinja templates and by a Python function: what becomes of rows, and what is told of what fails."""

import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sftjob_contract import layout
from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.reasons import Reason
from sftjob_contract.run.config import DataFormat, OnInvalidRow, Preprocessing, RowFunction, RowTemplate, RunConfig
from sftjob_trainer.process.errors import StageError
from sftjob_trainer.rows.preprocessing import preprocessor
from sftjob_trainer.rows.readers import Row
from sftjob_trainer.rows.row_template import NotPrintableError, compile_template, template_values
from sftjob_trainer.tokens.label_report import marked
from sftjob_trainer.tokens.tokenizer import Encoded, load_tokenizer
from support.trainer.preparing import Workbench
from support.trainer.tiny import data_source, held_out_source

TICKET: Mapping[str, Any] = {
    "question": " why <b> & é? ",
    "answer": "so",
    "tags": ["a", "é"],
    "order": None,
    "no. 1": 7,
    "score": float("nan"),
    "empty": {"gap": None},
    "done": True,
}


SO = "for its JSON"
PRINTED_FLAGS = (
    "(not done) ~ '!'",
    "'%s' % (not done)",
    "done",
    "done ~ '!'",
    "done | string",
    "'%s' | format(done)",
    "[answer, done] | join",
    "done | upper",
)


def template(**parts: str) -> Preprocessing:
    given = {"text": None, "prompt": None, "completion": None, **parts}
    return Preprocessing(template=RowTemplate(**given), function=None)


def function(file: Path, name: str = "preprocess") -> Preprocessing:
    return Preprocessing(template=None, function=RowFunction(file=str(file), name=name))


def with_preprocessing(config: RunConfig, preprocessing: Preprocessing, **changes: Any) -> RunConfig:
    """A run whose source is preprocessed."""
    (part,) = config.dataset.sources
    source = replace(part, preprocessing=preprocessing, **changes)
    return replace(config, dataset=replace(config.dataset, sources=(source,)))


def texts(bench: Workbench, config: RunConfig, part: str = layout.PREPARED_TRAIN) -> list[str]:
    tokenizer = load_tokenizer(bench.model, config.model)
    return [marked(Encoded("", row["input_ids"], row["labels"]), tokenizer) for row in bench.sequences(part)]


def told(raised: "pytest.ExceptionInfo[StageError]") -> tuple[Reason, str]:
    assert raised.value.exit_code is ExitCode.INVALID
    return raised.value.reason, raised.value.message


@pytest.mark.parametrize(
    ("jinja", "expected"),
    [
        ("{{ question | trim }}", "why <b> & é?"),
        ("Q: {{ answer }}\n", "Q: so\n"),
        ("{{ tags | tojson }}", '["a", "é"]'),
        ("{{ row['no. 1'] + 1 }}", "8"),
        ("{% if order %}\nOrder {{ order }}\n{% endif %}\nA: {{ answer }}", "A: so"),
        ("{% for tag in tags %}{{ loop.index }}{{ tag }} {% endfor %}", "1a 2é "),
        ("{{ missing | default('none') }}", "none"),
        ("{{ order | default('none') }}", "none"),
        ("{{ 'y' if order is defined else 'n' }}", "n"),
        ("{{ row.order | default('none') }}{{ empty.gap | default('!') }}", "none!"),
        ("{{ 'y' if order is none and order == none and not order else 'n' }}", "y"),
        ("{{ score | default('unknown') }}", "unknown"),
        (
            "{{ order | tojson }} {{ score | tojson }} {{ empty | tojson }} {{ done | tojson }}",
            'null null {"gap": null} true',
        ),
        ("{{ 'y' if done and done == true and done is true and not done is false and done is boolean }}", "y"),
        ("{{ [done, {'a': done}] | tojson }}", '[true, {"a": true}]'),
        ("{{ tags | join(', ') }} {{ row['no. 1'] }} {{ 1.5 }}", "a, é 7 1.5"),
        ("{{ 'y' if missing is defined else 'n' }}", "n"),
    ],
)
def test_a_template_sees_the_columns_of_its_row(jinja: str, expected: str) -> None:
    source = replace(data_source("d.jsonl"), preprocessing=template(text=jinja))
    made = preprocessor(source)(Row("d.jsonl:1", TICKET))
    assert (made.location, made.values) == ("d.jsonl:1", {**TICKET, "text": expected})


@pytest.mark.parametrize(
    ("jinja", "problem"),
    [
        (
            "{{ body }}",
            'no column "body", there is "question", "answer", "tags", "order", "no. 1", "score", "empty", "done"',
        ),
        ("{{ question.body }}", "'str object' has no attribute 'body'"),
        ("{{ row['no. 2'] }}", "'dict object' has no attribute 'no. 2'"),
        ("{{ answer + 1 }}", 'TypeError: can only concatenate str (not "int") to str'),
        ("{{ tags.append('b') }}", "SecurityError: access to attribute 'append' of 'list' object is unsafe."),
        ("{{ answer.__class__ }}", "SecurityError: access to attribute '__class__' of 'str' object is unsafe."),
        ("{{ 1 / 0 }}", "ZeroDivisionError: division by zero"),
        *[
            (jinja, f"a value in {{{{ }}}} must be text or a number, not {found}; write {{{{ {name} | tojson }}}} {SO}")
            for jinja, found, name in [
                ("{{ order }}", "null or NaN", "order"),
                ("{{ order | trim }}", "null or NaN", "order"),
                ("{{ 'no. ' ~ order }}", "null or NaN", "order"),
                ("{{ row.order }}", "null or NaN", "order"),
                ("{{ empty.gap | upper }}", "null or NaN", "gap"),
                ("{{ score }}", "null or NaN", "score"),
                ("{{ score | string }}", "null or NaN", "score"),
                ("{{ none }}", "null", "..."),
                ("{{ tags }}", "a list", "..."),
                ("{{ tags | trim }}", "a list", "..."),
                ("{{ 'tags: ' ~ tags }}", "a list", "..."),
                ("{{ empty }}", "an object", "..."),
                ("{{ row }}", "an object", "..."),
                ("{{ [answer] }}", "a list", "..."),
                *((f"{{{{ {printed} }}}}", "true or false", "...") for printed in PRINTED_FLAGS),
            ]
        ],
    ],
)
def test_a_row_that_a_template_can_not_use_is_told_with_its_place_and_the_field(jinja: str, problem: str) -> None:
    source = replace(data_source("d.jsonl"), preprocessing=template(prompt="a", completion=jinja))
    with pytest.raises(StageError) as raised:
        preprocessor(source)(Row("d.jsonl:2", TICKET))
    assert told(raised) == (
        Reason.DATA_INVALID,
        f"d.jsonl:2: dataset.preprocessing.template.completion: {problem}",
    )


WITHOUT_TEXT = {
    "(answer == 'so')": "true or false",
    "(not done)": "true or false",
    "(answer is string)": "true or false",
    "none": "null",
    "[1]": "a list",
    "(1, 2)": "a list",
    "{'a': 1}": "an object",
    "answer.upper": "a function",
    "range(2)": "a sequence",
    "([1] | map('abs'))": "a sequence",
    "(row['no. 1'] * 1e308)": "infinity",
}
"""Expressions whose value has no text but in Python, and what they are in the words of the messages."""
PRINTED = (
    *("V", "V ~ '!'", "'!' ~ V", "'%s' % (V,)", "'%r' % (V,)", "'%(a)s' % {'a': V}", "'{}'.format(V)"),
    *(
        "'{a}'.format(a=V)",
        "'{a}'.format_map({'a': V})",
        "'%s' | format(V)",
        "[V] | join",
        "[V] | map('string') | join",
    ),
    *("[{'a': V}] | join('', attribute='a')", "answer | replace('s', V)", "V | string", "V | upper | trim", "V | e"),
)


def rendered(jinja: str) -> str:
    return str(compile_template(jinja).render({"row": template_values(TICKET), **template_values(TICKET)}))


@pytest.mark.parametrize("expression", WITHOUT_TEXT)
@pytest.mark.parametrize("printed", PRINTED)
def test_what_has_no_text_but_in_python_is_refused_wherever_a_template_makes_text(
    expression: str, printed: str
) -> None:
    jinja = "{% set made = " + expression + " %}{{ " + printed.replace("V", "made") + " }}"
    found = WITHOUT_TEXT[expression].replace("null", "null( or NaN)?")
    with pytest.raises(NotPrintableError, match=f"must be text or a number, not {found}; write "):
        rendered(jinja)


ARGUMENTS = {
    **dict.fromkeys(("batch", "slice"), "1"),
    **dict.fromkeys(("map", "attr"), "'upper'"),
    **dict.fromkeys(("groupby", "selectattr", "rejectattr"), "0"),
    "replace": "'a', 'b'",
}


@pytest.mark.parametrize("name", sorted(compile_template("").environment.filters))
def test_no_filter_of_jinja_writes_as_python_does(name: str) -> None:
    arguments = ARGUMENTS.get(name, "")
    for expression in WITHOUT_TEXT:
        for value in (expression, f"[{expression}]", f"{{'a': {expression}}}", f"([{expression}] | map('list'))"):
            try:
                made = rendered("{% set made = " + value + " %}{{ made | " + f"{name}({arguments}) ~ '' }}}}")
            except Exception:  # noqa: BLE001 -- any refusal will do
                continue
            assert not re.search(r"true|false|none|null|inf|[(\[<]", made.lower()) or name == "tojson", (value, made)


@pytest.mark.parametrize(
    ("jinja", "expected"),
    [
        ("{{ answer ~ 1 ~ (2.5 ~ '!') }}", "so12.5!"),
        ("{{ '%s-%d' % (answer, 7) }} {{ '%(answer)s' % row }} {{ 7 % 4 }}", "so-7 so 3"),
        ("{{ '{0[answer]} {answer:>4}'.format(row, answer=answer) }}", "so   so"),
        ("{{ '%(answer)s' | format(**row) }} {{ '{answer}'.format_map(row) }}", "so so"),
        ("{{ [row] | join(attribute='answer') }} {{ tags | map('upper') | join('-') }}", "so A-É"),
        ("{{ {'a': answer} | xmlattr }} {{ {'a': answer} | urlencode }}", ' a="so" a=so'),
        (
            "{{ done | default('x') | tojson }} {{ (not done) | tojson }} {{ (1, none) | tojson }}",
            "true false [1, null]",
        ),
        ("{% macro shout(what) %}{{ what ~ '!' }}{% endmacro %}{{ shout(answer) | upper }}", "SO!"),
        ("{% for tag in tags %}{{ tag }}{{ ', ' if not loop.last }}{% endfor %}", "a, é"),
    ],
)
def test_text_and_numbers_are_printed_and_formatted_as_jinja_does(jinja: str, expected: str) -> None:
    assert rendered(jinja) == expected


def test_prompt_and_completion_are_trained_as_such_whatever_other_columns_there_are(bench: Workbench) -> None:
    """With a column `text` beside them, the columns alone would fit two formats."""
    rows = [{"q": "what\n", "a": "open", "text": "x"}, {"q": "why\n", "a": "close", "text": "y"}]
    config = with_preprocessing(
        bench.config(bench.write("d.jsonl", rows)), template(prompt="Q: {{ q }}", completion="{{ a }} it")
    )
    assert bench.run(config).format is DataFormat.PROMPT_COMPLETION
    assert texts(bench, config) == ["Q: what\n>>open it<|im_end|><<", "Q: why\n>>close it<|im_end|><<"]


def test_a_template_writes_to_the_columns_that_the_job_names(bench: Workbench) -> None:
    config = bench.config(bench.write("d.jsonl", [{"body": "open"}]))
    columns = replace(config.dataset.sources[0].columns, text="body")
    config = with_preprocessing(config, template(text="please {{ body }}"), columns=columns)
    bench.run(config)
    assert texts(bench, config) == [">>please open<|im_end|><<"]


def test_held_out_data_of_its_own_is_preprocessed_like_the_first_source(bench: Workbench) -> None:
    held_out = held_out_source(str(bench.write("test.jsonl", [{"body": "close"}])))
    config = bench.config(bench.write("d.jsonl", [{"body": "open"}]), held_out=held_out)
    config = with_preprocessing(config, template(text="{{ body }} it"))
    bench.run(config)
    assert texts(bench, config, layout.PREPARED_EVALUATION) == [">>close it<|im_end|><<"]


def test_a_row_whose_template_gives_nothing_is_a_row_that_can_not_be_used(bench: Workbench) -> None:
    config = with_preprocessing(
        bench.config(bench.write("d.jsonl", [{"body": "a"}, {"body": ""}])), template(text="{{ body }}")
    )
    with pytest.raises(StageError) as raised:
        bench.run(config)
    assert told(raised) == (Reason.DATA_INVALID, 'd.jsonl:2: "text" is empty, so there is nothing to train on')


TO_MESSAGES = """
from __future__ import annotations
from dataclasses import dataclass

@dataclass
class Turn:
    role: str
    content: str

def preprocess(row: dict) -> dict:
    row.pop("id", None)
    turns = [Turn("user", row["q"]), Turn("assistant", clean(row["a"]))]
    return {"messages": [vars(turn) for turn in turns]}

def clean(text: str) -> str:
    return text.strip()
"""


def code(bench: Workbench, text: str) -> Path:
    """A Python file as a ConfigMap leaves it."""
    path = bench.root / "rows.py"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_function_makes_columns_of_each_row(bench: Workbench) -> None:
    rows: list[dict[str, Any]] = [{"q": "hi", "a": " yo ", "id": 1}, {"q": "so", "a": "ok"}]
    config = bench.config(bench.write("d.jsonl", rows))
    config = with_preprocessing(config, function(code(bench, TO_MESSAGES)))
    assert bench.run(config).format is DataFormat.MESSAGES
    assert texts(bench, config) == [
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n>>yo<|im_end|><<\n",
        "<|im_start|>user\nso<|im_end|>\n<|im_start|>assistant\n>>ok<|im_end|><<\n",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("def preprocess(row):\n    return row['b']\n", "rows.py line 2: KeyError: 'b'"),
        (
            "def preprocess(row):\n    return help(row)\ndef help(row):\n    raise ValueError('odd\\nrow')\n",
            "rows.py line 4: ValueError: odd",
        ),
        ("import sys\ndef preprocess(row):\n    sys.exit(0)\n", "rows.py line 3: SystemExit: 0"),
        ("import json\ndef preprocess(row):\n    return json.loads(row['a'])\n", ("rows.py line 3: JSONDecodeError: "
         "Expecting value: line 1 column 1 (char 0)")),
    ],
)  # fmt: skip
def test_a_row_that_a_function_fails_on_is_told_with_the_line_of_the_code(
    bench: Workbench, text: str, problem: str
) -> None:
    config = with_preprocessing(
        bench.config(bench.write("d.jsonl", [{"a": "x"}])), function(code(bench, text)), format=DataFormat.TEXT
    )
    with pytest.raises(StageError) as raised:
        bench.run(config)
    assert told(raised) == (
        Reason.DATA_INVALID,
        f"d.jsonl:1: dataset.preprocessing.function preprocess: {problem}",
    )


@pytest.mark.parametrize(
    ("made", "kind"), [("None", "null"), ("'a'", "text"), ("[row]", "a list"), ("{1: 2}", "an object")]
)
def test_a_function_must_return_columns(bench: Workbench, made: str, kind: str) -> None:
    file = code(bench, f"def preprocess(row):\n    return {made}\n")
    config = with_preprocessing(bench.config(bench.write("d.jsonl", [{"text": "x"}])), function(file))
    with pytest.raises(StageError) as raised:
        bench.run(config)
    assert told(raised) == (
        Reason.DATA_INVALID,
        (
            f"d.jsonl:1: dataset.preprocessing.function preprocess must return a dict whose keys are names of columns, "
            f"not {kind}"
        ),
    )


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("def preprocess(row)\n", "dataset.preprocessing.function: rows.py line 1: expected ':'"),
        (
            "import json\nimport nowhere_to_be_found\n",
            (
                "dataset.preprocessing.function: rows.py line 2: ModuleNotFoundError: "
                "No module named 'nowhere_to_be_found'"
            ),
        ),
        ("raise SystemExit(0)\n", "dataset.preprocessing.function: rows.py line 1: SystemExit: 0"),
        (
            "def process(row): return row\n",
            (
                "dataset.preprocessing.function.name: rows.py has no function preprocess; define it with "
                "def preprocess(row), or name another one"
            ),
        ),
        (
            "preprocess = 3\n",
            (
                "dataset.preprocessing.function.name: rows.py has no function preprocess; define it with "
                "def preprocess(row), or name another one"
            ),
        ),
        ("\0", "dataset.preprocessing.function: rows.py: source code string cannot contain null bytes"),
    ],
)
def test_code_that_can_not_be_used_ends_the_job(bench: Workbench, text: str, sentence: str) -> None:
    config = with_preprocessing(bench.config(bench.write("d.jsonl", [{"text": "x"}])), function(code(bench, text)))
    with pytest.raises(StageError) as raised:
        bench.run(config)
    assert told(raised) == (Reason.CONFIG_INVALID, sentence)


def test_code_that_is_not_there_ends_the_job(bench: Workbench) -> None:
    file = bench.root / "none.py"
    config = with_preprocessing(bench.config(bench.write("d.jsonl", [{"text": "x"}])), function(file))
    with pytest.raises(StageError) as raised:
        bench.run(config)
    assert told(raised) == (
        Reason.CONFIG_INVALID,
        (
            f"dataset.preprocessing.function.configMapKeyRef: {file} cannot be read: "
            f"[Errno 2] No such file or directory: '{file}'"
        ),
    )


def test_rows_that_fail_are_skipped_and_counted_where_that_is_asked_for(bench: Workbench) -> None:
    config = bench.config(bench.write("d.jsonl", [{"a": "x"}, {"b": "y"}, {"a": "z"}]))
    config = with_preprocessing(config, template(text="{{ a }}"))
    skip = replace(config.dataset, on_invalid_row=OnInvalidRow.SKIP, max_invalid_rows=1)
    stats = bench.run(replace(config, dataset=skip))
    assert (stats.rows, stats.skipped_rows, stats.refused_rows) == (2, 1, 0)


def test_the_same_code_is_a_cache_hit_and_other_code_is_prepared_anew(
    bench: Workbench, caplog: pytest.LogCaptureFixture
) -> None:
    file = code(bench, "def preprocess(row):\n    return {'text': row['a'] + ' 1'}\n")
    config = with_preprocessing(bench.config(bench.write("d.jsonl", [{"a": "open"}])), function(file))
    first = bench.run(config)
    caplog.clear()
    caplog.set_level(logging.INFO, "sftjob_trainer")
    assert bench.run(config) == first
    assert caplog.messages == ["already prepared: 1 sequences, 1 steps; nothing to do"]

    code(bench, "def preprocess(row):\n    return {'text': row['a'] + ' 2'}\n")
    second = bench.run(config)
    assert second.dataset_fingerprint != first.dataset_fingerprint
    assert second.code_fingerprint != first.code_fingerprint
    assert texts(bench, config) == [">>open 2<|im_end|><<"]


def test_another_template_is_prepared_anew(bench: Workbench) -> None:
    config = bench.config(bench.write("d.jsonl", [{"a": "open"}]))
    for word in ("it", "a file"):
        changed = with_preprocessing(config, template(text=f"{{{{ a }}}} {word}"))
        assert bench.run(changed).code_fingerprint is None
        assert texts(bench, changed) == [f">>open {word}<|im_end|><<"]
