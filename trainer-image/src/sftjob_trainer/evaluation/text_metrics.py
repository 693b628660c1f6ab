"""Similarity of generated answers to the held-out ones: BLEU, ROUGE, exact match. Pure."""

import re
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from itertools import pairwise

from sftjob_contract.run.config import Metric


def measure(metric: Metric, predictions: Sequence[str], references: Sequence[str]) -> Mapping[str, float]:
    """`metric` of `predictions` against one reference each, under the names of the results file.

    BLEU is from 0 to 100, by convention; the others are from 0 to 1.

    Raises:
        ValueError: `metric` does not compare texts, or there are no texts.
    """
    if not predictions:
        raise ValueError("nothing to measure")
    if metric is Metric.BLEU:
        return {"evalBleu": bleu(predictions, references)}
    if metric is Metric.ROUGE:
        return rouge(predictions, references)
    if metric is Metric.EXACT_MATCH:
        return {"evalExactMatch": exact_match(predictions, references)}
    raise ValueError(f"{metric} is not a metric of texts")


def bleu(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Corpus BLEU as sacrebleu computes it by default (4-grams, 13a tokens, exponential smoothing; Post 2018)."""
    from sacrebleu import corpus_bleu

    return float(corpus_bleu(list(predictions), [list(references)]).score)


def rouge(predictions: Sequence[str], references: Sequence[str]) -> Mapping[str, float]:
    """ROUGE-1, ROUGE-2 and ROUGE-L (Lin 2004): F1 scores, averaged over the pairs.

    Words are runs of letters and digits of any script in lower case, unstemmed. For ASCII texts this equals the
    rouge_score package with use_stemmer=False.
    """
    pairs = [
        (_words(prediction), _words(reference)) for prediction, reference in zip(predictions, references, strict=True)
    ]
    return {
        "evalRouge1": _mean([_overlap(prediction, reference) for prediction, reference in pairs]),
        "evalRouge2": _mean(
            [_overlap(list(pairwise(prediction)), list(pairwise(reference))) for prediction, reference in pairs]
        ),
        "evalRougeL": _mean(
            [_f1(lcs_length(prediction, reference), len(prediction), len(reference)) for prediction, reference in pairs]
        ),
    }


def exact_match(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Share of predictions that equal their reference, ignoring surrounding white space."""
    return _mean(
        [
            float(prediction.strip() == reference.strip())
            for prediction, reference in zip(predictions, references, strict=True)
        ]
    )


def lcs_length(left: Sequence[Hashable], right: Sequence[Hashable]) -> int:
    """Length of the longest common subsequence, by bit vectors (Crochemore et al. 2001)."""
    positions: dict[Hashable, int] = {}
    for position, item in enumerate(left):
        positions[item] = positions.get(item, 0) | 1 << position
    everything = (1 << len(left)) - 1
    row = everything
    for item in right:
        matches = row & positions.get(item, 0)
        row = ((row + matches) | (row - matches)) & everything
    return len(left) - row.bit_count()


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())


def _overlap(left: Sequence[Hashable], right: Sequence[Hashable]) -> float:
    common = (Counter(left) & Counter(right)).total()
    return _f1(common, len(left), len(right))


def _f1(common: int, left: int, right: int) -> float:
    """Harmonic mean of common/left and common/right."""
    return 2 * common / (left + right) if common else 0.0


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
