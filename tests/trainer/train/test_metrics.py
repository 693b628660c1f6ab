"""Metrics of texts: numbers that can be worked out by hand."""

import random

import pytest

from sftjob_contract.run.config import Metric
from sftjob_trainer.evaluation.text_metrics import exact_match, lcs_length, measure, rouge


@pytest.mark.parametrize(
    ("prediction", "reference", "one", "two", "longest"),
    [
        ("the cat sat", "the cat sat", 1.0, 1.0, 1.0),
        ("the cat sat", "a dog ran", 0.0, 0.0, 0.0),
        ("", "a dog ran", 0.0, 0.0, 0.0),
        ("police kill the gunman", "police killed the gunman", 3 / 4, 1 / 3, 3 / 4),
        ("the gunman kill police", "police killed the gunman", 3 / 4, 1 / 3, 2 / 4),
        ("the the the", "the cat", 2 / 5, 0.0, 2 / 5),
        ("Hello, World!", "hello world", 1.0, 1.0, 1.0),
        ("два три", "два четыре", 1 / 2, 0.0, 1 / 2),
    ],
)
def test_rouge_counts_words_pairs_of_words_and_the_longest_common_subsequence(
    prediction: str, reference: str, one: float, two: float, longest: float
) -> None:
    """Police and gunman are Lin's own example (2004, section 3.1)."""
    assert rouge([prediction], [reference]) == pytest.approx(
        {"evalRouge1": one, "evalRouge2": two, "evalRougeL": longest}
    )


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        (
            "It's 3.5 km from the old mill to the new_mill, isn't it?",
            "It is 3.5 km from the new mill to the old one.",
            (0.758621, 0.666667, 0.620690),
        ),
        ("def add(a, b):\n    return a + b", "def add(x, y):\n    return x + y", (0.428571, 0.166667, 0.428571)),
        ("to be or not to be that is the question", "the question is to be or to be not that", (1.0, 0.444444, 0.6)),
        ("No.", "Yes, the parser returns None when the file is empty.", (0.0, 0.0, 0.0)),
    ],
)
def test_rouge_is_that_of_the_rouge_score_package(
    prediction: str, reference: str, expected: tuple[float, float, float]
) -> None:
    """Computed by rouge_score 0.1.2 with use_stemmer=False."""
    assert tuple(rouge([prediction], [reference]).values()) == pytest.approx(expected, abs=1e-6)


def test_rouge_of_several_pairs_is_their_mean() -> None:
    assert rouge(["a b", "c"], ["a b", "d"])["evalRouge1"] == pytest.approx(0.5)


def test_the_longest_common_subsequence_is_that_of_the_textbook() -> None:
    def textbook(left: list[int], right: list[int]) -> int:
        row = [0] * (len(right) + 1)
        for one in left:
            before = row
            row = [0]
            for at, other in enumerate(right):
                row.append(before[at] + 1 if one == other else max(row[at], before[at + 1]))
        return row[-1]

    generator = random.Random(7)
    for _ in range(300):
        left, right = ([generator.randrange(4) for _ in range(generator.randrange(12))] for _ in range(2))
        assert lcs_length(left, right) == textbook(left, right)


def test_exact_matches_do_not_look_at_white_space_around_them() -> None:
    assert exact_match([" yes\n", "no", "Yes"], ["yes", "yes", "yes"]) == pytest.approx(1 / 3)


def test_bleu_is_sacrebleus() -> None:
    """By hand for the second: precisions 3/4, 2/3, 1/2 and, with nothing found, half of 1/1; all lengths are equal."""
    assert measure(Metric.BLEU, ["the cat sat down"], ["the cat sat down"])["evalBleu"] == pytest.approx(100)
    expected = 100 * (3 / 4 * 2 / 3 * 1 / 2 * 1 / 2) ** (1 / 4)
    assert measure(Metric.BLEU, ["the cat sat up"], ["the cat sat down"])["evalBleu"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("metric", "names"),
    [
        (Metric.BLEU, {"evalBleu"}),
        (Metric.ROUGE, {"evalRouge1", "evalRouge2", "evalRougeL"}),
        (Metric.EXACT_MATCH, {"evalExactMatch"}),
    ],
)
def test_a_metric_comes_under_its_names(metric: Metric, names: set[str]) -> None:
    assert set(measure(metric, ["a"], ["a"])) == names


def test_what_can_not_be_measured_is_an_error() -> None:
    with pytest.raises(ValueError, match="not a metric of texts"):
        measure(Metric.PERPLEXITY, ["a"], ["a"])
    with pytest.raises(ValueError, match="nothing to measure"):
        measure(Metric.ROUGE, [], [])
