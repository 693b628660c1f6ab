"""Pods that keep a deleted volume claim from being removed; delete those that are no longer needed."""

from sftjob_operator.cluster_cache import ClusterCache
from sftjob_operator.effects.children import remove
from sftjob_operator.effects.cluster import Cluster, Object
from sftjob_operator.reconcile import is_finished, mounts, owner_uid, pod_job

_ENDED = ("Succeeded", "Failed")


async def release_claim(cluster: Cluster, cache: ClusterCache, namespace: str, claim: str) -> str:
    """Delete completed Pods of ended SFTJobs that mount a claim of another job; return a sentence about the others.

    Kubernetes keeps a deleted claim as long as any Pod mounts it, including a completed one.

    Raises:
        ClusterError: the server rejects the request or does not answer.
    """
    kept: list[str] = []
    async for pod in cluster.list("Pod", namespace):
        if not mounts(pod, claim) or "deletionTimestamp" in pod["metadata"]:
            continue
        name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
        if _is_finished_pod(cache, pod, claim):
            await remove(cluster, "Pod", namespace, name, uid)
        else:
            kept.append(name)
    if not kept:
        return "No running Pod mounts it; this SFTJob starts after it is deleted."
    names = " ".join(sorted(kept))
    return f"It is mounted by: {names}. Wait until they end, or delete them: kubectl delete pod -n {namespace} {names}"


def _is_finished_pod(cache: ClusterCache, pod: Object, claim: str) -> bool:
    """Whether a Pod and its SFTJob have ended, and the claim is not that job's own."""
    key = pod_job(pod)
    if key is None or key[1] == claim or (pod.get("status") or {}).get("phase") not in _ENDED:
        return False
    job = cache.job(key)
    return job is not None and is_finished(job) and owner_uid(pod) == job["metadata"]["uid"]
