"""Subsets and splits of a repository: found as `datasets` finds them."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from sftjob_trainer.sources.splits import SplitError, declared_subsets, first_split, splits_by_name, splits_of


def files_of_split(names: Sequence[str], card: str, subset: str | None, splits: Sequence[str]) -> Sequence[str]:
    known = splits_of(names, card, subset)
    return known[first_split(known, splits, subset)]


LAYOUTS = [
    ["train.jsonl", "test.jsonl"],
    ["corpus.jsonl", "more.jsonl"],
    ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet", "data/test-00000-of-00001.parquet"],
    ["data/train_sft-00000-of-00001.parquet", "data/test_sft-00000-of-00001.parquet"],
    ["data/train/a.csv", "data/train/b.csv", "data/validation/a.csv"],
    ["my-training-set/a.csv", "dev/a.csv", "notes/a.csv"],
    ["train_0.csv", "train_1.csv", "val.csv", "x.eval.csv"],
    ["nested/deep/data.test.jsonl", "nested/deep/data.train.jsonl"],
    ["training.json", "evaluation.json", "retrained.json"],
    ["a/test/train.csv", "a/train/test.csv"],
    ["strain.csv", "contest.csv"],
    ["dev.jsonl.gz", "train.jsonl.gz"],
]


@pytest.mark.parametrize("names", LAYOUTS)
def test_file_names_tell_the_splits_as_in_datasets(tmp_path: Path, names: Sequence[str]) -> None:
    from datasets.data_files import DataFilesDict, get_data_patterns

    for name in names:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    theirs = DataFilesDict.from_patterns(get_data_patterns(str(tmp_path)), base_path=str(tmp_path))
    expected = {
        str(split): {str(Path(file).relative_to(tmp_path)) for file in files} for split, files in theirs.items()
    }
    assert {split: set(files) for split, files in splits_by_name(sorted(names)).items()} == expected


def card(configs: str) -> str:
    return f"---\nlicense: mit\n{configs}---\n# A corpus\n---\nconfigs: none\n"


TWO_SUBSETS = card(
    """configs:
- config_name: en
  data_files:
  - split: train
    path: en/part-*.jsonl
  - split: test
    path: [en/held-out.jsonl, "en/more/**"]
- config_name: fr
  data_files: fr/*.jsonl
- config_name: by_name
  data_dir: other
"""
)
NAMES = [
    "en/held-out.jsonl",
    "en/more/deep/x.jsonl",
    "en/part-0.jsonl",
    "en/part-1.jsonl",
    "fr/a.jsonl",
    "fr/old/b.jsonl",
    "other/train.jsonl",
    "other/validation.jsonl",
]


@pytest.mark.parametrize(
    ("subset", "split", "expected"),
    [
        ("en", "train", ["en/part-0.jsonl", "en/part-1.jsonl"]),
        ("en", "test", ["en/held-out.jsonl", "en/more/deep/x.jsonl"]),
        ("fr", "train", ["fr/a.jsonl"]),
        ("by_name", "validation", ["other/validation.jsonl"]),
    ],
)
def test_the_card_declares_subsets(subset: str, split: str, expected: list[str]) -> None:
    assert files_of_split(NAMES, TWO_SUBSETS, subset, [split]) == expected


@pytest.mark.parametrize(
    "configs",
    [
        "configs:\n- {config_name: default, data_files: a.csv}\n- {config_name: b, data_files: b.csv}\n",
        "configs:\n- {config_name: b, data_files: b.csv}\n- {config_name: a, data_files: a.csv, default: true}\n",
        "configs:\n- {config_name: only, data_files: a.csv}\n",
        "configs:\n- config_name: only\n  data_files:\n  - a.csv\n",
    ],
)
def test_without_a_subset_the_default_one_or_the_only_one_is_used(configs: str) -> None:
    assert files_of_split(["a.csv", "b.csv"], card(configs), None, ["train"]) == ["a.csv"]


def test_the_first_split_that_is_there_is_used() -> None:
    names = ["test.csv", "train.csv"]
    assert files_of_split(names, "", None, ["validation", "test", "train"]) == ["test.csv"]


@pytest.mark.parametrize("text", ["", "# no head\n", "---\nlicense: mit\n---\n", "---\n- a list\n---\n"])
def test_a_card_need_not_declare_anything(text: str) -> None:
    assert declared_subsets(text) == []


PROBLEMS = [
    (TWO_SUBSETS, "de", "train", "has no subset de; it has en, fr, by_name"),
    (TWO_SUBSETS, None, "train", "has several subsets, en, fr, by_name; set dataset.subset to one of them"),
    (TWO_SUBSETS, "en", "validation", "has no split validation of subset en; it has train, test"),
    ("", "en", "train", "has no subset en; it has default"),
    ("", None, "test", "has no split test; it has train"),
    (
        card("configs:\n- {config_name: a, data_files: none/*.csv}\n"),
        None,
        "train",
        "has no split train; it has no data files",
    ),
    (card("configs: [\n"), None, "train", "has a README.md whose head is not valid YAML"),
    (
        card("configs:\n- data_files: a.csv\n"),
        None,
        "train",
        "has a README.md whose configs cannot be understood; name a file in source",
    ),
    (
        card("configs:\n- {config_name: a, data_files: [{split: train}]}\n"),
        None,
        "train",
        "has a README.md whose configs cannot be understood; name a file in source",
    ),
]


@pytest.mark.parametrize(("text", "subset", "split", "sentence"), PROBLEMS)
def test_what_is_not_there_is_told_with_what_is(text: str, subset: str | None, split: str, sentence: str) -> None:
    with pytest.raises(SplitError) as raised:
        files_of_split(["a.csv", *NAMES[:4]], text, subset, [split])
    assert str(raised.value) == sentence
