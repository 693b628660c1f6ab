"""Environment variables that control how the trainer's processes run, so that users may not set them.

The operator rejects them in spec.env; the trainer removes the world variables that arrive by other ways: the keys of a
Secret, or its image.
"""

from typing import Final

WORLD_VARIABLES: Final = (
    *("RANK", "LOCAL_RANK", "GROUP_RANK", "NODE_RANK", "ROLE_RANK", "ROLE_NAME"),
    *("WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
    *("MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
)
"""Rank, number of processes and rendezvous, under torchrun's names. With a wrong value, torch.distributed waits for
processes that do not exist."""
WORLD_PREFIXES: Final = ("TORCHELASTIC_", "PET_", "ACCELERATE_", "PMI_", "OMPI_COMM_WORLD_", "MV2_COMM_WORLD_")
"""Prefixes of the equivalent variables of torchrun (PET_ for its options), accelerate and MPI."""
INTERPRETER_VARIABLES: Final = (
    *("PATH", "LD_PRELOAD", "LD_LIBRARY_PATH", "LD_AUDIT", "PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP"),
    *("PYTHONINSPECT", "PYTHONEXECUTABLE", "PYTHONPLATLIBDIR", "PYTHONSAFEPATH", "PYTHONOPTIMIZE", "PYTHONUSERBASE"),
)
"""Variables that select the Python interpreter and the modules and libraries that it finds."""
SHARDING_PREFIXES: Final = ("FSDP_", "MEGATRON_LM_", "PARALLELISM_CONFIG_")
"""Prefixes of the variables by which `accelerate launch` describes how a model is partitioned. Nothing reads them
without its other variables, which are world variables."""
DEVICE_VARIABLES: Final = (
    *("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"),
    *("AMD_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL"),
)
"""Variables that select the visible GPUs of the container or of its node."""
COMPILE_VARIABLES: Final = ("TORCHDYNAMO_DISABLE", "TORCH_COMPILE_DISABLE")
"""Variables with which torch.compile silently compiles nothing."""


def is_of_world(name: str) -> bool:
    """Whether a variable is one of WORLD_VARIABLES or begins with one of WORLD_PREFIXES."""
    return name in WORLD_VARIABLES or name.startswith(WORLD_PREFIXES)
