"""What each kind of fault does to a trainer process. Imported within such a process only."""

import ctypes
import errno
import os
import pkgutil
import signal
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

Fault = dict[str, Any]


def arrange(faults: list[Fault]) -> None:
    """Arrange the faults that are meant for this process."""
    mine = [fault for fault in faults if _is_mine(fault)]
    if mine:
        _after_steps([fault for fault in mine if fault["kind"] in ("slow", "signal", "hang")])
        _after_reports([fault for fault in mine if fault["kind"] in ("held", "greedy")])
        _in_losses([fault for fault in mine if fault["kind"] in ("nan", "oom")])
        _on_the_disk([fault for fault in mine if fault["kind"] == "full"])
        _in_the_watchdog([fault for fault in mine if fault["kind"] == "impatient"])
        arrange_calls(mine)


def arrange_calls(faults: list[Fault]) -> None:
    """Arrange what befalls the process when it calls a function."""
    for fault in faults:
        if fault["kind"] == "signal_in":
            _in_the_first_call(fault)


def _in_the_first_call(fault: Fault) -> None:
    function = pkgutil.resolve_name(fault["function"])
    left = [fault["number"]]

    def called(*arguments: Any, **options: Any) -> Any:
        while left:
            os.kill(os.getpid(), left.pop())
        return function(*arguments, **options)

    patch(fault["function"], called).start()


def arrange_launcher(faults: list[Fault]) -> None:
    """Arrange how many processes this Pod trains with."""
    from sftjob_trainer.distributed import launch

    for fault in faults:
        if fault["kind"] == "processes" and _is_mine(fault):
            number = fault["number"]
            patch.object(launch, "local_processes", lambda _config, number=number: number).start()
            patch.object(launch, "OTHER_NODES_SECONDS", 0.0).start()


def _is_mine(fault: Fault) -> bool:
    places = {"rank": int(os.environ.get("RANK", "0")), "attempt": int(os.environ.get("SFTJOB_ATTEMPT", "1"))}
    return all(fault.get(name, here) == here for name, here in places.items())


def _after_steps(faults: list[Fault]) -> None:
    from sftjob_trainer.reporting.telemetry import Telemetry

    step_ended = Telemetry.end_step

    def ended(self: Telemetry, number: int, epoch: float) -> None:
        step_ended(self, number, epoch)
        for fault in faults:
            if fault["kind"] == "slow":
                time.sleep(fault["seconds"])
            elif number == fault["step"]:
                _befall(fault)

    patch.object(Telemetry, "end_step", ended).start()


def _befall(fault: Fault) -> None:
    if fault["kind"] == "signal":
        os.kill(os.getppid() if fault["to"] == "parent" else os.getpid(), fault["number"])
    while fault["kind"] == "hang":
        if fault["holding_gil"]:
            # A signal would end the sleep, and let another thread run.
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            ctypes.PyDLL(None).sleep(1000)
        else:
            time.sleep(1000)


def _after_reports(faults: list[Fault]) -> None:
    from sftjob_trainer.run.context import Run

    report = Run.report

    def reported(self: Run) -> None:
        report(self)
        for fault in faults:
            if fault["step"] == self.telemetry.step:
                _stay(self, fault)

    if faults:
        patch.object(Run, "report", reported).start()


def _stay(run: Any, fault: Fault) -> None:
    if fault["kind"] == "greedy":
        ballast = b"\1" * fault["takes"]
        while ballast:
            time.sleep(1000)
    while not (run.stop.signalled or (run.volume / fault["until"]).exists()):
        time.sleep(0.05)


def _in_losses(faults: list[Fault]) -> None:
    import torch

    from sftjob_trainer.training.sft_trainer import Trainer

    compute_loss = Trainer.compute_loss

    def computed(self: Any, model: Any, *arguments: Any, **options: Any) -> Any:
        loss = compute_loss(self, model, *arguments, **options)
        for fault in faults:
            if fault["step"] != self.state.global_step or fault.get("evaluating", False) is self.model.training:
                continue
            if fault["kind"] == "nan":
                loss = loss * float("nan")
            elif self.args.per_device_train_batch_size > fault["above"]:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return loss

    if faults:
        patch.object(Trainer, "compute_loss", computed).start()


def _on_the_disk(faults: list[Fault]) -> None:
    fsync = os.fsync

    def synced(descriptor: int) -> None:
        parts = Path(f"/proc/self/fd/{descriptor}").readlink().parts
        if any(f"checkpoint-{fault['step']}" in parts for fault in faults):
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    if faults:
        patch.object(os, "fsync", synced).start()


def _in_the_watchdog(faults: list[Fault]) -> None:
    from sftjob_contract.reports.progress import Activity
    from sftjob_trainer.process import watchdog

    for fault in faults:
        patch.dict(watchdog.MIN_SECONDS, {Activity.TRAINING: fault["seconds"]}).start()
        patch.object(watchdog, "MARGIN_SECONDS", 5.0).start()
