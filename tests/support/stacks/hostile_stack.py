"""The local stack with a proxy between operator and API server that misbehaves on order."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final

from bench.operator.operator_bench import FakeStack
from sftjob_dev.stack import POLL_SECONDS, Stack, StackError, log_end
from support.faults import python_image
from support.servers.hostile_api import HostileApi, hostile_api

WATCH_SILENCE_SECONDS: Final = 3
LONGEST_SECONDS: Final = 280


class HostileStack(Stack):
    """Sandbox, operator, and `api` between them, from the start of the sandbox on."""

    api: HostileApi

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._proxy = ExitStack()

    def start_sandbox(self) -> None:
        """See Stack."""
        super().start_sandbox()
        self.api = self._proxy.enter_context(hostile_api(self.kubeconfig, self.data))

    def programs(self) -> Path:
        """See Stack: of an image whose trainers misbehave on order."""
        return python_image(self.data / "image")

    def operator_settings(self) -> dict[str, str]:
        """See Stack."""
        ours = {"KUBECONFIG": str(self.api.kubeconfig), "SFTJOB_WATCH_SILENCE_SECONDS": str(WATCH_SILENCE_SECONDS)}
        return {**super().operator_settings(), **ours}

    def stop(self) -> None:
        """See Stack."""
        super().stop()
        self._proxy.close()

    def shoot_operator(self) -> bool:
        """kill -9, from any thread; answers True. `keep_operator` starts another."""
        os.kill(self.operator_pid, signal.SIGKILL)
        return True

    def keep_operator(self, until: Callable[[], bool]) -> None:
        """Start another operator whenever one was shot, until a condition holds."""
        deadline = time.monotonic() + LONGEST_SECONDS
        while not until():
            if time.monotonic() > deadline:
                raise StackError(
                    f"not there after {LONGEST_SECONDS} s; the operator's log ends:\n{log_end(self.operator_log)}"
                )
            try:
                self.check()
                time.sleep(POLL_SECONDS)
            except StackError:
                self.kill_operator()
                with suppress(StackError):  # it may be shot before it answers
                    self.start_operator()


class HostileFakeStack(HostileStack, FakeStack):
    """The same with a node on which every Pod only seems to run, and succeeds."""
