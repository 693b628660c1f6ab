"""Exit codes of the trainer: how a container tells the operator what to do next.

65-77 are those of BSD's sysexits(3) where one fits; 128+N is the kernel's own for a signal N. Python's 1 is never
meant, so an uncaught exception can not be taken for a verdict.
"""

from enum import IntEnum


class ExitCode(IntEnum):
    """What the trainer ends with."""

    DONE = 0
    INVALID = 65
    """The user's config or data is wrong. Never retried."""
    NOT_FOUND = 66
    """Model, data set or credential not found or refused. Not retried."""
    INTERNAL = 70
    """A fault of ours. Retried within the budget."""
    RETRY = 75
    """Stopped on request with a checkpoint saved. Run me again."""
    GPU_OUT_OF_MEMORY = 76
    """CUDA out of memory. Something must change before a retry helps."""
    DIVERGED = 77
    """Loss or gradient became NaN or infinite."""
