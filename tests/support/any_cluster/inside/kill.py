"""Runs in a Pod that sees the processes of its node: SIGKILL for the trainer of the Pod $POD; prints its process id.

A process cannot send SIGKILL to the first process of its own container, so `kubectl exec` would not do.
"""

import os
import signal
from contextlib import suppress
from pathlib import Path


def is_trainer(process: Path) -> bool:
    """Whether a process runs the trainer of that Pod; those of other users cannot be read."""
    try:
        environ = (process / "environ").read_bytes().split(b"\0")
        words = (process / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return f"HOSTNAME={os.environ['POD']}".encode() in environ and b"sftjob_trainer" in words


for found in [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit() and is_trainer(path)]:
    with suppress(ProcessLookupError):  # the children of the one before end with it
        os.kill(found, signal.SIGKILL)
        print(found)
