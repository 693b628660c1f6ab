"""The processes that train one model together, and their collective operations."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, TypeVar

T = TypeVar("T")

TIMEOUT: Final = timedelta(minutes=30)
"""How long a process waits for the others, whose Pods have all joined by then (rendezvous.py): as long as the leader
may take to verify a large checkpoint."""
_GLOO: Final = "gloo"
_LOST: Final = re.compile(
    r"closed by (remote )?peer|reset by peer|broken pipe|connection (was )?(closed|refused|reset|lost)|"
    r"remote process exit|ncclRemoteError|communicator was aborted|time[d ]*out|no route to host|"
    r"network is unreachable|got 0 bytes",
    re.IGNORECASE,
)
"""How NCCL, gloo and torch's store report that another process ended or does not answer. All their other errors, such
as a full /dev/shm, a device used by two processes, or a port in use, belong to this process."""


@dataclass(frozen=True, kw_only=True)
class World:
    """This process's rank among `size` processes. Rank 0 leads: it alone writes and reports.

    Every method except `is_leader` is collective: all processes call it at the same point, or all wait. With one
    process, each returns its input.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_leader(self) -> bool:
        """Whether this process writes and reports."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true in any of the processes."""
        return flag if self.size == 1 else self.all_reduce_sum([float(flag)])[0] > 0

    def all_reduce_sum(self, numbers: Sequence[float]) -> list[float]:
        """Sum of each of `numbers` over the processes."""
        if self.size == 1:
            return list(numbers)
        import torch

        tensor = torch.tensor(numbers, dtype=torch.float64)
        torch.distributed.all_reduce(tensor)
        return [float(number) for number in tensor.tolist()]

    def broadcast(self, value: T) -> T:
        """The leader's `value`."""
        if self.size == 1:
            return value
        import torch

        values = [value]
        torch.distributed.broadcast_object_list(values, src=0)
        return values[0]

    def all_gather(self, value: T) -> list[T]:
        """`value` of each process, by rank."""
        if self.size == 1:
            return [value]
        import torch

        values: list[T] = [value] * self.size
        torch.distributed.all_gather_object(values, value)
        return values


SINGLE_PROCESS: Final = World()


def join(world: World, *, gpus: bool) -> None:
    """Join the other processes at the address in the environment (MASTER_ADDR, MASTER_PORT), as torchrun does.

    CPU numbers and objects use gloo, GPU gradients NCCL.
    """
    if world.size == 1:
        return
    import torch

    visible = torch.cuda.device_count() if gpus else 0
    if (local := int(os.environ["LOCAL_RANK"])) < visible:
        torch.cuda.set_device(local)
    backend = f"cpu:{_GLOO},cuda:nccl" if visible else _GLOO  # too few GPUs are reported later
    torch.distributed.init_process_group(backend, timeout=TIMEOUT, rank=world.rank, world_size=world.size)


def leave(world: World) -> None:
    """Leave the group after the last collective operation."""
    if world.size > 1:
        import torch

        torch.distributed.destroy_process_group()


def is_lost_peer(error: Exception) -> bool:
    """Whether `error` means that a peer has ended or does not answer. Only the message text shows this."""
    import torch

    message = str(error)
    of_group = isinstance(error, torch.distributed.DistError) or (isinstance(error, RuntimeError) and _GLOO in message)
    return of_group and _LOST.search(message) is not None
