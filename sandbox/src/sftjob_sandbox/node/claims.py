"""PersistentVolumeClaims and the directories behind them: Bound when first seen, removed with their claim."""

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path

from sftjob_sandbox.apimachinery.errors import ApiError
from sftjob_sandbox.apimachinery.objects import Object, is_deleting, name_of, namespace_of, uid_of
from sftjob_sandbox.node.api import NodeApi
from sftjob_sandbox.node.containers.paths import claim_directory

_RESOURCE = "persistentvolumeclaims"


class Claims:
    """The node as the provisioner of volumes. `in_use` returns whether a Pod still needs a claim's directory."""

    def __init__(self, api: NodeApi, data: Path, in_use: Callable[[str, str], bool]) -> None:
        self._api = api
        self._data = data
        self._in_use = in_use
        self._retired: set[tuple[str, str]] = set()

    def get(self, namespace: str, name: str) -> Object | None:
        """The claim, Bound if possible; None if it does not exist."""
        try:
            return self.bind(self._api.get(_RESOURCE, namespace, name))
        except ApiError as error:
            if error.code != 404:
                raise
            return None

    def bind(self, claim: Object) -> Object:
        """Create the claim's directory and set its status to Bound; return the new object."""
        namespace, name = namespace_of(claim), name_of(claim)
        bound = (claim.get("status") or {}).get("phase") == "Bound"
        if bound or is_deleting(claim) or (namespace, name) in self._retired:
            return claim
        claim_directory(self._data, namespace, name).mkdir(parents=True, exist_ok=True)
        spec = claim["spec"]
        status = {
            "phase": "Bound",
            "accessModes": list(spec.get("accessModes") or ()),
            "capacity": {"storage": spec["resources"]["requests"]["storage"]},
        }
        return self._api.update_status(_RESOURCE, namespace, name, uid_of(claim), status)

    def removed(self, claim: Object) -> None:
        """The claim is gone; its directory goes as soon as no Pod uses it."""
        self._retired.add((namespace_of(claim), name_of(claim)))
        self.sweep()

    def sweep(self) -> None:
        """Remove the directories that nobody uses any more, and bind claims that waited for their name."""
        for namespace, name in [key for key in self._retired if not self._in_use(*key)]:
            shutil.rmtree(claim_directory(self._data, namespace, name), ignore_errors=True)
            with contextlib.suppress(OSError):  # another claim of the namespace is there
                claim_directory(self._data, namespace, name).parent.rmdir()
            self._retired.discard((namespace, name))
            self.get(namespace, name)
