"""What others than the operator do to a Pod: the scheduler, an eviction, the taint manager, the garbage collector."""

import json

from support.clients.kubectl import Kubectl


def disrupt(kubectl: Kubectl, pod: str, reason: str, message: str) -> None:
    """Say why a Pod is taken away, and ask it to end. One that is gone is left at that."""
    said = {"type": "DisruptionTarget", "status": "True", "reason": reason, "message": message}
    patch = json.dumps([{"op": "add", "path": "/status/conditions/-", "value": said}])
    patched = kubectl.run("patch", "pod", pod, "--subresource=status", "--type=json", "-p", patch)
    assert patched.returncode == 0 or "NotFound" in patched.stderr, patched.stderr
    kubectl("delete", "pod", pod, "--ignore-not-found", "--wait=false")


def remove(kubectl: Kubectl, pod: str) -> None:
    """Remove a Pod at once, without its node's word. One that is gone is left at that."""
    kubectl("delete", "pod", pod, "--ignore-not-found", "--force", "--grace-period=0", "--wait=false")
