"""The whole stage, in this process: what lies on the volume afterwards, and what is said about it."""

import json
import shutil
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from pyarrow import parquet

from sftjob_contract import layout
from sftjob_contract.codec import encode, from_json
from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.names import Stage
from sftjob_contract.reasons import Reason
from sftjob_contract.reports.stats import PreparedStats
from sftjob_contract.run.config import DataFormat, HeldOut
from sftjob_contract.run.optimization import Scheduler
from sftjob_trainer.preflight.schedule import check_schedule
from sftjob_trainer.prepare import prepare
from sftjob_trainer.process.errors import StageError
from support.trainer.preparing import Workbench, environment
from support.trainer.tiny import held_out_fraction, held_out_source, run_config

TEXTS = [{"text": f"open file {number}"} for number in range(20)]
MOST_CUT = (
    "2 of 3 rows are longer than training.maxLength 16 and lose their end: raise it, "
    "or leave such rows out with dataset.maxTokens."
)
MOST_LEFT_OUT = (
    "2 of 3 rows are left out, since nothing of them is trained within the first 16 tokens: raise training.maxLength."
)
NONE_HELD_OUT = held_out_fraction(0.0)


def test_statistics_are_those_of_what_lies_on_the_volume(bench: Workbench) -> None:
    stats = bench.prepare(bench.write("d.jsonl", TEXTS), held_out=held_out_fraction(0.1), epochs=3.0)
    rows, held_out = bench.sequences(), bench.sequences(layout.PREPARED_EVALUATION)
    assert (stats.rows, stats.train_rows, stats.evaluation_rows) == (20, 18, 2)
    assert (stats.sequences, stats.evaluation_sequences) == (len(rows), len(held_out)) == (18, 2)
    assert stats.tokens == sum(len(row["input_ids"]) for row in rows)
    assert stats.trained_tokens == stats.tokens
    assert (stats.steps_per_epoch, stats.max_steps) == (9, 27)
    assert stats.format is DataFormat.TEXT
    assert from_json(PreparedStats, (bench.volume / layout.PREPARED_STATS).read_bytes(), ignore_unknown=False) == stats


def test_the_outcome_carries_the_statistics_and_the_library_versions(bench: Workbench) -> None:
    ended = prepare(bench.config(bench.write("d.jsonl", TEXTS)), environment(bench.volume))
    assert (ended.stage, ended.exit_code, ended.reason) == (Stage.PREPARE, ExitCode.DONE, None)
    assert ended.prepared is not None
    assert ended.libraries is not None
    assert {"torch", "transformers", "trl", "datasets"} <= set(ended.libraries)


def test_the_run_config_lies_on_the_volume_for_people(bench: Workbench) -> None:
    config = bench.config(bench.write("d.jsonl", TEXTS), learning_rate=1e-5)
    bench.run(config)
    assert yaml.safe_load((bench.volume / layout.RUN_CONFIG).read_text()) == encode(config)


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_the_kind_of_file_makes_no_difference(bench: Workbench, suffix: str) -> None:
    path = bench.write(f"d.{suffix}", "text\n" + "".join(f"{row['text']}\n" for row in TEXTS))
    if suffix == "jsonl":
        path = bench.write("d.jsonl", TEXTS)
    if suffix == "parquet":
        parquet.write_table(pa.Table.from_pylist(TEXTS), path)
    bench.prepare(path)
    rows = bench.sequences()
    assert len(rows) == 20
    assert all(row["labels"] == row["input_ids"] for row in rows)
    assert len({tuple(row["input_ids"]) for row in rows}) == 20


def test_rows_keep_their_order_and_all_are_used_once(bench: Workbench) -> None:
    path = bench.write("d.jsonl", TEXTS)
    bench.prepare(path, held_out=NONE_HELD_OUT)
    everything = bench.sequences()
    bench.prepare(path, held_out=held_out_fraction(0.3))
    train, held_out = bench.sequences(), bench.sequences(layout.PREPARED_EVALUATION)
    assert [row for row in everything if row not in held_out] == train
    assert [row for row in everything if row not in train] == held_out


def test_the_seed_decides_the_held_out_part(bench: Workbench) -> None:
    path = bench.write("d.jsonl", TEXTS)

    def held_out(seed: int) -> list[Any]:
        bench.prepare(path, held_out=held_out_fraction(0.3), seed=seed)
        return bench.sequences(layout.PREPARED_EVALUATION)

    assert held_out(1) == held_out(1)
    assert held_out(1) != held_out(2)


def test_a_source_of_its_own_is_evaluated_on(bench: Workbench) -> None:
    evaluation = bench.write("test.jsonl", TEXTS[:3])
    stats = bench.prepare(bench.write("d.jsonl", TEXTS), held_out=held_out_source(str(evaluation)))
    assert (stats.rows, stats.train_rows, stats.evaluation_rows) == (20, 20, 3)
    assert bench.sequences(layout.PREPARED_EVALUATION) == bench.sequences()[:3]


def test_nothing_is_held_out_when_nothing_is_asked_for(bench: Workbench) -> None:
    stats = bench.prepare(bench.write("d.jsonl", TEXTS), held_out=NONE_HELD_OUT)
    assert stats.evaluation_sequences == 0
    assert not (bench.volume / layout.PREPARED_EVALUATION).exists()


def test_a_warmup_as_long_as_the_run_is_refused_with_both_numbers(bench: Workbench) -> None:
    path = bench.write("d.jsonl", [{"text": f"open {number}"} for number in range(8)])
    assert bench.run(bench.config(path, warmup_steps=3)).max_steps == 4
    with pytest.raises(StageError) as raised:
        bench.run(bench.config(path, warmup_steps=4))
    assert raised.value.reason is Reason.CONFIG_INVALID
    assert raised.value.message == (
        "training.warmupSteps 4 is not below the 4 steps of the run, so the learning rate would never reach its value; "
        "lower it, or write training.warmupRatio"
    )


@pytest.mark.parametrize(
    ("kwargs", "problem"),
    [
        ({"num_decay_steps": 4}, "1 steps of warmup and 4 of decay are not the 4 steps of the run; lower num_decay_st"),
        (
            {"num_decay_steps": 2, "num_stable_steps": 2},
            "1 steps of warmup, 2 stable and 2 of decay are not the 4 steps of the run; lower num_decay_steps, or rem",
        ),
        ({"num_decay_steps": 0.2}, None),
        ({"num_decay_steps": 3}, ""),
        ({"num_decay_steps": 1, "num_stable_steps": 2}, ""),
    ],
)
def test_the_parts_of_a_schedule_are_those_of_the_run(kwargs: dict[str, Any], problem: str | None) -> None:
    training = run_config(
        model="m",
        dataset="d",
        scheduler=Scheduler.WARMUP_STABLE_DECAY,
        warmup_ratio=None,
        warmup_steps=1,
        extra={"lr_scheduler_kwargs": kwargs},
    ).training
    where = "training.extra.lr_scheduler_kwargs"
    sentence = f"{where}.num_decay_steps must be a whole number" if problem is None else f"{where}: {problem}"

    if problem == "":
        check_schedule(4, training)
        return
    with pytest.raises(StageError) as raised:
        check_schedule(4, training)
    assert raised.value.message.startswith(sentence)


def test_only_the_first_rows_are_used_and_checked(bench: Workbench) -> None:
    config = bench.config(bench.write("d.jsonl", [*TEXTS[:5], {"text": 1}]))
    (part,) = config.dataset.sources
    stats = bench.run(replace(config, dataset=replace(config.dataset, sources=(replace(part, max_samples=5),))))
    assert stats.rows == 5


def test_long_rows_are_cut_and_counted_and_rows_without_a_trained_token_left_out(bench: Workbench) -> None:
    rows = [
        {"prompt": "a", "completion": "b"},
        {"prompt": "a", "completion": "word " * 40},
        {"prompt": "word " * 40, "completion": "b"},
    ]
    stats = bench.prepare(bench.write("d.jsonl", rows), max_length=16)
    assert (stats.rows, stats.truncated_rows) == (2, 1)
    assert [len(row["input_ids"]) for row in bench.sequences()][1] == 16
    assert all(set(row["labels"]) != {-100} for row in bench.sequences())


@pytest.mark.parametrize(
    ("rows", "limit", "sentence"),
    [
        (
            [{"prompt": "a", "completion": "b"}] + [{"prompt": "a", "completion": "word " * 40}] * 2,
            16,
            MOST_CUT,
        ),
        (
            [{"prompt": "a", "completion": "b"}] + [{"prompt": "word " * 40, "completion": "b"}] * 2,
            16,
            MOST_LEFT_OUT,
        ),
        ([{"prompt": "a", "completion": "word " * 40}] * 2, 256, None),
        ([{"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": "word " * 40}], 16, None),
    ],
    ids=["most cut", "most left out", "none", "half"],
)
def test_most_rows_cut_or_left_out_is_a_warning(
    bench: Workbench, caplog: pytest.LogCaptureFixture, rows: list[dict[str, str]], limit: int, sentence: str | None
) -> None:
    path = bench.write("d.jsonl", rows)
    stats = bench.prepare(path, max_length=limit)
    told = [line.strip() for line in caplog.messages if "maxLength" in line and "rows are" in line]
    expected = [] if sentence is None else [f"{path}: {sentence}"]
    assert (list(stats.warnings), told) == (expected, expected)


def test_every_file_of_a_folder_that_is_not_read_is_named_and_counted(
    bench: Workbench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "sftjob_trainer")
    for name in ("train-1.jsonl", "TRAIN-2.JSONL", "test.jsonl", "notes.txt", "README.md", ".hidden/x.jsonl"):
        path = bench.write(f"folder/{name}", [{"text": "open a file"}] * 2)
    folder = path.parent.parent
    stats = bench.prepare(folder)
    assert (stats.rows, stats.passed_over_files) == (4, 4)
    assert "      the split train of train, test" in caplog.messages
    assert "      not read: .hidden/x.jsonl, README.md, notes.txt, test.jsonl" in caplog.messages
    evaluated = bench.prepare(folder, held_out=HeldOut(fraction=None, split="test", source=None))
    assert (evaluated.rows, evaluated.evaluation_rows, evaluated.passed_over_files) == (4, 2, 3)


def test_packing_fills_sequences_and_keeps_every_token_of_every_document(bench: Workbench) -> None:
    rows = [{"prompt": "open", "completion": "file " * (1 + number % 9)} for number in range(50)]
    path = bench.write("d.jsonl", rows)
    bench.prepare(path)
    documents = [(tuple(row["input_ids"]), tuple(row["labels"])) for row in bench.sequences()]
    stats = bench.prepare(path, packing=True)
    packed = bench.sequences()
    assert all(set(row) == {"input_ids", "labels", "seq_lengths"} for row in packed)
    assert all(sum(row["seq_lengths"]) == len(row["input_ids"]) <= 64 for row in packed)
    unpacked = []
    for row in packed:
        start = 0
        for length in row["seq_lengths"]:
            part = slice(start, start + length)
            unpacked.append((tuple(row["input_ids"][part]), tuple(row["labels"][part])))
            start += length
    assert sorted(unpacked) == sorted(documents)
    assert stats.sequences == len(packed) < 20
    assert stats.train_rows == 50
    assert stats.tokens == sum(len(ids) for ids, _ in documents)
    assert stats.steps_per_epoch == -(-len(packed) // 2)
    filled = 100 * stats.tokens / (64 * len(packed))
    report = (bench.volume / layout.PREPARED_REPORT).read_text(encoding="utf-8").splitlines()
    assert report[-1] == f"packed: 50 rows in {len(packed)} sequences, {filled:.1f} % filled"


def test_preparing_again_does_nothing_and_says_so(bench: Workbench, caplog: pytest.LogCaptureFixture) -> None:
    config = bench.config(bench.write("d.jsonl", TEXTS), learning_rate=1e-5, held_out=held_out_fraction(0.1))
    first = bench.run(config)
    before = (bench.volume / layout.PREPARED_STATS).stat().st_mtime_ns
    caplog.set_level("INFO", "sftjob_trainer")
    caplog.clear()
    assert bench.run(config) == first
    assert caplog.messages == ["already prepared: 18 sequences, 9 steps; nothing to do"]
    assert (bench.volume / layout.PREPARED_STATS).stat().st_mtime_ns == before


def test_other_data_or_another_config_is_prepared_anew(bench: Workbench) -> None:
    path = bench.write("d.jsonl", TEXTS)
    held_out = held_out_fraction(0.1)
    first = bench.prepare(path, held_out=held_out)
    bench.write("d.jsonl", TEXTS[:10])
    assert bench.prepare(path, held_out=held_out).rows == 10
    assert bench.prepare(path, held_out=NONE_HELD_OUT).evaluation_rows == 0
    assert not (bench.volume / layout.PREPARED_EVALUATION).exists()
    bench.write("d.jsonl", TEXTS)
    assert bench.prepare(path, held_out=held_out) == first


def test_a_stage_that_was_broken_off_starts_over(bench: Workbench) -> None:
    config = bench.config(bench.write("d.jsonl", TEXTS))
    first = bench.run(config)
    (bench.volume / layout.PREPARED_STATS).unlink()
    (bench.volume / layout.PREPARED_TRAIN / "state.json").unlink()
    assert bench.run(config) == first
    assert len(bench.sequences()) == 20


def test_a_failed_preparation_leaves_no_statistics_of_an_older_one(bench: Workbench) -> None:
    path = bench.write("d.jsonl", TEXTS)
    bench.prepare(path)
    bench.write("d.jsonl", [{"text": 1}])
    with pytest.raises(StageError):
        bench.prepare(path)
    assert not list((bench.volume / layout.PREPARED).iterdir())


def test_a_person_can_follow_the_stages(bench: Workbench, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"prompt": "open\n", "completion": "file"}] * 9 + [{"prompt": "open", "completion": "file " * 99}]
    path = bench.write("d.jsonl", rows)
    caplog.set_level("INFO", "sftjob_trainer")
    bench.prepare(path, held_out=held_out_fraction(0.2), packing=True)
    steps = [line.split("]")[0] for line in caplog.messages if line.startswith("[")]
    assert steps == ["[1/4", "[2/4", "[3/4", "[4/4"]
    assert caplog.messages[0] == f"[1/4] model {bench.model}"
    assert f"[2/4] data {path}: 1 file(s), 0.0 MB" in caplog.messages
    assert "      cut at training.maxLength 64: 1 rows" in caplog.messages
    assert r"      example d.jsonl:1, trained between >> and <<: open\n>>file<|im_end|><<" in caplog.messages


def test_everything_on_the_volume_can_be_read_by_others(bench: Workbench) -> None:
    bench.prepare(bench.write("d.jsonl", TEXTS))
    files = [path for path in bench.volume.rglob("*") if path.is_file()]
    assert files
    assert all(stat.S_IMODE(path.stat().st_mode) & 0o444 == 0o444 for path in files)


def test_a_claim_is_read_below_the_claims_and_the_jobs_own_on_its_volume(bench: Workbench) -> None:
    claims = bench.root / "claims"
    (claims / "corpus").mkdir(parents=True)
    (claims / "corpus" / "d.jsonl").write_text(json.dumps(TEXTS[0]) + "\n")
    assert bench.run(bench.config("pvc://corpus/d.jsonl"), claims=claims).rows == 1
    (bench.volume / "mine").mkdir()
    (bench.volume / "mine" / "d.jsonl").write_text(json.dumps(TEXTS[0]) + "\n")
    assert bench.run(bench.config("pvc://tiny/mine")).rows == 1
    assert bench.run(bench.config("pvc://tiny/mine"), claims=claims).rows == 1


def test_a_claim_of_the_jobs_name_that_is_mounted_as_a_whole_is_read_there(bench: Workbench) -> None:
    """The job's volume is a directory of it, where another job's data do not lie."""
    claims = bench.root / "claims"
    (claims / "tiny" / "other").mkdir(parents=True)
    (claims / "tiny" / "other" / "d.jsonl").write_text(json.dumps(TEXTS[0]) + "\n")
    assert bench.run(bench.config("pvc://tiny/other"), claims=claims).rows == 1


def test_a_volume_that_is_a_directory_yet_to_be_made_is_made(bench: Workbench) -> None:
    volume = bench.root / "claim" / "tiny"
    data = bench.write("d.jsonl", TEXTS)
    assert prepare(bench.config(data), environment(volume)).prepared is not None
    assert (volume / layout.PREPARED_STATS).is_file()


@pytest.mark.parametrize(
    ("source", "reason", "sentence"),
    [
        ("{root}/none", Reason.MODEL_NOT_FOUND, "{root}/none does not exist; {root} has "),
        ("{root}", Reason.MODEL_NOT_FOUND, "{root} has no config.json; it has adapter/, bare/"),
        (
            "{root}/adapter",
            Reason.MODEL_NOT_FOUND,
            (
                "{root}/adapter has no config.json; it has adapter_config.json; "
                "it is a LoRA adapter: merge it into its base model first"
            ),
        ),
        (
            "{root}/bare",
            Reason.MODEL_NOT_FOUND,
            "{root}/bare has no weights (*.safetensors); it has config.json",
        ),
        ("hf://gpt2", Reason.CONFIG_INVALID, "hf://gpt2 must be hf://ORG/NAME; a short name such as gpt2 stands for "),
        ("pvc://base/../x", Reason.CONFIG_INVALID, "'pvc://base/../x' must be pvc://CLAIM/PATH without '..'"),
        (
            "pvc://base/x",
            Reason.CONFIG_INVALID,
            "pvc://base/x: the claim base is not mounted in this container",
        ),
    ],
)
def test_a_model_that_can_not_be_used_is_told(bench: Workbench, source: str, reason: Reason, sentence: str) -> None:
    for name, file in (("adapter", "adapter_config.json"), ("bare", "config.json")):
        (bench.root / name).mkdir()
        (bench.root / name / file).write_text("{}")
    with pytest.raises(StageError) as raised:
        bench.prepare(bench.write("d.jsonl", TEXTS), model=source.format(root=bench.root))
    assert raised.value.message.startswith(sentence.format(root=bench.root))
    assert raised.value.reason is reason


def test_rows_may_not_be_longer_than_the_model_has_positions(bench: Workbench) -> None:
    with pytest.raises(StageError) as raised:
        bench.prepare(bench.write("d.jsonl", TEXTS), max_length=513)
    assert raised.value.message == ("training.maxLength is 513 but the model has 512 positions; set it to 512 or less")
    assert raised.value.reason is Reason.CONFIG_INVALID


def test_a_tokenizer_with_more_tokens_than_the_model_is_told(bench: Workbench, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(bench.model, model)
    settings = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**settings, "vocab_size": 2}))
    with pytest.raises(StageError, match="but the model's vocabulary has 2 tokens; tokenizer and model do not belong"):
        bench.prepare(bench.write("d.jsonl", TEXTS), model=str(model))
