"""Answers generated during a run: metrics and predictions on held-out rows, and answers to the sample prompts."""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from sftjob_contract import layout
from sftjob_contract.reports.progress import Activity
from sftjob_contract.reports.stats import PreparedStats
from sftjob_contract.run.config import Metric, RunConfig
from sftjob_trainer.evaluation.generation import Generator
from sftjob_trainer.evaluation.prompts import TEXT_METRICS, Question, prompt_tokens, read_prompts
from sftjob_trainer.evaluation.text_metrics import measure
from sftjob_trainer.process.atomic_files import write_atomically
from sftjob_trainer.reporting.telemetry import perplexity
from sftjob_trainer.run.context import Run

logger = logging.getLogger(__name__)

SAMPLING_SECONDS: Final = 60
SAMPLED_TOKENS: Final = 64
"""Limits on generation for held-out prompts that the user did not configure."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A prompt as tokens and as text; `known` has the `reference` of a held-out row."""

    tokens: Sequence[int]
    prompt: str
    known: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class GenerationEvaluator:
    """Prompts for the model: `questions` with known answers at each evaluation, `samples` before and after training."""

    run: Run
    generator: Generator
    questions: Sequence[Question]
    samples: Sequence[Sample]

    def compute_metrics(self, loss: float) -> Mapping[str, float] | None:
        """The configured metrics at an evaluation with this loss; None if generation was interrupted.

        With save_predictions, the answers that belong to the current output are kept in the results.
        """
        evaluation = self.run.config.evaluation
        metrics: dict[str, float] = {}
        if Metric.PERPLEXITY in evaluation.metrics and (value := perplexity(loss)) is not None:
            metrics["evalPerplexity"] = value
        if not self.questions:
            return metrics
        answers = self._answers([question.prompt for question in self.questions])
        if answers is None:
            return None
        references = [self._text(question.answer) for question in self.questions]
        for metric in evaluation.metrics:
            if metric in TEXT_METRICS:
                metrics.update(measure(metric, answers, references))
        if evaluation.save_predictions and self.run.is_output(loss) and self.run.world.is_leader:
            self._write_predictions(answers, references)
        return metrics

    def sample(self, step: int) -> bool:
        """Write the answers to the prompts after `step` to the results; False if generation was interrupted.

        Answers before training (step 0) are kept. Those of a later step replace those of the step before.
        """
        if not self.samples:
            return True
        if not self.run.config.evaluation.sample_prompts:
            self._sample_held_out(step)
            return True
        answers = self._answers([sample.tokens for sample in self.samples])
        if answers is not None and self.run.world.is_leader:
            self._write_samples(step, answers)
        return answers is not None

    def _sample_held_out(self, step: int) -> None:
        """Answer the default held-out prompts, in bounded time; a failure here never ends the run.

        Only the leader does this, so no process waits for a stop request.
        """
        self.run.set_activity(Activity.EVALUATING)
        if not self.run.world.is_leader:
            return
        configured, deadline = self.generator, time.monotonic() + SAMPLING_SECONDS
        generator = replace(
            configured,
            max_new_tokens=min(configured.max_new_tokens, SAMPLED_TOKENS),
            should_stop_early=lambda: configured.should_stop_early() or time.monotonic() > deadline,
        )
        found = generator.try_answers([sample.tokens for sample in self.samples])
        if found is not None and not configured.should_stop_early():
            self._write_samples(step, [self._text(answer) for answer in found])
            logger.info("answers to %d held-out prompts after step %d: %s", len(found), step, layout.SAMPLES)

    def _write_samples(self, step: int, answers: Sequence[str]) -> None:
        path = self.run.volume / layout.SAMPLES
        untrained_answers = [line for line in _read_lines(path) if line["step"] == 0] if step else []
        new = [
            {"step": step, "prompt": sample.prompt, **sample.known, "answer": answer}
            for sample, answer in zip(self.samples, answers, strict=True)
        ]
        write_atomically(path, _json_lines([*untrained_answers, *new]))

    def _answers(self, prompts: Sequence[Sequence[int]]) -> list[str] | None:
        self.run.set_activity(Activity.EVALUATING)
        found = self.generator.answers(prompts)
        return None if found is None else [self._text(answer) for answer in found]

    def _text(self, tokens: Sequence[int]) -> str:
        text: str = self.generator.tokenizer.decode(tokens, skip_special_tokens=True)
        return text.strip()

    def _write_predictions(self, answers: Sequence[str], references: Sequence[str]) -> None:
        decode = self.generator.tokenizer.decode
        lines = [
            {"prompt": decode(question.prompt), "reference": reference, "prediction": answer}
            for question, reference, answer in zip(self.questions, references, answers, strict=True)
        ]
        write_atomically(self.run.volume / layout.PREDICTIONS, _json_lines(lines))


def samples(config: RunConfig, stats: PreparedStats, tokenizer: Any, volume: Path) -> list[Sample]:
    """The user's sample prompts; without any, those of the held-out rows that Prepare saved on the volume."""
    if config.evaluation.sample_prompts:
        tokens = prompt_tokens(config, stats, tokenizer)
        return [
            Sample(tokens=ids, prompt=text) for ids, text in zip(tokens, config.evaluation.sample_prompts, strict=True)
        ]
    return [
        Sample(
            tokens=question.prompt,
            prompt=tokenizer.decode(question.prompt),
            known={"reference": tokenizer.decode(question.answer, skip_special_tokens=True).strip()},
        )
        for question in read_prompts(volume)
    ]


def _read_lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _json_lines(lines: Sequence[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
