"""Time between SIGTERM and SIGKILL: enough to end the step at hand and to save a checkpoint."""

import math
from typing import Final

from sftjob_contract.names import Stage
from sftjob_operator.api import SFTJob

STOPPING_SECONDS: Final = 30
"""Where nothing is to be saved: Kubernetes' own default."""
LEAST_SAVING_SECONDS: Final = 120
MOST_SAVING_SECONDS: Final = 3600
"""Bounds where a checkpoint is to be saved; beyond the upper one a node drain would look stuck."""
STEP_SECONDS: Final = 60
"""Reserve for the step at hand as long as none was measured: SIGTERM is answered at its end."""
SAVING_BYTES_PER_SECOND: Final = 50e6
"""How fast a checkpoint becomes complete. No measurement but an assumption on the safe side: it is written once and
read once for its digests, and a general purpose cloud disk does about 125 MB/s (AWS gp3 without extra throughput)."""
MEASURED_FACTOR: Final = 2
"""How much longer than any before the next stop may take."""


def saves_on_termination(job: SFTJob, stage: Stage) -> bool:
    """Whether a Pod that is asked to end saves a checkpoint first."""
    return stage is Stage.TRAIN and job.spec.checkpoints.on_termination


def grace_seconds(job: SFTJob, stage: Stage) -> int:
    """What a Pod of this job gets: by how long stops were measured to take, before that by the planned checkpoint."""
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
