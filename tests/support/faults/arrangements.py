"""What each kind of fault does to a trainer process. Imported within such a process only."""

import os
import time
from typing import Any
from unittest.mock import patch

Fault = dict[str, Any]


def arrange(faults: list[Fault]) -> None:
    """Arrange the faults that are meant for this process."""
    mine = [fault for fault in faults if _is_mine(fault)]
    if mine:
        _after_steps(mine)
        _in_losses(mine)


def _is_mine(fault: Fault) -> bool:
    places = {"rank": int(os.environ.get("RANK", "0")), "attempt": int(os.environ.get("SFTJOB_ATTEMPT", "1"))}
    return all(fault.get(name, here) == here for name, here in places.items())


def _after_steps(faults: list[Fault]) -> None:
    from sftjob_trainer.telemetry import Telemetry

    step_ended = Telemetry.step_ended

    def ended(self: Telemetry, number: int, epoch: float) -> None:
        step_ended(self, number, epoch)
        for fault in faults:
            if fault["kind"] == "slow":
                time.sleep(fault["seconds"])
            if fault["kind"] == "signal" and number == fault["step"]:
                os.kill(os.getppid() if fault.get("to") == "parent" else os.getpid(), fault["number"])

    patch.object(Telemetry, "step_ended", ended).start()


def _in_losses(faults: list[Fault]) -> None:
    from sftjob_trainer.evaluation import Trainer

    compute_loss, steps = Trainer.compute_loss, {fault["step"] for fault in faults if fault["kind"] == "nan"}

    def computed(self: Any, model: Any, *arguments: Any, **options: Any) -> Any:
        loss = compute_loss(self, model, *arguments, **options)
        broken = self.state.global_step in steps and self.model.training
        return loss * float("nan") if broken else loss

    if steps:
        patch.object(Trainer, "compute_loss", computed).start()
