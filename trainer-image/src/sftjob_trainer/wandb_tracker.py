"""A run on Weights & Biases, or offline on the volume. To be used in a thread of its own."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from sftjob_contract import layout
from sftjob_contract.codec import encode
from sftjob_contract.config import RunConfig
from sftjob_contract.destinations import Wandb
from sftjob_contract.exit_codes import ExitCode
from sftjob_trainer.tracking import Ending

logger = logging.getLogger(__name__)

INIT_SECONDS: Final = 15.0
"""How long the server may take to answer before the run is kept on the volume."""
FINISH_SECONDS: Final = 10.0
STEP: Final = "train/global_step"
"""transformers' x-axis. Steps that a resumed attempt repeats are kept, where W&B's own counter would refuse them."""
_EXIT_CODES: Final = {
    Ending.FINISHED: ExitCode.DONE,
    Ending.INTERRUPTED: ExitCode.RETRY,
    Ending.FAILED: ExitCode.INTERNAL,
}


class WandbTracker:
    """An open run."""

    def __init__(self, run: Any) -> None:
        self._run = run
        run.define_metric(STEP)
        run.define_metric("*", step_metric=STEP, step_sync=True)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Keep `values` of `step`."""
        self._run.log({**values, STEP: step})

    def close(self, ending: Ending) -> None:
        """Upload what is left; a run that may go on later is marked as preempted."""
        if ending is Ending.INTERRUPTED:
            self._run.mark_preempting()
        self._run.finish(exit_code=int(_EXIT_CODES[ending]))


def open_wandb(config: RunConfig, volume: Path) -> WandbTracker:
    """The job's run: a resumed attempt goes on with that of the one before, since they share an id.

    Where the server does not answer, or does not take the key, the run stays on the volume, to be synced later.
    """
    asked = config.tracking.wandb
    if asked is None:
        raise ValueError("tracking.wandb is not asked for")
    if not asked.offline:
        try:
            return WandbTracker(_run(asked, config, volume, mode="online"))
        except Exception as error:  # noqa: BLE001 -- whatever the client raises: training goes on
            logger.warning(
                "tracking.wandb: %s; the run stays on the volume, under %s, for `wandb sync`", error, layout.WANDB
            )
            _forget()
    return WandbTracker(_run(asked, config, volume, mode="offline"))


def _forget() -> None:
    """End W&B's own process, which holds on to the id of a run that it could not open."""
    import wandb

    wandb.teardown()


def _run(asked: Wandb, config: RunConfig, volume: Path, *, mode: Literal["online", "offline"]) -> Any:
    import wandb

    logging.getLogger("wandb").propagate = False  # it keeps a log of its own beside the run
    return wandb.init(
        dir=(volume / layout.WANDB).parent,
        id=config.job.uid,
        project=asked.project,
        entity=asked.entity,
        name=asked.name,
        config=encode(config),
        resume="allow" if mode == "online" else None,
        mode=mode,
        settings=wandb.Settings(
            **({} if asked.base_url is None else {"base_url": asked.base_url}),
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
