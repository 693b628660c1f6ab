"""Generated answers during a run: metrics and predictions on held-out rows, and answers to the user's own prompts."""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from sftjob_contract import layout
from sftjob_contract.config import Metric, RunConfig
from sftjob_contract.progress import Activity
from sftjob_contract.stats import PreparedStats
from sftjob_trainer.durable import write_atomically
from sftjob_trainer.generation import Generator
from sftjob_trainer.metrics import measure
from sftjob_trainer.questions import TEXT_METRICS, Question, prompt_tokens, read_prompts
from sftjob_trainer.run import Run
from sftjob_trainer.telemetry import perplexity

logger = logging.getLogger(__name__)

SAMPLING_SECONDS: Final = 60
SAMPLED_TOKENS: Final = 64
"""Bounds of what is generated for held-out prompts that nobody asked for."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A prompt as tokens and as people read it; `known` has the `reference` where it is a held-out row's."""

    tokens: Sequence[int]
    prompt: str
    known: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Examination:
    """What is asked of the model: `questions` with known answers at each evaluation, `samples` before and after."""

    run: Run
    generator: Generator
    questions: Sequence[Question]
    samples: Sequence[Sample]

    def measured(self, loss: float) -> Mapping[str, float] | None:
        """The metrics that were asked for, at an evaluation with this loss; None when it was broken off.

        With save_predictions, the answers that belong to the output so far are left in the results.
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
        if evaluation.save_predictions and self.run.is_output(loss) and self.run.world.leads:
            self._write_predictions(answers, references)
        return metrics

    def sample(self, step: int) -> bool:
        """Answer the prompts after `step`, into the results; False when it was broken off.

        Answers before training (step 0) stay, those of a later step replace one another.
        """
        if not self.samples:
            return True
        if not self.run.config.evaluation.sample_prompts:
            self._sample_held_out(step)
            return True
        answers = self._answers([sample.tokens for sample in self.samples])
        if answers is not None and self.run.world.leads:
            self._write_samples(step, answers)
        return answers is not None

    def _sample_held_out(self, step: int) -> None:
        """Answer held-out prompts, which nobody asked for: in bounded time, and no failure of it ends the run.

        Only the leader does, so that no process waits for a request to stop.
        """
        self.run.doing(Activity.EVALUATING)
        if not self.run.world.leads:
            return
        given, due = self.generator, time.monotonic() + SAMPLING_SECONDS
        generator = replace(
            given,
            max_new_tokens=min(given.max_new_tokens, SAMPLED_TOKENS),
            hurried=lambda: given.hurried() or time.monotonic() > due,
        )
        found = generator.tried([sample.tokens for sample in self.samples])
        if found is not None and not given.hurried():
            self._write_samples(step, [self._text(answer) for answer in found])
            logger.info("answers to %d held-out prompts after step %d: %s", len(found), step, layout.SAMPLES)

    def _write_samples(self, step: int, answers: Sequence[str]) -> None:
        path = self.run.volume / layout.SAMPLES
        kept = [line for line in _lines(path) if line["step"] == 0] if step else []
        new = [
            {"step": step, "prompt": sample.prompt, **sample.known, "answer": answer}
            for sample, answer in zip(self.samples, answers, strict=True)
        ]
        write_atomically(path, _json_lines([*kept, *new]))

    def _answers(self, prompts: Sequence[Sequence[int]]) -> list[str] | None:
        self.run.doing(Activity.EVALUATING)
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
    """The user's sample prompts, else those of held-out rows that Prepare left on the volume."""
    if config.evaluation.sample_prompts:
        tokens = prompt_tokens(config, stats, tokenizer)
        return [
            Sample(tokens=one, prompt=two) for one, two in zip(tokens, config.evaluation.sample_prompts, strict=True)
        ]
    return [
        Sample(
            tokens=question.prompt,
            prompt=tokenizer.decode(question.prompt),
            known={"reference": tokenizer.decode(question.answer, skip_special_tokens=True).strip()},
        )
        for question in read_prompts(volume)
    ]


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _json_lines(lines: Sequence[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
