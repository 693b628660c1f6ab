"""What becomes of a new Service: a name for Pods, and no more.

Source for what a cluster fills in: kubernetes' pkg/registry/core/service/storage.
"""

from sftjob_sandbox.errors import ApiError
from sftjob_sandbox.jsoncopy import copied
from sftjob_sandbox.objects import Object

HEADLESS = "None"


def admit_service(service: Object) -> Object:
    """A copy of a new headless Service with what a cluster that knows IPv4 only fills in.

    Raises:
        ApiError: 501 for a Service that needs an address, since nothing here would forward to it.
    """
    result: Object = copied(service)
    spec = result["spec"]
    if spec.get("clusterIP") != HEADLESS or spec.get("type") != "ClusterIP":
        text = "this emulator does not implement Services with an address: write spec.clusterIP: None (headless)"
        raise ApiError(501, "NotImplemented", text)
    spec["clusterIPs"] = [HEADLESS]
    spec["ipFamilies"] = ["IPv4"]
    spec["ipFamilyPolicy"] = "SingleStack"
    return result
