"""Rules of security contexts. Source: kubernetes' pkg/apis/core/validation."""

from typing import Final

from sftjob_sandbox import names
from sftjob_sandbox.builtin.volumes import descending_path
from sftjob_sandbox.causes import duplicate, invalid, not_supported, required
from sftjob_sandbox.errors import Cause
from sftjob_sandbox.objects import Object

_MAX_ID: Final = 2**31 - 1
_PROFILES: Final = ("Localhost", "RuntimeDefault", "Unconfined")


def _check_id(context: Object, key: str, path: str) -> list[Cause]:
    value = context.get(key)
    if value is None:
        return []
    return [invalid(f"{path}.{key}", value, text) for text in names.between(value, 0, _MAX_ID)]


def _check_profile(profile: Object | None, path: str, called: str) -> list[Cause]:
    """A seccomp or AppArmor profile."""
    if profile is None:
        return []
    kind = profile.get("type") or ""
    if not kind:
        attribute = "seccompProfile" if called == "seccomp" else "appArmorProfile"
        return [required(f"{path}.type", f"type is required when {attribute} is set")]
    if kind not in _PROFILES:
        return [not_supported(f"{path}.type", kind, _PROFILES)]
    return _check_local_profile(kind, profile.get("localhostProfile"), f"{path}.localhostProfile", called)


def _check_local_profile(kind: str, local: str | None, path: str, called: str) -> list[Cause]:
    if kind != "Localhost":
        return [] if local is None else [invalid(path, local, f"can only be set when {called} type is Localhost")]
    if not local:
        return [required(path, f"must be set when {called} type is Localhost")]
    return descending_path(local, path) if called == "seccomp" else []


def check_security_context(context: Object | None, path: str) -> list[Cause]:
    """The security context of a container."""
    if context is None:
        return []
    causes = [*_check_id(context, "runAsUser", path), *_check_id(context, "runAsGroup", path)]
    mount = context.get("procMount")
    if mount is not None and mount not in ("Default", "Unmasked"):
        causes.append(not_supported(f"{path}.procMount", mount, ("Default", "Unmasked")))
    causes += _check_profile(context.get("seccompProfile"), f"{path}.seccompProfile", "seccomp")
    if context.get("allowPrivilegeEscalation") is False:
        if context.get("privileged"):
            text = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true"
            causes.append(invalid(path, context, text))
        if "CAP_SYS_ADMIN" in ((context.get("capabilities") or {}).get("add") or ()):
            text = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN"
            causes.append(invalid(path, context, text))
    return [*causes, *_check_profile(context.get("appArmorProfile"), f"{path}.appArmorProfile", "AppArmor")]


def check_pod_security_context(context: Object, spec: Object, path: str) -> list[Cause]:
    """The security context of a Pod."""
    causes = [cause for key in ("fsGroup", "runAsUser", "runAsGroup") for cause in _check_id(context, key, path)]
    for index, group in enumerate(context.get("supplementalGroups") or ()):
        texts = names.between(group, 0, _MAX_ID)
        causes += [invalid(f"{path}.supplementalGroups[{index}]", group, text) for text in texts]
    if spec.get("shareProcessNamespace") and spec.get("hostPID"):
        text = "ShareProcessNamespace and HostPID cannot both be enabled"
        causes.append(invalid(f"{path}.shareProcessNamespace", True, text))
    taken: set[str] = set()
    for index, entry in enumerate(context.get("sysctls") or ()):
        name = entry.get("name") or ""
        if not name:
            causes.append(required(f"{path}.sysctls[{index}].name"))
        elif name in taken:
            causes.append(duplicate(f"{path}.sysctls[{index}].name", name))
        taken.add(name)
    policy = context.get("fsGroupChangePolicy")
    if policy is not None and policy not in ("Always", "OnRootMismatch"):
        causes.append(not_supported(f"{path}.fsGroupChangePolicy", policy, ("Always", "OnRootMismatch")))
    causes += _check_profile(context.get("seccompProfile"), f"{path}.seccompProfile", "seccomp")
    return [*causes, *_check_profile(context.get("appArmorProfile"), f"{path}.appArmorProfile", "AppArmor")]
