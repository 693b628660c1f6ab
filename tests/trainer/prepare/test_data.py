"""From the sources of a run to the rows that it trains and evaluates on: mixing, leaving out, holding out."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

import pytest

from sftjob_contract import layout
from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.reasons import Reason
from sftjob_contract.reports.stats import PreparedStats
from sftjob_contract.run.config import DataFormat, DataSource, HeldOut, OnInvalidRow, PackingStrategy, RunConfig
from sftjob_trainer.process.errors import StageError
from support.servers.hub import Hub
from support.trainer.preparing import Workbench
from support.trainer.tiny import data_source, held_out_fraction, held_out_source


def texts(word: str, count: int) -> list[dict[str, str]]:
    return [{"text": f"{word} {number}"} for number in range(count)]


def mixed(bench: Workbench, *sources: DataSource, held_out: HeldOut | None = None, **options: Any) -> RunConfig:
    """A run on several sources; `options` are fields of the data set, or of the training where it has none such."""
    first = bench.config("unused", held_out=held_out)
    dataset = {key: value for key, value in options.items() if hasattr(first.dataset, key)}
    training = {key: value for key, value in options.items() if key not in dataset}
    config = bench.config("unused", held_out=held_out, **training)
    return replace(config, dataset=replace(config.dataset, sources=sources, **dataset))


def source(bench: Workbench, name: str, rows: Sequence[Mapping[str, Any]], **changes: Any) -> DataSource:
    return data_source(str(bench.write(name, rows)), **changes)


def token_rows(bench: Workbench, part: str = layout.PREPARED_TRAIN) -> list[tuple[int, ...]]:
    return [tuple(row["input_ids"]) for row in bench.sequences(part)]


def test_sources_of_different_kinds_and_shapes_are_mixed(bench: Workbench) -> None:
    bench.write("c.csv", "body\none\ntwo\n")
    columns = replace(data_source("").columns, text="body")
    config = mixed(
        bench,
        source(bench, "a.jsonl", texts("open", 3)),
        source(bench, "b.jsonl", [{"instruction": "add", "output": "3", "text": "x"}], data_format=DataFormat.ALPACA),
        data_source(str(bench.root / "data" / "c.csv"), columns=columns),
        max_length=500,
    )
    stats = bench.run(config)
    assert (stats.rows, stats.train_rows, stats.format) == (6, 6, DataFormat.TEXT)
    assert len(set(token_rows(bench))) == 6


def test_the_log_names_the_columns_that_nothing_reads(bench: Workbench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "sftjob_trainer")
    rows = [{"id": 1, "prompt": "a", "completion": "b", "system": "c", "label": 3}]
    bench.prepare(bench.write("d.jsonl", rows))
    assert "      columns that are not read: 'id', 'label'" in caplog.messages


def test_weights_say_how_often_rows_are_used(bench: Workbench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "sftjob_trainer")
    config = mixed(
        bench,
        source(bench, "a.jsonl", texts("open", 10), weight=2.5),
        source(bench, "b.jsonl", texts("close", 10), weight=0.2),
    )
    stats = bench.run(config)
    counts = Counter(token_rows(bench))
    assert Counter(counts.values()) == {3: 5, 2: 5, 1: 2}
    assert (stats.rows, stats.train_rows, stats.sequences) == (20, 27, 27)
    assert stats.steps_per_epoch == 14
    assert f"      of {bench.root}/data/a.jsonl: 10 rows, each used 2.5 times" in caplog.messages


def test_held_out_rows_are_never_trained_on_however_often_rows_are_repeated(bench: Workbench) -> None:
    config = mixed(
        bench,
        source(bench, "a.jsonl", texts("open", 20), weight=3.0),
        source(bench, "b.jsonl", texts("close", 20)),
        held_out=held_out_fraction(0.25),
    )
    stats = bench.run(config)
    train, held_out = token_rows(bench), token_rows(bench, layout.PREPARED_EVALUATION)
    assert (stats.rows, stats.evaluation_rows, len(held_out)) == (40, 10, 10)
    assert not set(train) & set(held_out)
    assert len(set(train)) + len(held_out) == 40


def test_rows_of_a_source_are_those_at_its_beginning(bench: Workbench) -> None:
    config = mixed(
        bench,
        source(bench, "a.jsonl", [*texts("open", 2), {"text": 1}], max_samples=2),
        source(bench, "b.jsonl", texts("close", 5), max_samples=3),
    )
    assert bench.run(config).rows == 5


def test_mixing_again_does_nothing(bench: Workbench, caplog: pytest.LogCaptureFixture) -> None:
    config = mixed(
        bench,
        source(bench, "a.jsonl", texts("open", 20), weight=1.5),
        source(bench, "b.jsonl", texts("close", 20)),
        held_out=held_out_fraction(0.1),
    )
    first, rows = bench.run(config), bench.sequences()
    caplog.set_level("INFO", "sftjob_trainer")
    caplog.clear()
    assert bench.run(config) == first
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("already prepared: ")
    bench.write("b.jsonl", texts("close", 19))
    assert bench.run(config).rows == 39
    bench.write("b.jsonl", texts("close", 20))
    assert (bench.run(config), bench.sequences()) == (first, rows)


def test_nothing_but_sequences_and_statistics_stays_behind(bench: Workbench) -> None:
    bench.run(mixed(bench, source(bench, "a.jsonl", texts("open", 9), weight=1.5), packing=True))
    left = {path.name for path in (bench.volume / layout.PREPARED).iterdir()}
    assert {layout.PREPARED_TRAIN, layout.PREPARED_STATS} <= {f"{layout.PREPARED}/{name}" for name in left}
    assert "scratch" not in left


ONE = {"prompt": "a", "completion": "b c"}


@pytest.mark.parametrize(("deduplicate", "rows", "duplicates"), [(False, 6, 0), (True, 3, 3)])
def test_rows_of_equal_tokens_are_used_once_if_that_is_asked_for(
    bench: Workbench, deduplicate: bool, rows: int, duplicates: int
) -> None:
    config = mixed(
        bench,
        source(bench, "a.jsonl", [ONE, {"prompt": "x", "completion": "y"}, ONE]),
        source(bench, "b.jsonl", [{**ONE, "id": 7}, {"prompt": "é", "completion": "y"}, ONE]),
        deduplicate=deduplicate,
    )
    stats = bench.run(config)
    assert (stats.rows, stats.duplicate_rows) == (rows, duplicates)
    assert len(set(token_rows(bench))) == 3


def test_a_row_that_is_evaluated_on_is_not_trained_on_if_duplicates_go(bench: Workbench) -> None:
    evaluation = bench.write("e.jsonl", texts("open", 3))
    config = mixed(
        bench,
        source(bench, "a.jsonl", texts("open", 10)),
        held_out=held_out_source(str(evaluation)),
        deduplicate=True,
    )
    stats = bench.run(config)
    assert (stats.rows, stats.evaluation_rows, stats.duplicate_rows) == (7, 3, 3)
    assert not set(token_rows(bench)) & set(token_rows(bench, layout.PREPARED_EVALUATION))


def test_short_and_long_rows_are_left_out_by_their_tokens_before_any_is_cut(
    bench: Workbench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "sftjob_trainer")
    rows = [{"text": "a" * length} for length in (1, 4, 9, 10, 40)]
    whole = mixed(bench, source(bench, "a.jsonl", rows), max_length=16)
    bench.run(whole)
    lengths = [len(row) for row in token_rows(bench)]
    config = replace(whole, dataset=replace(whole.dataset, min_tokens=lengths[1], max_tokens=lengths[2]))
    stats = bench.run(config)
    assert [len(row) for row in token_rows(bench)] == lengths[1:3]
    assert (stats.rows, stats.filtered_rows, stats.truncated_rows) == (2, 3, 0)
    sentence = "3 rows have fewer tokens than dataset.minTokens or more than dataset.maxTokens"
    assert f"      left out: {sentence}" in caplog.messages


GOOD = '{"text": "open a file"}\n'
BAD = [
    '{"text": 1}\n',
    '{"text": "a"\n',
    "[]\n",
    '{"text": "\\ud800"}\n',
    '{"body": "a"}\n',
]


def skipping(bench: Workbench, content: bytes | str, limit: int, name: str = "d.jsonl") -> RunConfig:
    path = bench.write(name, content)
    return mixed(
        bench, data_source(str(path)), on_invalid_row=OnInvalidRow.SKIP, max_invalid_rows=limit, deduplicate=False
    )


def test_rows_that_can_not_be_used_are_left_out_and_told_if_that_is_asked_for(
    bench: Workbench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "sftjob_trainer")
    content = "".join(BAD) + GOOD * 3 + BAD[0] + GOOD
    stats = bench.run(skipping(bench, content.encode() + b'{"text": "\xe9"}\n', 7))
    assert (stats.rows, stats.skipped_rows) == (4, 7)
    told = [message.removeprefix("      left out: ") for message in caplog.messages if "left out" in message]
    assert [message.partition(" ")[0] for message in told[:5]] == [f"d.jsonl:{line}:" for line in range(1, 6)]
    assert told[5:] == ["7 rows cannot be used"]


@pytest.mark.parametrize("name", ["d.jsonl", "d.json"])
def test_a_row_whose_json_is_valid_and_unusable_is_left_out_alone(bench: Workbench, name: str) -> None:
    unusable = ('{"text": "a", "text": "b"}\n', '{"text": "a", "id": ' + "7" * 5000 + "}\n")
    stats = bench.run(skipping(bench, GOOD + GOOD.join(unusable) + GOOD, 2, name))
    assert (stats.rows, stats.skipped_rows) == (3, 2)


def test_more_rows_than_may_be_left_out_fail_the_job(bench: Workbench) -> None:
    with pytest.raises(StageError) as raised:
        bench.run(skipping(bench, GOOD + BAD[0] + BAD[2] + BAD[0], 2))
    assert raised.value.message == (
        'd.jsonl:4: "text" must be text, not a number: more rows cannot be used than the 2 of dataset.maxInvalidRows; '
        'the first was d.jsonl:2: "text" must be text, not a number'
    )
    assert raised.value.exit_code is ExitCode.INVALID


@pytest.mark.parametrize("rows", [[{"text": 1}] * 3, [{"text": "  "}] * 3])
def test_a_file_without_a_row_that_can_be_used_fails_the_job(bench: Workbench, rows: list[dict[str, Any]]) -> None:
    content = "".join(json.dumps(row) + "\n" for row in rows)
    with pytest.raises(StageError, match=r": no row can be used; the first that cannot: d\.jsonl:1: ") as raised:
        bench.run(skipping(bench, content, 5))
    assert raised.value.reason is Reason.DATA_INVALID


def test_a_conversation_that_the_template_refuses_is_left_out_alone(bench: Workbench) -> None:
    from support.trainer.tiny import CHATML, write_model_without_weights

    refusing = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    model = write_model_without_weights(bench.root / "refusing", chat_template=refusing + CHATML)
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]
    rows = [{"messages": turns}] * 4 + [{"messages": [{"role": "system", "content": "be kind"}, *turns]}]
    config = skipping(bench, "".join(json.dumps(row) + "\n" for row in rows), 1)
    stats = bench.run(replace(config, model=replace(config.model, source=str(model))))
    assert (stats.rows, stats.skipped_rows) == (4, 1)


def test_a_broken_file_fails_the_job_even_if_rows_may_be_left_out(bench: Workbench) -> None:
    with pytest.raises(StageError, match=r"^d\.csv:2: not valid CSV: unexpected end of data$"):
        bench.run(skipping(bench, 'text\n"open\n', 100, name="d.csv"))


NOTHING_LEFT = [
    # options, held out, sentence
    (
        {"min_tokens": 100},
        None,
        "dataset: no row is left: 2 rows have fewer tokens than dataset.minTokens or more than dataset.maxTokens",
    ),
    (
        {"deduplicate": True},
        held_out_source("{root}/data/a.jsonl"),
        "dataset: no row is left: 2 rows are equal to an earlier one (dataset.deduplicate)",
    ),
    (
        {"max_tokens": 8},
        held_out_source("{root}/data/long.jsonl"),
        (
            "dataset.evaluation: no row is left: "
            "1 rows have fewer tokens than dataset.minTokens or more than dataset.maxTokens"
        ),
    ),
]


@pytest.mark.parametrize(("options", "held_out", "sentence"), NOTHING_LEFT)
def test_when_no_row_is_left_the_reasons_are_told(
    bench: Workbench, options: dict[str, Any], held_out: HeldOut | None, sentence: str
) -> None:
    bench.write("long.jsonl", [{"text": "a" * 30}])
    if held_out is not None:
        held_out = held_out_source(str(held_out.source).format(root=bench.root))
    with pytest.raises(StageError) as raised:
        bench.run(mixed(bench, source(bench, "a.jsonl", texts("open", 2)), held_out=held_out, **options))
    assert raised.value.message == sentence
    assert raised.value.exit_code is ExitCode.INVALID


def test_wrapped_packing_fills_every_sequence_and_cuts_no_row_before(bench: Workbench) -> None:
    rows = [{"text": "open a file " * length} for length in (1, 9, 30, 2, 14)]
    config = mixed(bench, source(bench, "a.jsonl", rows))
    unpacked = mixed(bench, source(bench, "a.jsonl", rows), max_length=500)
    bench.run(unpacked)
    tokens = [token for row in token_rows(bench) for token in row]
    packed = replace(
        config, training=replace(config.training, packing=True, packing_strategy=PackingStrategy.WRAPPED, max_length=16)
    )
    stats = bench.run(packed)
    assert [token for row in token_rows(bench) for token in row] == tokens
    assert {len(row) for row in token_rows(bench)[:-1]} == {16}
    assert (stats.truncated_rows, stats.tokens) == (0, len(tokens))


def test_packing_that_splits_keeps_every_token_of_rows_longer_than_a_sequence(bench: Workbench) -> None:
    rows = [{"text": "open a file " * length} for length in (1, 9, 30, 2, 14)]
    long = source(bench, "a.jsonl", rows)
    bench.run(mixed(bench, long, max_length=500))
    whole = [list(row) for row in token_rows(bench)]
    config = mixed(bench, long)
    packed = {
        strategy: replace(
            config, training=replace(config.training, packing=True, packing_strategy=strategy, max_length=16)
        )
        for strategy in (PackingStrategy.BFD, PackingStrategy.BFD_SPLIT)
    }

    cut = bench.run(packed[PackingStrategy.BFD])
    split = bench.run(packed[PackingStrategy.BFD_SPLIT])

    assert (cut.truncated_rows, split.truncated_rows) == (sum(len(row) > 16 for row in whole), 0)
    assert cut.tokens < split.tokens == sum(map(len, whole))
    parts = [part for row in bench.sequences() for part in documents_in(row)]
    assert sorted(parts) == sorted(row[start : start + 16] for row in whole for start in range(0, len(row), 16))


def documents_in(row: dict[str, list[int]]) -> list[list[int]]:
    """Tokens of each document, or part of one, in a packed sequence."""
    ends = list(accumulate(row["seq_lengths"]))
    return [row["input_ids"][start:end] for start, end in zip([0, *ends], ends, strict=False)]


CARD = b"""---
configs:
- config_name: en
  data_files: [{split: train, path: en/t*}, {split: validation, path: en/d*}]
---
"""


@pytest.fixture
def hub() -> Any:
    with Hub() as running:
        rows = {word: "".join(json.dumps(row) + "\n" for row in texts(word, 4)).encode() for word in "abcd"}
        running.commit("dataset", "org/card", {"README.md": CARD, "en/t.jsonl": rows["a"], "en/d.jsonl": rows["b"]})
        running.commit("dataset", "org/plain", {"train.jsonl": rows["a"], "test.jsonl": rows["b"], "dev.jsonl": b"{}"})
        running.commit("dataset", "org/other", {"train.jsonl": rows["c"], "dev.jsonl": rows["d"]})
        yield running


def prepared(bench: Workbench, hub: Hub, config: RunConfig) -> tuple[PreparedStats, list[str]]:
    """The statistics, and which words are trained and evaluated on."""
    from sftjob_trainer.tokens.tokenizer import load_tokenizer

    stats = bench.run(config, hub_endpoint=hub.url)
    tokenizer = load_tokenizer(bench.model, config.model)
    parts = [layout.PREPARED_TRAIN, layout.PREPARED_EVALUATION][: 1 + bool(stats.evaluation_rows)]
    words = [{tokenizer.decode(row)[0] for row in token_rows(bench, part)} for part in parts]
    return stats, ["".join(sorted(word)) for word in words]


SPLITS = [
    # sources (source, subset, split), evaluation, words trained on and evaluated on
    ([("hf://org/plain", None, None)], held_out_fraction(0.0), ["a"]),
    ([("hf://org/plain", None, "test")], held_out_fraction(0.0), ["b"]),
    ([("hf://org/plain", None, None)], HeldOut(fraction=None, split="test", source=None), ["a", "b"]),
    ([("hf://org/card", "en", None)], HeldOut(fraction=None, split="validation", source=None), ["a", "b"]),
    (
        [("hf://org/card", "en", "train"), ("hf://org/other", None, None)],
        HeldOut(fraction=None, split="validation", source=None),
        ["ac", "bd"],
    ),
    ([("hf://org/plain", None, None)], held_out_source("hf://org/other"), ["a", "d"]),
    ([("hf://org/plain/train.jsonl", None, None)], held_out_source("hf://org/plain/test.jsonl"), ["a", "b"]),
]


@pytest.mark.parametrize(("sources", "held_out", "words"), SPLITS)
def test_subsets_and_splits_of_the_hub_are_what_is_trained_and_evaluated_on(
    bench: Workbench,
    hub: Hub,
    sources: list[tuple[str, str | None, str | None]],
    held_out: HeldOut,
    words: list[str],
) -> None:
    parts = [data_source(uri, subset=subset, split=split) for uri, subset, split in sources]
    _, found = prepared(bench, hub, mixed(bench, *parts, held_out=held_out))
    assert found == words


def test_a_revision_is_not_asked_of_another_repository_that_is_evaluated_on(bench: Workbench, hub: Hub) -> None:
    old = hub.commit("dataset", "org/plain", {"train.jsonl": b'{"text": "old"}\n'})
    hub.commit("dataset", "org/plain", {"train.jsonl": b'{"text": "new"}\n'})
    part = data_source("hf://org/plain", revision=old)
    _, words = prepared(bench, hub, mixed(bench, part, held_out=held_out_source("hf://org/other")))
    assert words == ["o", "d"]
