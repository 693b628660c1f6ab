"""Environment variables that decide how the trainer's processes run, so that a user may not set them.

The operator refuses them in spec.env; the trainer removes those of the world that reach it otherwise, by the keys of a
Secret or by its image.
"""

from typing import Final

WORLD_VARIABLES: Final = (
    *("RANK", "LOCAL_RANK", "GROUP_RANK", "NODE_RANK", "ROLE_RANK", "ROLE_NAME"),
    *("WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
    *("MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
)
"""Which of how many processes this one is, and where they meet, as torchrun says it. With a wrong one,
torch.distributed waits for processes that do not exist."""
WORLD_PREFIXES: Final = ("TORCHELASTIC_", "PET_", "ACCELERATE_", "PMI_", "OMPI_COMM_WORLD_", "MV2_COMM_WORLD_")
"""How the variables begin by which torchrun (PET_ for its options), accelerate and MPI say the same."""
INTERPRETER_VARIABLES: Final = (
    *("PATH", "LD_PRELOAD", "LD_LIBRARY_PATH", "LD_AUDIT", "PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP"),
    *("PYTHONINSPECT", "PYTHONEXECUTABLE", "PYTHONPLATLIBDIR", "PYTHONSAFEPATH", "PYTHONOPTIMIZE", "PYTHONUSERBASE"),
)
"""Which Python runs, and which modules and libraries it finds."""
SHARDING_PREFIXES: Final = ("FSDP_", "MEGATRON_LM_", "PARALLELISM_CONFIG_")
"""How the variables begin by which `accelerate launch` says how a model is parted. Without its others, which are those
of the world, nothing reads them."""
DEVICE_VARIABLES: Final = (
    *("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"),
    *("AMD_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL"),
)
"""Which GPUs of the container, or of its node, a program sees."""
COMPILE_VARIABLES: Final = ("TORCHDYNAMO_DISABLE", "TORCH_COMPILE_DISABLE")
"""With one of them, torch.compile compiles nothing and says nothing."""


def is_of_world(name: str) -> bool:
    """Whether a variable is one of WORLD_VARIABLES or begins with one of WORLD_PREFIXES."""
    return name in WORLD_VARIABLES or name.startswith(WORLD_PREFIXES)
