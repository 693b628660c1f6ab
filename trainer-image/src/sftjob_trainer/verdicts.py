"""What the errors of libraries mean for the user of a training run."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sftjob_contract.batches import micro_batches
from sftjob_contract.progress import Activity
from sftjob_contract.reasons import Reason
from sftjob_trainer.disk import quantity, room, volume_is_full
from sftjob_trainer.failure import Failure
from sftjob_trainer.permissions import denied
from sftjob_trainer.run import Run
from sftjob_trainer.world import is_lost_peer

_GPU_FULL: Final = ("CUDA out of memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "'out of memory'")
"""What CUDA, cuBLAS and NCCL say where torch has no error of its own for it."""
_HOST_FULL: Final = "DefaultCPUAllocator: "
"""torch's allocator on the CPU begins so when the system refuses it."""
_SHARED_MEMORY_FULL: Final = re.compile(r"\B/dev/shm\b.*No space left|out of shared memory", re.DOTALL)
"""NCCL, and a DataLoader whose worker got SIGBUS."""
_WHILE: Final = {Activity.LOADING: "while loading", Activity.EVALUATING: "in the evaluation", Activity.SAVING: "saving"}


@contextmanager
def verdicts(run: Run) -> Iterator[None]:
    """Turn what libraries raise into a Failure where there is something to tell the user.

    Raises:
        Failure: the verdict.
    """
    try:
        yield
    except Failure as failure:
        if failure.reason is not Reason.DIVERGED:
            raise
        raise Failure(failure.reason, f"{failure.message}; {_last_good(run)}") from failure
    except Exception as error:
        failure_ = verdict(error, run)
        if failure_ is None:
            raise
        raise failure_ from error


def verdict(error: Exception, run: Run) -> Failure | None:
    """What `error` means for the user; None when it is a fault of ours."""
    import torch

    said = str(error)
    if isinstance(error, torch.OutOfMemoryError) or any(words in said for words in _GPU_FULL):
        return _gpu_out_of_memory(run)
    if isinstance(error, RuntimeError) and _HOST_FULL in said:
        message = f"the process ran out of memory after step {run.telemetry.step}: {said}; raise resources.memory"
        return Failure(Reason.HOST_OUT_OF_MEMORY, message)
    if isinstance(error, RuntimeError | OSError) and _SHARED_MEMORY_FULL.search(said):
        step = run.telemetry.step
        message = f"the shared memory (/dev/shm) is full after step {step}: {said}; raise resources.sharedMemory"
        return Failure(Reason.HOST_OUT_OF_MEMORY, message)
    if volume_is_full(error, run.volume, saving=run.telemetry.activity is Activity.SAVING):
        return _disk_full(run)
    if run.world.size > 1 and is_lost_peer(error):
        return Failure(
            Reason.INTERNAL_ERROR,
            f"after step {run.telemetry.step} another process of this run ended or could no longer be reached: {error}",
            blames_peer=True,
        )
    return denied(error, run.volume)


def _gpu_out_of_memory(run: Run) -> Failure:
    """Fewer rows at a time help only where there are several: those packed by best fit already go one by one."""
    training, step = run.config.training, run.telemetry.step
    place = _WHILE.get(run.telemetry.activity, "in the training step")
    rows, _ = micro_batches(run.config)
    smaller = "perDeviceBatchSize or maxLength" if rows > 1 else "maxLength"
    checkpointing = ", or set training.gradientCheckpointing" if training.gradient_checkpointing is False else ""
    return Failure(
        Reason.GPU_OUT_OF_MEMORY,
        f"the GPU ran out of memory {place} after step {step}, with {rows} sequence(s) of at most "
        f"{training.max_length} tokens at a time (perDeviceBatchSize {training.per_device_batch_size}, maxLength "
        f"{training.max_length}); lower {smaller}{checkpointing}",
    )


def _disk_full(run: Run) -> Failure:
    """The size needed: what lies there without the half of a checkpoint, and what else it holds at most at once."""
    if run.world.leads:
        run.store.discard_staged()
    complete, keep = run.store.complete, max(run.config.checkpoints.keep, 1)
    takes, wanted = "", None
    if complete:
        each = max(checkpoint.bytes for checkpoint in complete)
        takes = f"a checkpoint takes {quantity(each)} and "
        there = len(complete) + len(run.store.unverified)
        wanted = each * max(1, keep + 2 - there)  # the best one, and the one that is being written
    doing = "saving" if run.telemetry.activity is Activity.SAVING else "writing"
    return Failure(
        Reason.DISK_FULL,
        f"the volume is full: {doing} after step {run.telemetry.step} failed ({_last_good(run)}); {takes}"
        f"{room(run.volume, uri=run.store.uri, wanted_bytes=wanted)}, or keep fewer checkpoints with checkpoints.keep",
    )


def _last_good(run: Run) -> str:
    complete = run.store.complete
    return f"{complete[-1].path} is the last good checkpoint" if complete else "no checkpoint was complete yet"
