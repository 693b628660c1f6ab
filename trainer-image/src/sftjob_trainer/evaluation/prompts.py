"""Held-out rows as questions with a known answer, for metrics that compare texts."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from sftjob_contract import layout
from sftjob_contract.reasons import Reason
from sftjob_contract.reports.stats import PreparedStats
from sftjob_contract.run.config import HELD_OUT_PROMPTS, Evaluation, Metric, RunConfig
from sftjob_trainer.process.atomic_files import sync_tree, write_atomically
from sftjob_trainer.process.errors import StageError
from sftjob_trainer.tokens.label_report import CHATS
from sftjob_trainer.tokens.tokenizer import NOT_TRAINED, text_tokens

TEXT_METRICS: Final = (Metric.BLEU, Metric.ROUGE, Metric.EXACT_MATCH)
"""Metrics that need generated answers."""
_LONGEST_BEGINNING: Final = 32


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt and its answer, in tokens."""

    prompt: Sequence[int]
    answer: Sequence[int]


def needs_answers(evaluation: Evaluation) -> bool:
    """Whether answers to held-out rows are generated."""
    return evaluation.save_predictions or any(metric in TEXT_METRICS for metric in evaluation.metrics)


def save_questions(table: Any | None, evaluation: Evaluation, volume: Path) -> None:
    """Save the first held-out rows on the volume before packing, if answers will be generated.

    Raises:
        StageError: no row can serve as a question.
    """
    if table is None or not needs_answers(evaluation):
        return
    from datasets import Dataset

    rows = Dataset(table.slice(0, evaluation.max_samples).select(["input_ids", "labels"]), fingerprint="samples")
    questions(rows)
    rows.save_to_disk(volume / layout.PREPARED_SAMPLES)
    sync_tree(volume / layout.PREPARED_SAMPLES)


def save_prompts(table: Any | None, evaluation: Evaluation, volume: Path) -> None:
    """Save the prompts of the first held-out rows on the volume, unless the user has prompts or disabled these."""
    wanted = HELD_OUT_PROMPTS if evaluation.held_out_prompts is None else evaluation.held_out_prompts
    if table is None or evaluation.sample_prompts or not wanted:
        return
    rows = table.slice(0, wanted).select(["input_ids", "labels"]).to_pylist()
    found = [question for row in rows if (question := _prompt(row["input_ids"], row["labels"])) is not None]
    write_atomically(volume / layout.PREPARED_PROMPTS, json.dumps([asdict(question) for question in found]))


def read_prompts(volume: Path) -> list[Question]:
    """The prompts saved by save_prompts; empty if there were none."""
    path = volume / layout.PREPARED_PROMPTS
    return [Question(**found) for found in json.loads(path.read_bytes())] if path.exists() else []


def _prompt(ids: Sequence[int], labels: Sequence[int]) -> Question | None:
    """The prompt of a row; for a row that is trained as a whole, its beginning."""
    start = min(_LONGEST_BEGINNING, len(ids) // 2)
    whole = Question(prompt=list(ids[:start]), answer=list(ids[start:])) if start else None
    return _question(ids, labels) or whole


def questions(rows: Iterable[Mapping[str, Any]]) -> list[Question]:
    """The questions in `rows` of `input_ids` and `labels`.

    The prompt is everything before the first trained token; the answer is the trained tokens from there up to the next
    untrained one. A row without a prompt, such as a fully trained text, is not a question.

    Raises:
        StageError: no row is a question.
    """
    found = [question for row in rows if (question := _question(row["input_ids"], row["labels"])) is not None]
    if not found:
        raise StageError(
            Reason.CONFIG_INVALID,
            "evaluation.metrics and evaluation.savePredictions: the held-out rows have no prompt to answer, since "
            "every token is trained on; use rows with a prompt and loss on the answer, or remove bleu, "
            "rouge, exact_match and savePredictions",
        )
    return found


def _question(ids: Sequence[int], labels: Sequence[int]) -> Question | None:
    start = next((position for position, label in enumerate(labels) if label != NOT_TRAINED), 0)
    if start == 0:
        return None
    end = next((position for position in range(start, len(labels)) if labels[position] == NOT_TRAINED), len(labels))
    return Question(prompt=list(ids[:start]), answer=list(ids[start:end]))


def prompt_tokens(config: RunConfig, stats: PreparedStats, tokenizer: Any) -> list[list[int]]:
    """Tokens of the user's sample prompts: rendered as a user's turn for conversation data, else as plain text."""
    chat = (stats.format in CHATS or stats.rendered_rows) and tokenizer.chat_template
    prompts = []
    for prompt in config.evaluation.sample_prompts:
        if chat:
            turn = [{"role": "user", "content": prompt}]
            kwargs = config.model.chat_template_kwargs or {}
            encoded = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=True, **kwargs)
            prompts.append(list(encoded["input_ids"]))
        else:
            prompts += text_tokens(tokenizer, [prompt])
    return prompts
