from pathlib import Path

import pytest

from bench.quality.quality_bench import FULL, HEADER, LORA, Result, Size, job, results, row
from sftjob_contract.run.config import Metric


def test_a_run_is_the_quickstarts_but_for_its_files_and_its_questions() -> None:
    config = job(FULL, Path("/data/model"), Path("/data"), Size())
    assert (config.model.source, config.dataset.sources[0].source) == ("/data/model", "/data/train.jsonl")
    assert (config.training.epochs, config.training.learning_rate) == (2.5, 0.0015)
    assert config.evaluation.metrics == (Metric.PERPLEXITY, Metric.ROUGE, Metric.EXACT_MATCH)
    assert job(LORA, Path("/m"), Path("/data"), Size(steps=7)).training.max_steps == 7


def test_a_row_says_what_was_measured_and_leaves_the_rest_empty() -> None:
    measures = {"evalRouge1": 0.25, "evalRougeL": 0.2, "evalExactMatch": 0.0}
    assert row(Result(name="chance", measures=measures)) == ["chance", "", "", "0.250", "0.200", "0.000", ""]
    whole = {"evalLoss": 2.0, "evalPerplexity": 1234.56, **measures}
    cells = row(Result(name="tuned", measures=whole, seconds=61.7))
    assert cells == ["tuned", "2.000", "1,234.6", "0.250", "0.200", "0.000", "62"]
    assert len(cells) == len(HEADER)


@pytest.mark.slow
def test_a_short_run_measures_the_model_before_and_after(tmp_path: Path) -> None:
    chance, untuned, full, lora = results(tmp_path, Size(questions=4, steps=4))
    assert chance.measures["evalRougeL"] > 0
    assert full.measures["evalLoss"] < untuned.measures["evalLoss"]
    assert lora.measures["evalLoss"] < full.measures["evalLoss"]
    assert all(result.seconds for result in (full, lora))
