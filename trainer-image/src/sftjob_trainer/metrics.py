"""How close generated answers come to the held-out ones: BLEU, ROUGE, exact match. Pure."""

import re
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from itertools import pairwise

from sftjob_contract.config import Metric


def measure(metric: Metric, predictions: Sequence[str], references: Sequence[str]) -> Mapping[str, float]:
    """`metric` of `predictions` against one reference each, under the names of the results file.

    BLEU is from 0 to 100, as everybody gives it; the others are from 0 to 1.

    Raises:
        ValueError: `metric` is not one of texts, or there is no text.
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

    Words are runs of letters and digits of any script in lower case, unstemmed. For texts in ASCII that is what the
    rouge_score package computes with use_stemmer=False.
    """
    pairs = [(_words(one), _words(other)) for one, other in zip(predictions, references, strict=True)]
    return {
        "evalRouge1": _mean([_overlap(one, other) for one, other in pairs]),
        "evalRouge2": _mean([_overlap(list(pairwise(one)), list(pairwise(other))) for one, other in pairs]),
        "evalRougeL": _mean([_f1(lcs_length(one, other), len(one), len(other)) for one, other in pairs]),
    }


def exact_match(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Share of predictions that equal their reference but for white space around them."""
    return _mean([float(one.strip() == other.strip()) for one, other in zip(predictions, references, strict=True)])


def lcs_length(left: Sequence[Hashable], right: Sequence[Hashable]) -> int:
    """Length of the longest common subsequence, by bit vectors (Crochemore et al. 2001)."""
    places: dict[Hashable, int] = {}
    for at, item in enumerate(left):
        places[item] = places.get(item, 0) | 1 << at
    everything = (1 << len(left)) - 1
    row = everything
    for item in right:
        matches = row & places.get(item, 0)
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
