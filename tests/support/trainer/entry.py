"""The trainer's `main`, run in this process: how it ends, as the exit code and the termination log say."""

import logging
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import pytest

from sftjob_contract.codec import from_json
from sftjob_contract.names import ENV_RUN_CONFIG, ENV_TERMINATION_LOG, ENV_VOLUME, Stage
from sftjob_contract.reports.outcome import Outcome
from sftjob_trainer.__main__ import main


def ending(stage: Stage, root: Path, config: str, environ: Mapping[str, str] | None = None) -> Outcome:
    """Run `stage` with the run config `config` (JSON) on the volume `root/volume`; the outcome that it leaves.

    PyTorch is loaded before, so that preparing does not hide it from this process.
    """
    import torch  # noqa: F401

    log = root / "termination-log"
    log.unlink(missing_ok=True)
    (root / "volume").mkdir(exist_ok=True)
    (root / "config.json").write_text(config, encoding="utf-8")
    variables = {
        ENV_RUN_CONFIG: str(root / "config.json"),
        ENV_VOLUME: str(root / "volume"),
        ENV_TERMINATION_LOG: str(log),
        **(environ or {}),
    }
    arguments = ["sftjob_trainer", stage.value]
    patched = patch.dict(os.environ, variables), patch.object(sys, "argv", arguments)
    with _untouched(), patched[0], patched[1], pytest.raises(SystemExit) as ended:
        main()
    outcome = from_json(Outcome, log.read_bytes(), ignore_unknown=False)
    assert ended.value.code == outcome.exit_code
    assert outcome.stage is stage
    return outcome


@contextmanager
def _untouched() -> Iterator[None]:
    """Signal handlers and logging are afterwards as they were."""
    root, trainer = logging.getLogger(), logging.getLogger("sftjob_trainer")
    handlers, level = list(root.handlers), trainer.level
    signals = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in signals.items():
            signal.signal(number, handler)
        root.handlers[:] = handlers
        trainer.setLevel(level)
