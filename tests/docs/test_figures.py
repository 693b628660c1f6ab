"""The figures of the documents are what their script draws, and tables show the recorded runs."""

import json
import math
import re

import pytest

from examples.quickstart.dataset import VOCABULARY
from support.jobs.doc_blocks import DOCUMENTS, ROOT
from tools.figures import draw, record

FIGURES = ROOT / "docs/figures"
DRAWN = draw.pictures()
LEARNING = (ROOT / "docs/is-it-learning.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", DRAWN)
def test_drawing_again_gives_the_same_file(name: str) -> None:
    assert (FIGURES / f"{name}.svg").read_bytes() == DRAWN[name].svg().encode()


def test_every_figure_is_drawn_and_shown_with_a_description() -> None:
    shown = {
        found[2]: found[1]
        for path in DOCUMENTS
        for found in re.finditer(r"!\[(.*?)\]\(figures/([\w-]+)\.svg\)", path.read_text(encoding="utf-8"))
    }
    assert set(shown) == set(DRAWN) == {path.stem for path in FIGURES.glob("*.svg")}
    assert all(shown.values())


def test_the_table_of_runs_is_what_was_recorded() -> None:
    curves = json.loads((FIGURES / "loss-curves.json").read_text(encoding="utf-8"))
    table = dict(
        re.findall(r"^\| (healthy|learning rate too \w+|too few rows) \| (.*) \|.*\|$", LEARNING, re.MULTILINE)
    )
    assert list(table) == list(curves) == list(record.CHANGES)
    for name, points in curves.items():
        losses = [point["evalLoss"] for point in points if "evalLoss" in point]
        changed = {key: value for part in record.CHANGES[name].values() for key, value in part.items()}
        setting, *numbers = [cell.strip().strip("`") for cell in table[name].split("|")]
        field, _, value = setting.partition(": ")
        assert float(value) == changed.get(field, record.TRAINING.get(field))
        assert numbers == [f"{loss:.2f}" for loss in (losses[0], min(losses), losses[-1])]
        assert points[-1]["step"] == record.TRAINING["maxSteps"]


def test_what_the_page_says_about_the_runs() -> None:
    training = record.TRAINING
    text = " ".join(LEARNING.split())
    rows = training["perDeviceBatchSize"] * training["gradientAccumulationSteps"]
    assert f"trained in full for {training['maxSteps']} steps of {rows} rows" in text
    assert f"near {math.log(VOCABULARY):.2f}, the logarithm of the vocabulary of {VOCABULARY:,} tokens" in text
    times = record.CHANGES["learning rate too high"]["training"]["learningRate"] / training["learningRate"]
    assert f"a learning rate {times:.0f} times too high" in text
