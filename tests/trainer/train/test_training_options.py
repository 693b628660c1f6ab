"""Options of the training loop: optimizers, schedules, accumulation, packing, noise."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sftjob_contract.run.config import PackingStrategy, Precision
from sftjob_contract.run.optimization import Optimizer, Scheduler
from sftjob_trainer.run.sft_config import sft_arguments
from support.trainer.optimizers import INSTALLED
from support.trainer.tiny import run_config
from support.trainer.training import build_trainer, documents, finish, job, read_metrics, stats_of

PAGED_ON_A_CPU = pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU:UserWarning")


QUICK = (
    *(Optimizer.ADAMW_TORCH, Optimizer.ADAMW_8BIT, Optimizer.PAGED_ADAMW_8BIT),
    *(Optimizer.LION_32BIT, Optimizer.ADAFACTOR, Optimizer.SGD),
)


@PAGED_ON_A_CPU
@pytest.mark.parametrize(
    "optimizer", [pytest.param(one, marks=() if one in QUICK else pytest.mark.slow, id=one) for one in INSTALLED]
)
def test_every_optimizer_learns_on_the_cpu_and_is_the_one_asked_for(
    qwen2: Path, tmp_path: Path, optimizer: Optimizer
) -> None:
    """A sign-based update needs a smaller step than Adam's, plain gradient descent a larger one."""
    rate = 0.5 if optimizer is Optimizer.SGD else 1e-3 if "lion" in optimizer else 1e-2
    run = finish(tmp_path, job(qwen2, optimizer=optimizer, max_steps=4, learning_rate=rate, warmup_ratio=None))

    assert run.outcome.output is not None
    assert run.outcome.output.metrics["evalLoss"] < run.outcome.output.metrics["initialEvalLoss"] - 0.01


@PAGED_ON_A_CPU
@pytest.mark.parametrize(
    ("optimizer", "kind"),
    [
        (Optimizer.ADAMW_TORCH, "AdamW"),
        (Optimizer.ADAMW_TORCH_FUSED, "AdamW"),
        (Optimizer.ADAMW_8BIT, "AdamW"),
        (Optimizer.PAGED_ADAMW_32BIT, "AdamW"),
        (Optimizer.PAGED_ADAMW_8BIT, "AdamW"),
        (Optimizer.LION_8BIT, "Lion"),
        (Optimizer.PAGED_LION_8BIT, "Lion"),
        (Optimizer.ADAFACTOR, "Adafactor"),
        (Optimizer.SGD, "SGD"),
        (Optimizer.ADAMW_BNB_8BIT, "AdamW"),
        (Optimizer.LION_32BIT, "Lion"),
        (Optimizer.PAGED_LION_32BIT, "Lion"),
        (Optimizer.ADEMAMIX, "AdEMAMix"),
        (Optimizer.ADEMAMIX_8BIT, "AdEMAMix"),
        (Optimizer.PAGED_ADEMAMIX_32BIT, "AdEMAMix"),
        (Optimizer.PAGED_ADEMAMIX_8BIT, "AdEMAMix"),
        (Optimizer.ADAGRAD, "Adagrad"),
        (Optimizer.RMSPROP, "RMSprop"),
        (Optimizer.RMSPROP_BNB, "RMSprop"),
        (Optimizer.RMSPROP_BNB_8BIT, "RMSprop"),
        (Optimizer.RMSPROP_BNB_32BIT, "RMSprop"),
    ],
)
def test_optimizers_are_those_of_the_name(qwen2: Path, tmp_path: Path, optimizer: Optimizer, kind: str) -> None:
    found = build_trainer(tmp_path, job(qwen2, optimizer=optimizer, max_steps=2)).create_optimizer()

    assert type(found).__name__ == kind
    assert ("bitsandbytes" in type(found).__module__) == optimizer.is_of_bitsandbytes
    assert getattr(found, "is_paged", False) == optimizer.value.startswith("paged")
    if optimizer.is_of_bitsandbytes:
        assert found.args.optim_bits == (8 if "8bit" in optimizer.value else 32)


PEAK, WARMUP, STEPS = 1e-2, 3, 12


def falling(shape: Callable[[float], float]) -> Callable[[int], float]:
    """A schedule that falls as `shape` does from 0 to 1 of the way after the warmup."""
    return lambda done: shape((done - WARMUP) / (STEPS - WARMUP))


@pytest.mark.parametrize(
    ("scheduler", "options", "factor"),
    [
        (Scheduler.LINEAR, {}, falling(lambda way: 1 - way)),
        (Scheduler.COSINE, {}, falling(lambda way: 0.5 * (1 + math.cos(math.pi * way)))),
        (
            Scheduler.COSINE_WITH_RESTARTS,
            {"num_cycles": 3},
            falling(lambda way: 0.5 * (1 + math.cos(math.pi * ((3 * way) % 1)))),
        ),
        (
            Scheduler.POLYNOMIAL,
            {"power": 2.0, "lr_end": 1e-3},
            falling(lambda way: (1 - 0.1) * (1 - way) ** 2 + 0.1),
        ),
        (
            Scheduler.COSINE_WITH_MIN_LR,
            {"min_lr": 1e-3},
            falling(lambda way: 0.1 + (1 - 0.1) * 0.5 * (1 + math.cos(math.pi * way))),
        ),
        (Scheduler.INVERSE_SQRT, {}, lambda done: 1 / math.sqrt(done / WARMUP)),
        (Scheduler.CONSTANT_WITH_WARMUP, {}, lambda _done: 1.0),
    ],
)
def test_the_learning_rate_follows_its_formula(
    qwen2: Path, tmp_path: Path, scheduler: Scheduler, options: dict[str, Any], factor: Callable[[int], float]
) -> None:
    config = job(
        qwen2,
        scheduler=scheduler,
        max_steps=STEPS,
        learning_rate=PEAK,
        warmup_ratio=None,
        warmup_steps=WARMUP,
        extra={"lr_scheduler_kwargs": options} if options else {},
    )

    rates = rates_of(build_trainer(tmp_path, config), STEPS)

    assert rates == pytest.approx(expected_rates(factor), abs=1e-12)


def rates_of(trainer: Any, steps: int) -> dict[int, float]:
    """The learning rate of each step, as transformers makes it."""
    trainer.create_optimizer_and_scheduler(steps)
    rates = {}
    for step in range(1, steps + 1):
        [rates[step]] = set(trainer.lr_scheduler.get_last_lr())
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
    return rates


def expected_rates(factor: Callable[[int], float]) -> dict[int, float]:
    return {
        step: PEAK * (done / WARMUP if (done := step - 1) < WARMUP else factor(done)) for step in range(1, STEPS + 1)
    }


def test_the_steps_of_a_run_have_the_rates_of_the_schedule(qwen2: Path, tmp_path: Path) -> None:
    config = job(
        qwen2,
        scheduler=Scheduler.LINEAR,
        max_steps=STEPS,
        learning_rate=PEAK,
        warmup_ratio=None,
        warmup_steps=WARMUP,
    )

    rates = read_metrics(finish(tmp_path, config).volume).values("learningRate")

    assert rates == pytest.approx(expected_rates(falling(lambda way: 1 - way)), abs=1e-12)


@pytest.mark.parametrize(
    ("scheduler", "options", "factors"),
    [
        (Scheduler.COSINE_WARMUP_WITH_MIN_LR, {"min_lr_rate": 0.1}, (0.5, 1.0, 0.55, 0.1)),
        (
            Scheduler.WARMUP_STABLE_DECAY,
            {"num_decay_steps": 4, "decay_type": "linear", "min_lr_ratio": 0.2},
            (0.2, 0.6, 1.0, 1.0, 1.0, 0.8, 0.6, 0.4),
        ),
    ],
)
def test_a_schedule_that_does_not_begin_at_0_has_its_own_rates(
    qwen2: Path, tmp_path: Path, scheduler: Scheduler, options: dict[str, Any], factors: tuple[float, ...]
) -> None:
    config = job(
        qwen2,
        scheduler=scheduler,
        max_steps=len(factors),
        learning_rate=PEAK,
        warmup_ratio=None,
        warmup_steps=2,
        extra={"lr_scheduler_kwargs": options},
    )

    rates = rates_of(build_trainer(tmp_path, config), len(factors))

    assert rates == pytest.approx({step: PEAK * factor for step, factor in enumerate(factors, start=1)})


def test_the_learning_rate_of_a_constant_schedule_is_constant(qwen2: Path, tmp_path: Path) -> None:
    config = job(qwen2, scheduler=Scheduler.CONSTANT, max_steps=3, learning_rate=PEAK, warmup_ratio=None)

    assert set(read_metrics(finish(tmp_path, config).volume).values("learningRate").values()) == {PEAK}


def test_eight_small_batches_are_the_same_step_as_one_large(qwen2: Path, tmp_path: Path) -> None:
    """Rows differ in length, so a mean of batch means would not be the mean over all tokens."""
    found = []
    for batch, accumulation in ((8, 1), (1, 8)):
        config = job(
            qwen2,
            per_device_batch_size=batch,
            gradient_accumulation_steps=accumulation,
            epochs=2.0,
            learning_rate=1e-2,
        )
        found.append(read_metrics(finish(tmp_path / str(batch), config).volume))

    for name in ("loss", "gradNorm", "evalLoss"):
        large, small = (metrics.values(name) for metrics in found)
        assert len(large) > 2
        assert small == pytest.approx(large, abs=1e-5)


def test_noise_on_the_embeddings_is_there_while_training_only(qwen2: Path, tmp_path: Path) -> None:
    """NEFTune: uniform noise of at most alpha / sqrt(tokens * width) on each embedding (Jain et al. 2023)."""
    from transformers import TrainerCallback

    noises: list[tuple[bool, float]] = []

    def seen(module: Any, inputs: Any, output: Any) -> None:
        noise = (output - module.weight[inputs[0]]).detach().abs().max()
        bound = 5.0 / math.sqrt(output.shape[1] * output.shape[2])
        noises.append((module.training, float(noise) / bound))

    class Listening(TrainerCallback):  # type: ignore[misc]  # transformers is Any to mypy
        def on_train_begin(self, *_args: Any, model: Any, **_kwargs: Any) -> None:
            model.get_input_embeddings().register_forward_hook(seen)

    trainer = build_trainer(tmp_path, job(qwen2, neftune_noise_alpha=5.0, max_steps=2))
    trainer.add_callback(Listening())
    trainer.train()

    assert {training for training, _ in noises} == {True, False}
    assert all(0.9 < noise <= 1 + 1e-4 if training else noise == 0 for training, noise in noises)


def test_a_run_with_noise_still_evaluates_without(qwen2: Path, tmp_path: Path) -> None:
    losses = [
        read_metrics(finish(tmp_path / str(alpha), job(qwen2, neftune_noise_alpha=alpha, max_steps=2)).volume)
        for alpha in (None, 5.0)
    ]

    assert losses[0].values("evalLoss")[0] == losses[1].values("evalLoss")[0]
    assert losses[0].values("loss") != losses[1].values("loss")


@pytest.mark.filterwarnings("ignore:`label_smoothing_factor` is deprecated:FutureWarning")
@pytest.mark.parametrize("packing", [False, True])
def test_labels_are_smoothed_in_training_and_not_in_evaluations(qwen2: Path, tmp_path: Path, packing: bool) -> None:
    """(1 - e) times the cross entropy, plus e times the mean over the vocabulary (Szegedy et al. 2016)."""
    from torch.nn import functional

    config = job(qwen2, packing=packing, max_steps=2, extra={"label_smoothing_factor": 0.2})
    trainer = build_trainer(tmp_path, config)
    batch = next(iter(trainer.get_train_dataloader()))
    model = trainer.model.eval()
    given = {name: value for name, value in batch.items() if name != "labels"}
    logits = model(**given, use_cache=False).logits.detach()
    labels = batch["labels"][:, 1:]
    surprise = -functional.log_softmax(logits[:, :-1][labels != -100], -1)
    plain = surprise.gather(-1, labels[labels != -100][:, None]).mean()
    smoothed = 0.8 * plain + 0.2 * surprise.mean()

    found = {}
    for mode in (True, False):
        model.train(mode)
        found[mode] = float(trainer.compute_loss(model, dict(batch)).detach())

    assert found == pytest.approx({True: float(smoothed), False: float(plain)}, abs=1e-5)
    assert abs(smoothed - plain) > 1e-3


def test_a_run_on_wrapped_sequences_trains_on_every_token(qwen2: Path, tmp_path: Path) -> None:
    config = job(
        qwen2, packing=True, packing_strategy=PackingStrategy.WRAPPED, max_length=16, max_steps=4, learning_rate=1e-2
    )
    trainer = build_trainer(tmp_path / "batches", config)
    batches = list(trainer.get_train_dataloader())
    seen = sorted(token for batch in batches for token in batch["input_ids"][batch["attention_mask"].bool()].tolist())

    assert seen == sorted(token for ids in documents(24, seed=1) for token in ids)
    assert {batch["input_ids"].shape for batch in batches[:-1]} == {(2, 16)}
    outcome = finish(tmp_path / "run", config).outcome
    assert outcome.output is not None
    assert outcome.output.metrics["evalLoss"] < outcome.output.metrics["initialEvalLoss"]


def test_the_order_of_the_data_is_that_of_the_shuffle_seed_whatever_the_seed_of_the_run(
    qwen2: Path, tmp_path: Path
) -> None:
    def order(name: str, *, seed: int, shuffle_seed: int) -> list[list[int]]:
        config = job(qwen2, seed=seed)
        config = replace(config, dataset=replace(config.dataset, shuffle_seed=shuffle_seed))
        batches = build_trainer(tmp_path / name, config).get_train_dataloader()
        return [row for batch in batches for row in batch["input_ids"].tolist()]

    first = order("first", seed=1, shuffle_seed=7)
    assert order("second", seed=2, shuffle_seed=7) == first
    assert order("third", seed=1, shuffle_seed=8) != first


@pytest.mark.parametrize("enabled", [True, False])
def test_compiling_is_passed_on(tmp_path: Path, enabled: bool) -> None:
    config = run_config(model="m", dataset="d", compile=enabled)

    made = sft_arguments(config, stats_of(), output_dir=tmp_path, precision=Precision.FP32)

    assert made["torch_compile"] is enabled


@pytest.mark.parametrize(
    ("precision", "flags"),
    [(Precision.BF16, (True, False)), (Precision.FP16, (False, True)), (Precision.FP32, (False, False))],
)
def test_precision_and_kernels_are_passed_on(tmp_path: Path, precision: Precision, flags: tuple[bool, bool]) -> None:
    config = run_config(model="m", dataset="d")

    made = sft_arguments(config, stats_of(), output_dir=tmp_path, precision=precision, liger=True)

    assert (made["bf16"], made["fp16"]) == flags
    assert made["use_liger_kernel"] is True
