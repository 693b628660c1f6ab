"""What becomes of a new Service: a name for Pods, or an address that is kept and leads nowhere.

Source for what a cluster fills in: kubernetes' pkg/registry/core/service/storage.
"""

import hashlib
from typing import Final

from sftjob_sandbox.errors import ApiError
from sftjob_sandbox.jsoncopy import copied
from sftjob_sandbox.objects import Object

HEADLESS: Final = "None"
_ADDRESSES: Final = "10.96.{}.{}"
"""From the range that kubeadm gives a cluster."""


def admit_service(service: Object) -> Object:
    """A copy of a new Service with what a cluster that knows IPv4 only fills in.

    Raises:
        ApiError: 501 for a Service that is to be reached from outside, or at an address of its own choice.
    """
    result: Object = copied(service)
    spec = result["spec"]
    if spec.get("clusterIP", "") not in ("", HEADLESS) or spec.get("type") != "ClusterIP":
        text = "this emulator does not implement Services with a chosen or outer address: write spec.type: ClusterIP"
        raise ApiError(501, "NotImplemented", f"{text} without spec.clusterIP, or spec.clusterIP: None (headless)")
    address = spec.get("clusterIP") or _address(result["metadata"])
    spec["clusterIP"], spec["clusterIPs"] = address, [address]
    spec["ipFamilies"] = ["IPv4"]
    spec["ipFamilyPolicy"] = "SingleStack"
    return result


def _address(metadata: Object) -> str:
    """The same for the same Service. Two may share one, since nothing listens there."""
    digest = hashlib.sha256(f"{metadata.get('namespace')}/{metadata.get('name')}".encode()).digest()
    return _ADDRESSES.format(digest[0], digest[1])
