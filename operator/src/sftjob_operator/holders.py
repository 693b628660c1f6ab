"""Which Pods keep a deleted volume claim from going, and the end of those that nobody needs."""

from sftjob_operator.effects.children import remove
from sftjob_operator.effects.cluster import Cluster, Object
from sftjob_operator.gather import Gathering
from sftjob_operator.reconcile import is_finished, mounts, owner_uid, pod_job

_OVER = ("Succeeded", "Failed")


async def release(cluster: Cluster, known: Gathering, namespace: str, claim: str) -> str:
    """Delete completed Pods of ended SFTJobs that mount a claim of another job; return a sentence about the others.

    Kubernetes keeps a deleted claim as long as any Pod mounts it, also one that has ended.

    Raises:
        ClusterError: the server refuses or does not answer.
    """
    kept: list[str] = []
    async for pod in cluster.list("Pod", namespace):
        if not mounts(pod, claim) or "deletionTimestamp" in pod["metadata"]:
            continue
        name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
        if _is_over(known, pod, claim):
            await remove(cluster, "Pod", namespace, name, uid)
        else:
            kept.append(name)
    if not kept:
        return "No Pod that still runs mounts it; this SFTJob starts once it is gone."
    names = " ".join(sorted(kept))
    return f"It is mounted by: {names}. Wait until they end, or delete them: kubectl delete pod -n {namespace} {names}"


def _is_over(known: Gathering, pod: Object, claim: str) -> bool:
    """Whether a Pod has ended, its SFTJob too, and the claim is not that job's own."""
    key = pod_job(pod)
    if key is None or key[1] == claim or (pod.get("status") or {}).get("phase") not in _OVER:
        return False
    job = known.job(key)
    return job is not None and is_finished(job) and owner_uid(pod) == job["metadata"]["uid"]
