"""Map the errors of libraries to Failures for the user of a training run."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sftjob_contract.reasons import Reason
from sftjob_contract.reports.progress import Activity
from sftjob_contract.run.batches import micro_batches
from sftjob_trainer.distributed.world import is_lost_peer
from sftjob_trainer.process.disk import describe_free_space, quantity, volume_is_full
from sftjob_trainer.process.errors import StageError
from sftjob_trainer.process.permissions import permission_error
from sftjob_trainer.run.context import Run

_GPU_FULL: Final = ("CUDA out of memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "'out of memory'")
"""Messages of CUDA, cuBLAS and NCCL for which torch has no error class of its own."""
_HOST_FULL: Final = "DefaultCPUAllocator: "
"""Prefix of the message when the system denies torch's CPU allocator memory."""
_SHARED_MEMORY_FULL: Final = re.compile(r"\B/dev/shm\b.*No space left|out of shared memory", re.DOTALL)
"""NCCL, and a DataLoader whose worker received SIGBUS."""
_WHILE: Final = {Activity.LOADING: "while loading", Activity.EVALUATING: "in the evaluation", Activity.SAVING: "saving"}


@contextmanager
def convert_library_errors(run: Run) -> Iterator[None]:
    """Convert library errors within the block into a StageError if the user can act on them.

    Raises:
        StageError: the verdict.
    """
    try:
        yield
    except StageError as failure:
        if failure.reason is not Reason.DIVERGED:
            raise
        raise StageError(failure.reason, f"{failure.message}; {_last_good(run)}") from failure
    except Exception as error:
        stage_error = to_stage_error(error, run)
        if stage_error is None:
            raise
        raise stage_error from error


def to_stage_error(error: Exception, run: Run) -> StageError | None:
    """The StageError for `error`; None for an internal error."""
    import torch

    message_text = str(error)
    if isinstance(error, torch.OutOfMemoryError) or any(words in message_text for words in _GPU_FULL):
        return _gpu_out_of_memory(run)
    if isinstance(error, RuntimeError) and _HOST_FULL in message_text:
        message = (
            f"the process ran out of memory after step {run.telemetry.step}: {message_text}; raise resources.memory"
        )
        return StageError(Reason.HOST_OUT_OF_MEMORY, message)
    if isinstance(error, RuntimeError | OSError) and _SHARED_MEMORY_FULL.search(message_text):
        step = run.telemetry.step
        message = (
            f"the shared memory (/dev/shm) is full after step {step}: {message_text}; raise resources.sharedMemory"
        )
        return StageError(Reason.HOST_OUT_OF_MEMORY, message)
    if volume_is_full(error, run.volume, saving=run.telemetry.activity is Activity.SAVING):
        return _disk_full(run)
    if run.world.size > 1 and is_lost_peer(error):
        return StageError(
            Reason.INTERNAL_ERROR,
            f"after step {run.telemetry.step} another process of this run ended or could no longer be reached: {error}",
            blames_peer=True,
        )
    return permission_error(error, run.volume)


def _gpu_out_of_memory(run: Run) -> StageError:
    """The StageError for GPU memory. A smaller batch only helps above one row."""
    training, step = run.config.training, run.telemetry.step
    phase = _WHILE.get(run.telemetry.activity, "in the training step")
    rows, _ = micro_batches(run.config)
    smaller = "perDeviceBatchSize or maxLength" if rows > 1 else "maxLength"
    checkpointing = ", or set training.gradientCheckpointing" if training.gradient_checkpointing is False else ""
    return StageError(
        Reason.GPU_OUT_OF_MEMORY,
        f"the GPU ran out of memory {phase} after step {step}, with up to {rows} sequence(s) of at most "
        f"{training.max_length} tokens at a time (perDeviceBatchSize {training.per_device_batch_size}, maxLength "
        f"{training.max_length}); lower {smaller}{checkpointing}",
    )


def _disk_full(run: Run) -> StageError:
    """The StageError for a full volume. Required: its content without a staged checkpoint, plus future checkpoints."""
    if run.world.is_leader:
        run.store.discard_staged()
    complete, keep = run.store.complete, max(run.config.checkpoints.keep, 1)
    size_clause, needed = "", None
    if complete:
        each = max(checkpoint.bytes for checkpoint in complete)
        size_clause = f"a checkpoint takes {quantity(each)} and "
        present = len(complete) + len(run.store.unverified)
        needed = each * max(1, keep + 2 - present)  # the best one, and the one being written
    free_space = describe_free_space(run.volume, uri=run.store.uri, needed_bytes=needed)
    verb = "saving" if run.telemetry.activity is Activity.SAVING else "writing"
    return StageError(
        Reason.DISK_FULL,
        f"the volume is full: {verb} after step {run.telemetry.step} failed ({_last_good(run)}); "
        f"{size_clause}{free_space}, or keep fewer checkpoints with checkpoints.keep",
    )


def _last_good(run: Run) -> str:
    complete = run.store.complete
    return f"{complete[-1].path} is the last good checkpoint" if complete else "no checkpoint was complete yet"
