"""A run on Weights & Biases, or offline on the volume. Use it in a separate thread."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from sftjob_contract import layout
from sftjob_contract.codec import encode
from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.run.config import RunConfig
from sftjob_contract.run.destinations import Wandb
from sftjob_trainer.reporting.tracker import FinalStatus

logger = logging.getLogger(__name__)

INIT_SECONDS: Final = 15.0
"""How long the server may take to answer before the run is kept on the volume."""
FINISH_SECONDS: Final = 10.0
STEP: Final = "train/global_step"
"""transformers' x-axis. It keeps steps that a resumed attempt repeats; W&B's own counter would reject them."""
_EXIT_CODES: Final = {
    FinalStatus.FINISHED: ExitCode.DONE,
    FinalStatus.INTERRUPTED: ExitCode.RETRY,
    FinalStatus.FAILED: ExitCode.INTERNAL,
}


class WandbTracker:
    """An open run."""

    def __init__(self, run: Any) -> None:
        self._run = run
        run.define_metric(STEP)
        run.define_metric("*", step_metric=STEP, step_sync=True)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log the `values` of `step`."""
        self._run.log({**values, STEP: step})

    def close(self, status: FinalStatus) -> None:
        """Upload the rest; a run that may continue later is marked as preempted."""
        if status is FinalStatus.INTERRUPTED:
            self._run.mark_preempting()
        self._run.finish(exit_code=int(_EXIT_CODES[status]))


def open_wandb(config: RunConfig, volume: Path) -> WandbTracker:
    """The job's run: a resumed attempt continues the run of the previous one, since they share an id.

    If the server does not answer or rejects the key, the run stays on the volume and can be synced later.
    """
    tracking = config.tracking.wandb
    if tracking is None:
        raise ValueError("tracking.wandb is not set")
    if not tracking.offline:
        try:
            return WandbTracker(_run(tracking, config, volume, mode="online"))
        except Exception as error:  # noqa: BLE001 -- a client may raise anything: training continues
            logger.warning(
                "tracking.wandb: %s; the run stays on the volume, under %s, for `wandb sync`", error, layout.WANDB
            )
            import wandb

            wandb.teardown()  # its own process keeps the id of a run that it could not open
    return WandbTracker(_run(tracking, config, volume, mode="offline"))


def _run(tracking: Wandb, config: RunConfig, volume: Path, *, mode: Literal["online", "offline"]) -> Any:
    import wandb

    logging.getLogger("wandb").propagate = False  # it writes its own log next to the run
    return wandb.init(
        dir=(volume / layout.WANDB).parent,
        id=config.job.uid,
        project=tracking.project,
        entity=tracking.entity,
        name=tracking.name,
        config=encode(config),
        resume="allow" if mode == "online" else None,
        mode=mode,
        settings=wandb.Settings(
            **({} if tracking.base_url is None else {"base_url": tracking.base_url}),
            init_timeout=INIT_SECONDS,
            finish_timeout=FINISH_SECONDS,
            console="off",
            disable_git=True,
            disable_code=True,
            x_disable_machine_info=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_save_requirements=False,
        ),
    )
