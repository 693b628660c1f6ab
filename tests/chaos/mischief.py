"""What befalls a job that trains: each deed answers which reasons the attempt may end with because of it."""

import json
import random
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil

from chaos.eyes import Eyes
from sftjob_contract.layout import CHECKPOINTS, MANIFEST, METRICS, checkpoint_step
from sftjob_contract.reasons import Reason
from support.clients.disruptions import disrupt, remove
from support.clients.kubectl import Kubectl
from support.jobs.small_jobs import suspend, trainers
from support.stacks.hostile_stack import HostileStack

Reasons = frozenset[str]
WEIGHTS: Final = "model.safetensors"


@dataclass
class Victim:
    """A job and where its Pods and files are. `broken` are steps of checkpoints that were damaged."""

    job: str
    stack: HostileStack
    kubectl: Kubectl
    eyes: Eyes
    random: random.Random
    broken: set[int] = field(default_factory=set)

    def told(self) -> tuple[int, int]:
        """How many lines of metrics its trainers have written, and the step of the last one."""
        steps = self._steps()
        return len(steps), steps[-1] if steps else 0

    def repeated(self) -> int:
        """Steps that were done again, each as often as it was."""
        steps = self._steps(of="loss")
        return len(steps) - len(set(steps))

    def _steps(self, of: str = "step") -> list[int]:
        """The step of each line of metrics that has the key `of`."""
        path = self.stack.volume(self.job) / METRICS
        lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []  # the last may be half done
        return [parsed["step"] for parsed in map(json.loads, lines) if of in parsed]

    def newest_checkpoint(self) -> Path | None:
        """The newest complete checkpoint on the volume."""
        complete = self.stack.volume(self.job).glob(f"{CHECKPOINTS}/checkpoint-*/{MANIFEST}")
        return max((path.parent for path in complete), key=lambda path: checkpoint_step(path.name) or 0, default=None)


@dataclass(frozen=True)
class Done:
    """What was done while which attempt of the Train stage was live, and the reasons that it may have ended with."""

    deed: str
    attempt: int
    reasons: Reasons


def kill_operator(victim: Victim, _pod: str) -> Reasons:
    """kill -9 of the operator."""
    victim.stack.shoot_operator()
    return frozenset()


def cut_connections(victim: Victim, _pod: str) -> Reasons:
    """Every connection between operator and API server drops."""
    victim.stack.api.cut()
    return frozenset()


def kill_trainer(victim: Victim, pod: str) -> Reasons:
    """kill -9 of the trainer: where it is several processes, of one that trains or of the one that started them."""
    if found := sorted(trainers(pod), key=lambda process: process.pid):
        with suppress(psutil.NoSuchProcess):
            victim.random.choice(found).kill()
    return frozenset({Reason.KILLED})


def delete_pod(victim: Victim, pod: str) -> Reasons:
    """Somebody deletes the Pod, which gets its grace period."""
    victim.kubectl("delete", "pod", pod, "--ignore-not-found", "--wait=false")
    return frozenset({Reason.INTERRUPTED})


def delete_pod_by_force(victim: Victim, pod: str) -> Reasons:
    """Somebody deletes the Pod by force: it leaves no last word."""
    remove(victim.kubectl, pod)
    return frozenset({Reason.POD_LOST})


def preempt(victim: Victim, pod: str) -> Reasons:
    """The scheduler takes the Pod away, which gets its grace period."""
    disrupt(victim.kubectl, pod, "PreemptionByScheduler", "default-scheduler: preempting to accommodate a Pod")
    return frozenset({Reason.PREEMPTED})


def evict(victim: Victim, pod: str) -> Reasons:
    """Somebody drains the node of the Pod, which gets its grace period."""
    disrupt(victim.kubectl, pod, "EvictionByEvictionAPI", "Eviction API: evicting")
    return frozenset({Reason.EVICTED})


def lose_node(victim: Victim, pod: str) -> Reasons:
    """The node is not heard of any more: the taint manager gives up the Pod, and the garbage collector removes it.

    Its processes stand still, so that it cannot save, and say nothing. Between the two lie minutes on a cluster, and
    here as long as it takes until the operator has seen the first.
    """
    suspend(pod)
    disrupt(victim.kubectl, pod, "DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint")
    victim.stack.keep_operator(until=lambda: victim.eyes.ended or victim.eyes.reason(pod) is not None)
    remove(victim.kubectl, pod)
    return frozenset({Reason.NODE_LOST})


def truncate_checkpoint(victim: Victim, pod: str) -> Reasons:
    """The trainer is killed, and the newest checkpoint's weights are cut short."""
    return _damage(victim, pod, lambda data: data[: len(data) // 2])


def flip_bit(victim: Victim, pod: str) -> Reasons:
    """The trainer is killed, and one bit of the newest checkpoint's weights is another."""

    def flipped(data: bytes) -> bytes:
        at = victim.random.randrange(len(data))
        return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]

    return _damage(victim, pod, flipped)


def _damage(victim: Victim, pod: str, change: Callable[[bytes], bytes]) -> Reasons:
    reasons = kill_trainer(victim, pod)
    if (checkpoint := victim.newest_checkpoint()) is not None:
        victim.broken.add(checkpoint_step(checkpoint.name) or 0)
        weights = checkpoint / WEIGHTS
        weights.write_bytes(change(weights.read_bytes()))
    return reasons


DEEDS: Final = (
    kill_operator,
    cut_connections,
    kill_trainer,
    delete_pod,
    delete_pod_by_force,
    preempt,
    evict,
    lose_node,
    truncate_checkpoint,
    flip_bit,
)
BLINDING: Final = frozenset({"kill operator", "cut connections"})
GRACEFUL: Final = frozenset({"delete pod", "preempt", "evict"})
"""Deeds after which a trainer has the time to save."""


def name(deed: Callable[[Victim, str], Reasons]) -> str:
    """How a deed is called in the table."""
    return deed.__name__.replace("_", " ")


def allowed(done: Collection[Done], *, blind: bool) -> Reasons:
    """Reasons that an attempt may have ended with to which these things were done, if it did not succeed.

    `blind`: the operator may have missed the last moments of a Pod that was deleted, which is gone as soon as it has
    ended. Then nobody knows more than that. The same is told if a Pod that was deleted is killed before it has saved.
    """
    reasons = frozenset[str]().union(*(each.reasons for each in done))
    unseen = blind or any(each.deed in BLINDING for each in done) or sum(bool(each.reasons) for each in done) > 1
    return reasons | {Reason.POD_LOST} if unseen and reasons - {Reason.KILLED} else reasons
