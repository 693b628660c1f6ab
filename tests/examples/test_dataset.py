import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from examples.quickstart import dataset
from examples.quickstart.dataset import MAX_ANSWER, MIN_ANSWER, MIN_ROWS, Row, held_out, standard_library

ROWS = standard_library()


def test_there_are_enough_rows_to_train_on_and_to_evaluate_on() -> None:
    assert len(ROWS) >= MIN_ROWS
    assert 100 <= sum(map(held_out, ROWS)) <= len(ROWS) // 10


def test_no_question_and_no_answer_comes_twice() -> None:
    assert len({row.question for row in ROWS}) == len(ROWS)
    assert len({row.answer for row in ROWS}) == len(ROWS)


def test_answers_are_sentences_of_a_sensible_length() -> None:
    for row in ROWS:
        assert MIN_ANSWER <= len(row.answer) <= MAX_ANSWER
        assert row.answer.isascii()
        assert row.answer[0].isupper()


def test_nothing_in_a_row_depends_on_the_process_or_the_machine() -> None:
    text = "\n".join(row.answer for row in ROWS)
    assert " at 0x" not in text
    assert str(Path.home()) not in text
    assert sys.prefix not in text


def test_a_fresh_process_with_another_hash_seed_finds_the_same_rows() -> None:
    import torch  # noqa: F401 -- it and transformers add to the standard library's modules
    import transformers  # noqa: F401

    program = "import dataset; print([(r.question, r.answer) for r in dataset.standard_library()] )"
    environment = {**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": str(Path(dataset.__file__).parent)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str([(row.question, row.answer) for row in standard_library()])


def test_whether_a_row_is_held_out_depends_on_its_question_alone() -> None:
    row = ROWS[0]
    assert held_out(row) == held_out(Row(row.question, "Something else."))


def test_rows_without_docstrings_are_refused_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "MODULES", ("keyword",))
    with pytest.raises(RuntimeError, match="run Python without -OO"):
        standard_library()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("quickstart")
    dataset.write(directory)
    return directory


def test_every_row_is_in_exactly_one_file(written: Path) -> None:
    files = [written / name for name in ("train.jsonl", "evaluation.jsonl")]
    questions = [json.loads(line)["messages"][0]["content"] for file in files for line in file.read_text().splitlines()]
    assert sorted(questions) == sorted(row.question for row in ROWS)


def test_the_saved_tokenizer_is_the_one_that_was_trained(written: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(written / "model")
    assert len(tokenizer) == dataset.VOCABULARY
    assert (tokenizer.eos_token, tokenizer.pad_token) == (dataset.END_OF_TURN, dataset.PADDING)
    assert tokenizer.eos_token != tokenizer.pad_token, "or the end of a turn would never be trained"
    for row in itertools.islice(ROWS, 50):
        assert tokenizer.decode(tokenizer(row.answer)["input_ids"]) == row.answer


def test_only_the_answer_and_the_end_of_its_turn_are_trained(written: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(written / "model")
    row = ROWS[0]
    rendered = tokenizer.apply_chat_template(
        row.messages()["messages"], tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    trained = [t for t, keep in zip(rendered["input_ids"], rendered["assistant_masks"], strict=True) if keep]
    assert tokenizer.decode(trained) == row.answer + dataset.END_OF_TURN


def test_no_row_is_longer_than_the_model_can_read(written: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(written / "model")
    longest = max(len(tokenizer.apply_chat_template(row.messages()["messages"])["input_ids"]) for row in ROWS)
    assert longest <= dataset.MAX_POSITIONS


def test_the_model_is_made_the_same_every_time(written: Path, tmp_path: Path) -> None:
    dataset.write_model(tmp_path, ROWS)
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (tmp_path / name).read_bytes() == (written / "model" / name).read_bytes()
