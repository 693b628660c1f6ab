"""Many finished jobs in the store of the benchmark's server: copies of one that ran there, and of its Pods."""

import json
import uuid
from pathlib import Path
from typing import Any, Final

from sftjob_contract.names import GROUP, PLURAL
from sftjob_sandbox.apimachinery.objects import Object, name_of, namespace_of, uid_of
from sftjob_sandbox.cluster.store import Store

FINISHED: Final = "finished.json"
"""File in DATA with the objects to copy: the job first, then its Pods."""
_CHECKPOINTS: Final = 3
_POINTS: Final = 48
_STEPS: Final = 714


def with_curves(job: Object) -> Object:
    """A job of the fake node, which reports nothing, with the status that a reporting trainer produces."""
    end = job["status"]["completionTime"]
    claim = f"pvc://{name_of(job)}/run"
    curves: dict[str, Any] = {
        "progress": {"step": _STEPS, "maxSteps": _STEPS, "percent": 100, "loss": 1.25, "evalLoss": 1.5},
        "history": [{"step": 15 * n, "loss": 3.5 - 0.05 * n, "evalLoss": 3.75} for n in range(_POINTS)],
        "checkpoints": [
            {"step": 200 * n, "uri": f"{claim}/checkpoint-{200 * n}", "bytes": 10_000_000, "time": end, "evalLoss": 2.0}
            for n in range(1, _CHECKPOINTS + 1)
        ],
    }
    return {**job, "status": {**job["status"], **curves}}


def store_copies(store: Store, data: Path, copies: int) -> None:
    """Store `copies` copies of the objects in `data`/finished.json; each job has its own Pods and uids."""
    text = (data / FINISHED).read_text(encoding="utf-8")
    originals: list[Object] = json.loads(text)
    name = name_of(originals[0])
    for number in range(copies):
        copy = text.replace(name, f"finished-{number:05d}")
        for original in originals:
            copy = copy.replace(uid_of(original), str(uuid.uuid4()))
        for obj in json.loads(copy):
            resource = "pods" if obj["kind"] == "Pod" else f"{PLURAL}.{GROUP}"
            store.storage.put(resource, (namespace_of(obj), name_of(obj)), obj)
