"""Exit codes of the trainer, from which the operator decides what to do next.

65-77 are those of BSD's sysexits(3) where one fits; 128+N is the kernel's own for a signal N. The trainer never uses
Python's 1, so an uncaught exception cannot be mistaken for a verdict.
"""

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of the trainer."""

    DONE = 0
    INVALID = 65
    """The user's config or data is invalid. Never retried."""
    NOT_FOUND = 66
    """Model, dataset or credential not found or denied. Not retried."""
    INTERNAL = 70
    """Internal error. Retried within the budget."""
    RETRY = 75
    """Stopped on request after saving a checkpoint. To be run again."""
    GPU_OUT_OF_MEMORY = 76
    """CUDA out of memory. A retry needs a smaller memory footprint."""
    DIVERGED = 77
    """Loss or gradient became NaN or infinite."""
