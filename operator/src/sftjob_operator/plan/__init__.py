"""Predicted needs of a run before it starts: pure arithmetic on config, model shape and prepared data.

Every formula names its source; docs/plan.md documents them together.
"""

from sftjob_operator.plan.alternatives import Alternative, alternative
from sftjob_operator.plan.gpus import known_gpu_memory_bytes
from sftjob_operator.plan.memory import Memory, gpu_memory, longest_row, typical_row
from sftjob_operator.plan.tensors import trainable_parameters
from sftjob_operator.plan.volume import checkpoint_bytes, disk_bytes, host_memory_bytes, training_disk_bytes

__all__ = [
    "Alternative",
    "Memory",
    "alternative",
    "checkpoint_bytes",
    "disk_bytes",
    "gpu_memory",
    "host_memory_bytes",
    "known_gpu_memory_bytes",
    "longest_row",
    "trainable_parameters",
    "training_disk_bytes",
    "typical_row",
]
