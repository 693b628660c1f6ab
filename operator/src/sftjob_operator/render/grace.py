"""Time between SIGTERM and SIGKILL: enough to finish the current step and to save a checkpoint."""

import math
from typing import Final

from sftjob_contract.names import Stage
from sftjob_operator.api import SFTJob

STOPPING_SECONDS: Final = 30
"""For Pods that have nothing to save: Kubernetes' default."""
LEAST_SAVING_SECONDS: Final = 120
MOST_SAVING_SECONDS: Final = 3600
"""Bounds for Pods that save a checkpoint; beyond the upper one a node drain would seem stuck."""
STEP_SECONDS: Final = 60
"""Reserve for the current step until one was measured: the trainer handles SIGTERM at its end."""
SAVING_BYTES_PER_SECOND: Final = 50e6
"""Rate at which a checkpoint is completed. Not measured but a conservative assumption: it is written once and read once
for its digests, and a general purpose cloud disk does about 125 MB/s (AWS gp3 without extra throughput)."""
MEASURED_FACTOR: Final = 2
"""How many times longer than any earlier stop the next one may take."""


def saves_on_termination(job: SFTJob, stage: Stage) -> bool:
    """Whether a Pod saves a checkpoint on SIGTERM."""
    return stage is Stage.TRAIN and job.spec.checkpoints.on_termination


def grace_seconds(job: SFTJob, stage: Stage) -> int:
    """Return a Pod's grace period: from measured stops, or until one was measured from the planned checkpoint."""
    if not saves_on_termination(job, stage):
        return STOPPING_SECONDS
    measured = job.status.stop_seconds
    planned = None if job.status.plan is None else job.status.plan.checkpoint_bytes
    needed = 0
    if measured is not None:
        needed = math.ceil(MEASURED_FACTOR * measured)
    elif planned is not None:
        needed = STEP_SECONDS + math.ceil(planned / SAVING_BYTES_PER_SECOND)
    return min(MOST_SAVING_SECONDS, max(LEAST_SAVING_SECONDS, needed))
