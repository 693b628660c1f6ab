"""Whom a process blames that trains with others: a peer only where that one ended, or does not answer."""

import sys
from collections.abc import Callable
from functools import partial
from types import FrameType, SimpleNamespace

import pytest

from sftjob_trainer.distributed.world import is_lost_peer
from sftjob_trainer.process.watchdog import waits_for_peers

NCCL = "NCCL error in: /pytorch/torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp:3690, "


@pytest.mark.parametrize(
    ("kind", "said", "lost"),
    [
        (
            "DistBackendError",
            (
                f"{NCCL}remote process exited or there was a network error, NCCL version 2.28.9\nncclRemoteError: A "
                "call failed possibly due to a network error or a remote process exiting prematurely."
            ),
            True,
        ),
        (
            "DistBackendError",
            (
                f"{NCCL}unhandled system error\nncclSystemError: System call (e.g. socket, malloc) or external library "
                "call failed or device error.\nLast error:\nsocketProgress: Connection closed by remote peer a<5>"
            ),
            True,
        ),
        ("DistBackendError", "NCCL communicator was aborted on rank 0.", True),
        ("DistBackendError", "Watchdog caught collective operation timeout: WorkNCCL(SeqNum=3) ran for 1800001", True),
        (
            "DistNetworkError",
            "The client socket has timed out after 1800000ms while trying to connect to a:29400",
            True,
        ),
        ("DistNetworkError", "Connection reset by peer", True),
        ("DistStoreError", "wait timeout after 1800000ms, keys: /default_pg/0//cuda//0", True),
        ("RuntimeError", "[/pytorch/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:8", True),
        ("RuntimeError", "[../gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 1800000ms for recv", True),
        (
            "DistBackendError",
            (
                f"{NCCL}unhandled system error\nncclSystemError: System call (e.g. socket, malloc) or external library "
                "call failed or device error.\nLast error:\nError while creating shared memory segment "
                "/dev/shm/nccl-vQ1f5m (size 33030528), error: No space left on device (28)"
            ),
            False,
        ),
        (
            "DistBackendError",
            (
                f"{NCCL}invalid usage (run with NCCL_DEBUG=WARN for details)\nncclInvalidUsage: This usually reflects "
                "invalid usage of NCCL library.\nLast error:\nDuplicate GPU detected : rank 1 and rank 0 both on 1b000"
            ),
            False,
        ),
        ("DistBackendError", f"{NCCL}unhandled cuda error\nLast error:\nCuda failure 'invalid device'", False),
        ("DistNetworkError", "The server socket has failed to listen on any local network address: EADDRINUSE", False),
        ("RuntimeError", "[../gloo/transport/tcp/device.cc:83] Unable to find address for: eth7", False),
        ("RuntimeError", "Connection reset by peer", False),
        ("ValueError", "gloo: Connection reset by peer", False),
    ],
)
def test_only_a_connection_that_was_lost_is_a_lost_peer(kind: str, said: str, lost: bool) -> None:
    import torch

    error = getattr(torch.distributed, kind, None) or {"RuntimeError": RuntimeError, "ValueError": ValueError}[kind]
    assert is_lost_peer(error(said)) is lost


def looked_at(calls: Callable[[SimpleNamespace], object], *, on_gpu: bool) -> bool:
    """What is said of the frame of `calls` while a method of its argument runs, in C as torch's do."""
    seen: list[bool] = []

    def look(frame: FrameType) -> float:
        seen.append(waits_for_peers(frame, on_gpu=on_gpu))
        return 0.0

    method = partial(lambda: look(sys._getframe(1)))
    calls(SimpleNamespace(item=method, tolist=method, append=method, __float__=method))
    return seen[0]


@pytest.mark.parametrize(
    ("calls", "waits"),
    [
        (lambda loss: loss.item(), True),
        (lambda loss: loss.tolist(), True),
        (lambda loss: loss.append(), False),
    ],
)
def test_a_process_that_waits_for_its_gpu_waits_for_the_others(
    calls: Callable[[SimpleNamespace], object], waits: bool
) -> None:
    assert looked_at(calls, on_gpu=True) is waits
    assert not looked_at(calls, on_gpu=False)
