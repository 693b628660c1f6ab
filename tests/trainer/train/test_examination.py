"""Generated answers: what is asked and written, and that asking leaves no trace in training."""

import json
import logging
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sftjob_contract import layout
from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.reports.outcome import Outcome
from sftjob_contract.run.config import DataFormat, Metric, Precision, RunConfig
from sftjob_contract.run.method import ComputeDtype, LoraBias, Method, Quantization, QuantizationType
from sftjob_contract.run.optimization import Optimizer
from sftjob_trainer.evaluation.generation import Generator, evaluation_mode
from sftjob_trainer.evaluation.prompts import Question, prompt_tokens, questions, read_prompts, save_prompts
from sftjob_trainer.preflight.run_config import problems
from sftjob_trainer.process.errors import StageError
from support.trainer.tiny import lora, run_config
from support.trainer.training import (
    PEFT_IS_BEHIND,
    Finished,
    as_died_after,
    build_trainer,
    documents,
    finish,
    job,
    read_metrics,
    run_train,
    stats_of,
    write_prepared,
)

ALL = (Metric.PERPLEXITY, Metric.BLEU, Metric.ROUGE, Metric.EXACT_MATCH)


def asking(config: RunConfig, **changes: Any) -> RunConfig:
    usual: dict[str, Any] = {"max_new_tokens": 6, "max_samples": 5}
    return replace(config, evaluation=replace(config.evaluation, **{**usual, **changes}))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([-100, -100, 12, 13], Question([10, 11], [12, 13])),
        ([-100, 11, 12, -100], Question([10], [11, 12])),
        ([-100, 11, -100, 13], Question([10], [11])),
        ([10, 11, 12, 13], None),
    ],
)
def test_the_prompt_is_what_comes_before_the_first_trained_token(labels: list[int], expected: Question | None) -> None:
    rows = [{"input_ids": [10, 11, 12, 13], "labels": labels}, {"input_ids": [1, 2], "labels": [-100, 2]}]

    assert questions(rows) == [*([expected] if expected else []), Question([1], [2])]


def test_rows_that_are_trained_as_a_whole_can_not_be_asked() -> None:
    with pytest.raises(StageError, match="the held-out rows have no prompt to answer"):
        questions([{"input_ids": [1, 2], "labels": [1, 2]}])


@pytest.fixture(scope="module")
def examined(qwen2: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A run that is asked for everything, with an evaluation and a checkpoint every second step."""
    config = job(qwen2, max_steps=4, learning_rate=3e-2, evaluate_every=2, save_every=2)
    config = asking(config, metrics=ALL, save_predictions=True, sample_prompts=("open a file", "what does"))
    return finish(tmp_path_factory.mktemp("examined"), config)


def test_metrics_are_told_at_each_evaluation_and_those_of_the_last_are_the_results(examined: Finished) -> None:
    measured = {"evalPerplexity", "evalBleu", "evalRouge1", "evalRouge2", "evalRougeL", "evalExactMatch"}
    metrics = read_metrics(examined.volume)
    results = json.loads((examined.volume / layout.EVAL_RESULTS).read_text())

    for name in measured:
        assert list(metrics.values(name)) == [0, 2, 4]
        assert results[name] == metrics.values(name)[4]
    assert examined.outcome.output is not None
    assert examined.outcome.output.metrics == results


def test_predictions_are_those_of_the_output(examined: Finished) -> None:
    """Asked again of the model that was put out, one row at a time and without a package of ours."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(examined.volume / layout.OUTPUT_MODEL).eval()
    tokenizer = AutoTokenizer.from_pretrained(examined.volume / layout.OUTPUT_MODEL)
    rows = documents(7, seed=2)[:5]
    expected = []
    for ids in rows:
        prompt = torch.tensor([ids[:2]])
        answer = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=6, do_sample=False, eos_token_id=2
        )
        expected.append(
            {
                "prompt": tokenizer.decode(ids[:2]),
                "reference": tokenizer.decode(ids[2:], skip_special_tokens=True).strip(),
                "prediction": tokenizer.decode(answer[0, 2:], skip_special_tokens=True).strip(),
            }
        )

    assert lines(examined.volume / layout.PREDICTIONS) == expected


def test_prompts_are_answered_before_and_after_training(examined: Finished) -> None:
    samples = lines(examined.volume / layout.SAMPLES)

    assert [(line["step"], line["prompt"]) for line in samples] == [
        *((0, "open a file"), (0, "what does")),
        *((4, "open a file"), (4, "what does")),
    ]
    assert [line["answer"] for line in samples[:2]] != [line["answer"] for line in samples[2:]]


def test_an_attempt_that_resumes_keeps_the_answers_before_training(examined: Finished, tmp_path: Path) -> None:
    before = (examined.volume / layout.SAMPLES).read_text().splitlines(keepends=True)
    volume = as_died_after(2, examined, tmp_path / "volume")
    (volume / layout.RESULTS).mkdir()
    (volume / layout.SAMPLES).write_text("".join(before[:2]))

    outcome = run_train(volume, examined.config, attempt=2)

    assert (volume / layout.SAMPLES).read_text() == "".join(before)
    assert_same_output(outcome, examined.outcome)


def assert_same_output(outcome: Outcome, expected: Outcome) -> None:
    """The metrics are equal but for the time that was taken."""
    assert outcome.output is not None
    assert expected.output is not None
    metrics = {**expected.output.metrics, "trainSeconds": outcome.output.metrics["trainSeconds"]}
    assert outcome.output.metrics == pytest.approx(metrics, abs=1e-6)


@PEFT_IS_BEHIND
@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"method": lora(dropout=0.3)}, id="LoRA with dropout"),
        pytest.param({"gradient_checkpointing": True, "neftune_noise_alpha": 5.0}, id="checkpointing, noise"),
        pytest.param({"packing": True, "optimizer": Optimizer.ADAMW_TORCH_FUSED}, id="packed"),
    ],
)
def test_asking_leaves_no_trace_in_training(qwen2: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    """Every loss to the last bit: random numbers, modes and caches are as if nothing had been generated."""
    config = job(qwen2, max_steps=5, evaluate_every=1, learning_rate=1e-2, **options)
    plain = read_metrics(finish(tmp_path / "plain", config).volume)
    config = asking(config, metrics=ALL, save_predictions=True, sample_prompts=("open",))
    asked = read_metrics(finish(tmp_path / "asked", config).volume)

    for name in ("loss", "gradNorm", "evalLoss"):
        assert asked.values(name) == plain.values(name)


def test_whoever_asks_finds_mode_and_random_numbers_as_before(qwen2: Path, tmp_path: Path) -> None:
    import torch

    model = build_trainer(tmp_path, job(qwen2, max_steps=1)).model
    for training in (True, False):
        model.train(training)
        state = torch.random.get_rng_state()
        with evaluation_mode(model):
            assert not model.training
            assert not torch.is_grad_enabled()
            torch.rand(3)
        assert model.training is training
        assert torch.equal(torch.random.get_rng_state(), state)


def generator(qwen2: Path, tmp_path: Path, **changes: Any) -> Generator:
    trainer = build_trainer(tmp_path, job(qwen2, max_steps=1))
    usual: dict[str, Any] = {
        "model": trainer.model,
        "tokenizer": trainer.processing_class,
        "max_new_tokens": 5,
        "batch_size": 2,
        "is_interrupted": lambda: False,
    }
    return Generator(**{**usual, **changes})


def test_answers_do_not_depend_on_what_else_is_in_the_batch(qwen2: Path, tmp_path: Path) -> None:
    prompts = [[5, 6, 7], [9], list(range(3, 30)), [40, 41], [50]]

    found = [generator(qwen2, tmp_path / str(size), batch_size=size).answers(prompts) for size in (1, 2, 5)]

    assert found[0] == found[1] == found[2]
    assert found[0] is not None
    assert len(found[0]) == 5


def test_an_answer_ends_before_the_token_that_closes_it(
    qwen2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tokenizer's end of sequence, or one that the model came with: chat models often have two."""
    import torch

    made = generator(qwen2, tmp_path)
    made.model.generation_config.eos_token_id = [7, 9]
    answer = torch.tensor([[1, 2, 3, 7, 0, 0], [1, 2, 2, 0, 0, 0], [1, 2, 3, 4, 5, 6]])
    monkeypatch.setattr(made.model, "generate", lambda **_options: answer)

    assert list(made._batch([[1, 2], [1, 2], [1, 2]])) == [[3], [], [3, 4, 5, 6]]


def test_an_answer_stays_within_the_positions_of_the_model(qwen2: Path, tmp_path: Path) -> None:
    (answer,) = generator(qwen2, tmp_path, max_new_tokens=50).answers([[5] * 500]) or []

    assert 0 < len(answer) <= 12


def test_a_stop_request_breaks_off_between_batches(qwen2: Path, tmp_path: Path) -> None:
    asked = iter([False, True])

    assert generator(qwen2, tmp_path, is_interrupted=lambda: next(asked)).answers([[5], [6], [7]]) is None


def test_a_run_that_is_stopped_while_asking_makes_up_for_it_later(
    examined: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_prepared(tmp_path, examined.config)
    original, calls = Generator.answers, iter(range(99))

    def answers(self: Generator, prompts: Any) -> Any:
        if next(calls) == 2:  # the prompts and the first evaluation came before
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, prompts)

    monkeypatch.setattr(Generator, "answers", answers)

    stopped = run_train(tmp_path, examined.config)
    again = run_train(tmp_path, examined.config, attempt=2)

    assert stopped.exit_code is ExitCode.RETRY
    assert stopped.progress is not None
    assert (stopped.progress.step, len(stopped.progress.checkpoints)) == (2, 1)
    assert_same_output(again, examined.outcome)
    assert list(read_metrics(tmp_path).values("evalBleu")) == [0, 2, 4]


def test_prompts_are_a_users_turn_where_the_data_are_conversations(qwen2: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(qwen2)
    config = asking(run_config(model="m", dataset="d"), sample_prompts=("hello",))
    stats = stats_of()

    (plain,) = prompt_tokens(config, stats, tokenizer)
    (chat,) = prompt_tokens(config, replace(stats, format=DataFormat.MESSAGES), tokenizer)

    assert tokenizer.decode(plain) == "hello"
    assert tokenizer.decode(chat) == "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("changes", "name"),
    [({"metrics": (Metric.PERPLEXITY,)}, "evaluation.metrics"), ({"save_predictions": True}, "evaluation.savePred")],
)
def test_metrics_need_held_out_data(changes: dict[str, Any], name: str) -> None:
    config = asking(run_config(model="m", dataset="d"), **changes)

    (problem,) = problems(config)

    assert problem.startswith(name)
    assert "needs held-out data: set dataset.evaluation" in problem


def test_prompts_are_answered_without_held_out_data_too(qwen2: Path, tmp_path: Path) -> None:
    config = asking(job(qwen2, max_steps=2), sample_prompts=("open",))
    write_prepared(tmp_path, config, held_out=0)

    assert run_train(tmp_path, config).exit_code is ExitCode.DONE
    assert [line["step"] for line in lines(tmp_path / layout.SAMPLES)] == [0, 2]


def held_out(*rows: tuple[list[int], list[int]]) -> Any:
    import pyarrow as pa

    return pa.table({"input_ids": [ids for ids, _ in rows], "labels": [labels for _, labels in rows]})


ASKED = ([10, 11, 12, 13], [-100, -100, 12, 13])
WHOLE = ([10, 11, 12, 13, 14], [10, 11, 12, 13, 14])
LONG = (list(range(100)), list(range(100)))
TOO_SHORT = ([10], [10])


@pytest.mark.parametrize(
    ("rows", "options", "expected"),
    [
        pytest.param((ASKED, WHOLE), {}, [Question([10, 11], [12, 13]), Question([10, 11], [12, 13, 14])], id="both"),
        pytest.param((LONG,), {}, [Question(list(range(32)), list(range(32, 100)))], id="the beginning of a text"),
        pytest.param((TOO_SHORT, ASKED), {}, [Question([10, 11], [12, 13])], id="one token has no beginning"),
        pytest.param((ASKED,) * 5, {}, [Question([10, 11], [12, 13])] * 3, id="three"),
        pytest.param((ASKED,) * 5, {"held_out_prompts": 4}, [Question([10, 11], [12, 13])] * 4, id="four"),
        pytest.param((ASKED,), {"held_out_prompts": 0}, [], id="none are wanted"),
        pytest.param((ASKED,), {"sample_prompts": ("why?",)}, [], id="the user has prompts"),
    ],
)
def test_the_first_held_out_prompts_are_kept_for_training(
    rows: tuple[tuple[list[int], list[int]], ...], options: dict[str, Any], expected: list[Question], tmp_path: Path
) -> None:
    (tmp_path / layout.PREPARED).mkdir()
    save_prompts(held_out(*rows), replace(run_config(model="m", dataset="d").evaluation, **options), tmp_path)

    assert read_prompts(tmp_path) == expected


def with_prompts(volume: Path, model: Path, **options: Any) -> RunConfig:
    """A volume as Prepare leaves it for a run that is asked for nothing, with three held-out prompts."""
    config = asking(job(model, max_steps=2, learning_rate=3e-2, **options))
    write_prepared(volume, config)
    save_prompts(held_out(*[(ids, [-100, -100, *ids[2:]]) for ids in documents(4, seed=2)]), config.evaluation, volume)
    return config


def test_held_out_prompts_are_answered_before_and_after_training_and_the_log_ends_with_a_summary(
    qwen2: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = with_prompts(tmp_path, qwen2, logging_steps=1)

    with caplog.at_level(logging.INFO):
        outcome = run_train(tmp_path, config)

    assert outcome.exit_code == ExitCode.DONE
    samples = lines(tmp_path / layout.SAMPLES)
    assert [line["step"] for line in samples] == [0, 0, 0, 2, 2, 2]
    assert [line["prompt"] for line in samples[:3]] == [line["prompt"] for line in samples[3:]]
    assert all(line["reference"] and "answer" in line for line in samples)
    logged = [record.getMessage() for record in caplog.records]
    assert [line.split(":")[0] for line in logged if line.startswith("step ")] == [
        "step 1 of 2, epoch 0.08",
        "step 2 of 2, epoch 0.17",
    ]
    assert [line.split(":")[0] for line in logged[-4:-2]] == ["trainable params", "final losses"]
    assert logged[-1] == f"output: {tmp_path}/output/model"


@pytest.mark.parametrize("trouble", ["no time", "a model that cannot generate"])
def test_held_out_prompts_cost_bounded_time_and_never_a_run(
    trouble: str, qwen2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if trouble == "no time":
        monkeypatch.setattr("sftjob_trainer.evaluation.generated_samples.SAMPLING_SECONDS", 0)
    else:
        monkeypatch.setattr("transformers.Qwen2ForCausalLM.generate", _cannot)

    outcome = run_train(tmp_path, with_prompts(tmp_path, qwen2))

    assert outcome.exit_code == ExitCode.DONE
    if trouble == "no time":
        assert all(len(line["answer"].split()) <= 1 for line in lines(tmp_path / layout.SAMPLES))
    else:
        assert "no sample answers were generated: NotImplementedError: recurrent" in caplog.text
        assert not (tmp_path / layout.SAMPLES).exists()


def _cannot(*_: Any, **__: Any) -> None:
    raise NotImplementedError("recurrent")


NF4 = Quantization(bits=4, type=QuantizationType.NF4, double_quantization=True, compute_dtype=ComputeDtype.FLOAT32)


@PEFT_IS_BEHIND
@pytest.mark.parametrize(
    ("method", "precision"),
    [
        pytest.param(lora(modules_to_save=("embed_tokens", "lm_head")), Precision.BF16, id="whole modules"),
        pytest.param(lora(bias=LoraBias.ALL, modules_to_save=("norm",)), Precision.BF16, id="biases and norms"),
        pytest.param(lora(quantization=NF4, modules_to_save=("lm_head",)), Precision.FP32, id="QLoRA"),
    ],
)
def test_answers_are_generated_where_what_is_trained_has_another_dtype_than_the_rest(
    llama: Path, tmp_path: Path, method: Method, precision: Precision
) -> None:
    config = asking(job(llama, method=method, precision=precision, max_steps=1), metrics=(Metric.EXACT_MATCH,))

    run = finish(tmp_path, config)

    assert run.outcome.exit_code is ExitCode.DONE, run.outcome.message
    assert run.outcome.output is not None
    assert "evalExactMatch" in run.outcome.output.metrics
