"""How a run that cannot go on ends: with its reason, a sentence, and the last good checkpoint untouched."""

import errno
import math
import os
import re
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sftjob_contract import layout
from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.reasons import Reason
from sftjob_contract.run.optimization import Scheduler
from sftjob_trainer.process.disk import quantity, volume_is_full
from sftjob_trainer.process.errors import StageError
from sftjob_trainer.run.checkpoints import CheckpointStore
from support.trainer.training import Finished, as_died_after, environment, job, read_metrics, run_train, write_prepared


def test_a_run_that_diverges_ends_before_it_saves_nonsense(qwen2: Path, tmp_path: Path) -> None:
    config = job(qwen2, save_every=1, max_steps=9, learning_rate=1e30, warmup_ratio=None, scheduler=Scheduler.CONSTANT)
    write_prepared(tmp_path, config)

    outcome = run_train(tmp_path, config)

    assert (outcome.exit_code, outcome.reason) == (ExitCode.DIVERGED, Reason.DIVERGED)
    assert outcome.message is not None
    assert "training diverged" in outcome.message
    assert "training.learningRate" in outcome.message
    assert outcome.progress is not None
    assert outcome.progress.step == 2
    assert list(read_metrics(tmp_path).values("loss")) == [1]
    assert [found.step for found in outcome.progress.checkpoints] == [1]
    assert not (tmp_path / layout.OUTPUT).exists()


def finite_until(step: int, broken: float) -> Callable[[Any, Any], Any]:
    """A loss, or a gradient, that is `broken` in one step."""
    return lambda state, value: value * broken if state.global_step == step - 1 else value


def break_loss(patch: pytest.MonkeyPatch, value: float) -> None:
    from sftjob_trainer.training.sft_trainer import Trainer

    compute_loss, breaking = Trainer.compute_loss, finite_until(5, value)

    def computed(self: Any, model: Any, *arguments: Any, **options: Any) -> Any:
        loss = compute_loss(self, model, *arguments, **options)
        return breaking(self.state, loss) if self.model.training else loss

    patch.setattr(Trainer, "compute_loss", computed)


def break_gradient(patch: pytest.MonkeyPatch, value: float) -> None:
    from sftjob_trainer.training.sft_trainer import Trainer

    training_step, breaking = Trainer.training_step, finite_until(5, value)

    def trained(self: Any, model: Any, *arguments: Any, **options: Any) -> Any:
        loss = training_step(self, model, *arguments, **options)
        parameter = next(model.parameters())
        parameter.grad = breaking(self.state, parameter.grad)
        return loss

    patch.setattr(Trainer, "training_step", trained)


def break_evaluation(patch: pytest.MonkeyPatch, value: float) -> None:
    from sftjob_trainer.training.sft_trainer import Trainer

    prediction_step, breaking = Trainer.prediction_step, finite_until(5, value)

    def predicted(self: Any, *arguments: Any, **options: Any) -> Any:
        loss, logits, labels = prediction_step(self, *arguments, **options)
        self._loss_sum = breaking(self.state, self._loss_sum)
        return loss, logits, labels

    patch.setattr(Trainer, "prediction_step", predicted)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(
    ("break_", "logging_steps", "told"),
    [
        pytest.param(break_loss, 1, "loss is {} at step 5; ", id="loss"),
        pytest.param(break_loss, 100, "loss is nan at step 6; ", id="loss, found before the save"),
        pytest.param(break_gradient, 1, "grad_norm is {} at step 5; ", id="gradient"),
        pytest.param(break_gradient, 100, "loss is nan at step 6; ", id="gradient, found before the save"),
        pytest.param(break_evaluation, 1, "evaluation loss is {} at step 4; ", id="evaluation loss"),
    ],
)
def test_what_is_no_number_ends_the_run_with_the_last_good_checkpoint_named(
    qwen2: Path,
    tmp_path: Path,
    value: float,
    break_: Callable[[pytest.MonkeyPatch, float], None],
    logging_steps: int,
    told: str,
) -> None:
    """Checkpoints are taken after steps 3, 6 and 9: whatever is saved after the step is found out before that."""
    config = job(qwen2, max_steps=9, save_every=3, evaluate_every=4, logging_steps=logging_steps)
    write_prepared(tmp_path, config)

    with pytest.MonkeyPatch.context() as patch:
        break_(patch, value)
        outcome = run_train(tmp_path, config)

    assert (outcome.exit_code, outcome.reason) == (ExitCode.DIVERGED, Reason.DIVERGED)
    assert outcome.message is not None
    assert outcome.message.startswith(f"training diverged: {told.format(value)}")
    assert outcome.message.endswith("; checkpoints/checkpoint-3 is the last good checkpoint")
    assert [path.name for path in (tmp_path / layout.CHECKPOINTS).iterdir()] == ["checkpoint-3"]


def test_a_gpu_without_memory_ends_the_run_with_what_could_be_lowered(
    qwen2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from sftjob_trainer.training.sft_trainer import Trainer

    def compute_loss(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(Trainer, "compute_loss", compute_loss)
    config = job(qwen2, max_steps=2)
    write_prepared(tmp_path, config, held_out=0)

    outcome = run_train(tmp_path, config)

    assert (outcome.exit_code, outcome.reason) == (ExitCode.GPU_OUT_OF_MEMORY, Reason.GPU_OUT_OF_MEMORY)
    assert outcome.message is not None
    assert outcome.message == (
        "the GPU ran out of memory in the training step after step 0, with up to 2 sequence(s) of at most 64 tokens at "
        "a time (perDeviceBatchSize 2, maxLength 64); lower perDeviceBatchSize or maxLength, or set "
        "training.gradientCheckpointing"
    )


def test_a_volume_that_fills_up_while_saving_leaves_the_last_checkpoint_as_it_was(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_prepared(tmp_path, finished.config)
    synced = os.fsync

    def fsync(descriptor: int) -> None:
        if "checkpoint-8" in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            raise OSError(errno.ENOSPC, "No space left on device")
        synced(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)

    outcome = run_train(tmp_path, finished.config)

    assert (outcome.exit_code, outcome.reason) == (ExitCode.INTERNAL, Reason.DISK_FULL)
    assert outcome.message is not None
    assert re.fullmatch(
        r"the volume is full: saving after step 8 failed \(checkpoints/checkpoint-4 is the last good checkpoint\); "
        r"a checkpoint takes \d+Ki and the volume has \d+[KMG]i free of \d+[KMG]i; "
        r"write storage.size: \d+[KMG]i or more, or keep fewer checkpoints with checkpoints.keep",
        outcome.message,
    )
    assert [path.name for path in (tmp_path / layout.CHECKPOINTS).iterdir()] == ["checkpoint-4"]
    assert CheckpointStore(tmp_path, keep=3).open().step == 4


TORCH_ERRORS = (
    RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598"),
    RuntimeError("basic_ios::clear: iostream error"),
)
"""What torch.save says on a full disk, depending on where it finds out."""


@pytest.mark.parametrize(
    ("error", "free", "saving", "full"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 0, False, True),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), 1 << 40, True, True),
        (OSError(errno.EACCES, "Permission denied"), 0, True, False),
        (RuntimeError("I/O error: No space left on device (os error 28)"), 1 << 40, True, True),
        *((error, 4096, True, True) for error in TORCH_ERRORS),
        *((error, 1 << 40, True, False) for error in TORCH_ERRORS),
        (RuntimeError("shape mismatch"), 0, False, False),
        (ZeroDivisionError(), 0, True, False),
    ],
)
def test_a_full_volume_is_recognized_by_what_each_library_says(
    error: Exception, free: int, saving: bool, full: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _path: SimpleNamespace(free=free))

    assert volume_is_full(error, tmp_path, saving=saving) is full


@pytest.mark.parametrize(
    ("size_bytes", "words"),
    [(0, "0Ki"), (1, "1Ki"), (10 << 10, "10Ki"), ((10 << 20) - 1, "10240Ki"), (10 << 20, "10Mi"), (33 << 30, "33Gi")],
)
def test_sizes_are_written_as_in_a_spec(size_bytes: int, words: str) -> None:
    assert quantity(size_bytes) == words


def test_the_size_that_is_asked_for_has_room_for_all_that_is_kept_at_once(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of three checkpoints are there; another one, the best one, and one that is being written can come on top."""
    volume = as_died_after(8, finished, tmp_path / "volume")
    state = finished.outcome.progress
    assert state is not None
    each = max(found.bytes for found in state.checkpoints)
    monkeypatch.setattr("shutil.disk_usage", lambda _path: SimpleNamespace(free=0, total=50 << 30))

    def broken(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("sftjob_trainer.training.build.fit", broken)
    outcome = run_train(volume, finished.config)

    assert outcome.message is not None
    assert f"write storage.size: {quantity((50 << 30) + 3 * each)} or more" in outcome.message


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "{volume}/checkpoints/x"), "the volume may not be used"),
        (OSError(errno.EROFS, "Read-only file system", "{volume}/checkpoints/x"), "the volume is mounted read-only"),
        (OSError(errno.EROFS, "Read-only file system", "/.cache/of-a-library"), None),
        (PermissionError(errno.EACCES, "Permission denied", "/what/a/library/may/not/write"), None),
        (PermissionError(errno.EPERM, "Operation not permitted"), None),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "/mnt/x"), None),
    ],
)
def test_a_file_that_is_denied_is_told_and_nothing_else_is_taken_for_it(
    qwen2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, told: str | None
) -> None:
    config = job(qwen2, max_steps=1)
    write_prepared(tmp_path, config)
    name = None if error.filename is None else error.filename.format(volume=tmp_path)

    def broken(*_: object) -> None:
        raise OSError(error.errno, error.strerror, name) if name else error

    monkeypatch.setattr("sftjob_trainer.training.build.fit", broken)
    if told is None:
        with pytest.raises(OSError, match=error.strerror):
            run_train(tmp_path, config)
        return
    outcome = run_train(tmp_path, config)

    assert (outcome.exit_code, outcome.reason) == (ExitCode.NOT_FOUND, Reason.ACCESS_DENIED)
    assert told in (outcome.message or "")
    assert outcome.progress is not None


def test_without_prepared_data_the_stage_says_so(qwen2: Path, tmp_path: Path) -> None:
    with pytest.raises(StageError, match="the Prepare stage must run first") as failure:
        run_train(tmp_path, job(qwen2, max_steps=1))

    assert failure.value.exit_code is ExitCode.INTERNAL


def test_a_fault_of_ours_is_not_dressed_up(qwen2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = job(qwen2, max_steps=1)
    write_prepared(tmp_path, config)
    monkeypatch.setattr("sftjob_trainer.training.build.fit", lambda *_: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        run_train(tmp_path, config)


def test_a_loop_that_ends_too_early_is_no_success(qwen2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sftjob_trainer.training.callbacks import RunCallback

    config = job(qwen2, max_steps=6)
    write_prepared(tmp_path, config)

    def stop_training(_self: object, _args: object, state: Any, control: Any, **_others: object) -> None:
        control.should_training_stop = state.global_step == 2

    monkeypatch.setattr(RunCallback, "on_step_begin", stop_training)
    outcome = run_train(tmp_path, config)

    assert (outcome.exit_code, outcome.reason) == (ExitCode.INTERNAL, Reason.INTERNAL_ERROR)
    assert outcome.message == "training ended after step 3 of 6 although nothing requested it"
    assert not (tmp_path / layout.OUTPUT).exists()


@pytest.mark.parametrize(
    ("fp16", "loss", "grad_norm", "diverged"),
    [
        (True, 2.0, math.inf, False),
        (True, 2.0, math.nan, False),
        (True, math.nan, 1.0, True),
        (False, 2.0, math.inf, True),
        (False, 2.0, 1.0, False),
    ],
)
def test_gradients_too_large_for_fp16_are_no_divergence(
    qwen2: Path, tmp_path: Path, fp16: bool, loss: float, grad_norm: float, diverged: bool
) -> None:
    """Loss scaling passes such a step over and tries a smaller scale; only a loss that is no number is the end."""
    from sftjob_trainer.reporting.reporter import Reporter
    from sftjob_trainer.run.metrics_log import MetricsRecorder
    from sftjob_trainer.train import new_run
    from sftjob_trainer.training.callbacks import RunCallback

    config = job(qwen2, max_steps=2)
    write_prepared(tmp_path, config)
    run = new_run(config, environment(tmp_path), Reporter(None))
    logs = {"loss": loss, "grad_norm": grad_norm, "learning_rate": 1e-3, "num_tokens": 7}
    args, state = SimpleNamespace(fp16=fp16), SimpleNamespace(global_step=1)
    unused: Any = None

    with MetricsRecorder(run) as recorder:
        callback: Any = RunCallback(run, recorder, unused)
        with pytest.raises(StageError) if diverged else nullcontext():
            callback.on_log(args, state, unused, logs=logs)

    if not diverged:
        finite = grad_norm if math.isfinite(grad_norm) else None
        assert run.telemetry.progress().grad_norm == finite
        assert read_metrics(tmp_path).values("gradNorm") == ({} if finite is None else {0: finite})
