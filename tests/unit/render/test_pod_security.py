"""The check of the restricted standard refuses, one by one, everything that the standard forbids."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from support.checks.pod_security import violations

Pod = dict[str, Any]
GOOD: Pod = {
    "metadata": {"name": "good", "annotations": {}},
    "spec": {
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [
            {
                "name": "main",
                "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
            }
        ],
        "volumes": [{"name": "scratch", "emptyDir": {}}],
    },
}


def in_spec(**fields: Any) -> Callable[[Pod], None]:
    return lambda pod: pod["spec"].update(fields)


def for_pod(**fields: Any) -> Callable[[Pod], None]:
    return lambda pod: pod["spec"]["securityContext"].update(fields)


def for_container(**fields: Any) -> Callable[[Pod], None]:
    return lambda pod: pod["spec"]["containers"][0]["securityContext"].update(fields)


def in_container(**fields: Any) -> Callable[[Pod], None]:
    return lambda pod: pod["spec"]["containers"][0].update(fields)


def volume(**source: Any) -> Callable[[Pod], None]:
    return lambda pod: pod["spec"]["volumes"].append({"name": "x", **source})


def annotation(name: str, value: str) -> Callable[[Pod], None]:
    return lambda pod: pod["metadata"]["annotations"].update({name: value})


APPARMOR = "container.apparmor.security.beta.kubernetes.io/main"
FORBIDDEN: dict[str, tuple[Callable[[Pod], None], str]] = {
    "host network": (in_spec(hostNetwork=True), "hostNetwork must be unset or false"),
    "host PIDs": (in_spec(hostPID=True), "hostPID must be unset or false"),
    "host IPC": (in_spec(hostIPC=True), "hostIPC must be unset or false"),
    "privileged": (for_container(privileged=True), "main: privileged must be unset or false"),
    "a capability": (
        for_container(capabilities={"drop": ["ALL"], "add": ["SYS_ADMIN"]}),
        "main: capabilities.add may hold NET_BIND_SERVICE only",
    ),
    "capabilities kept": (for_container(capabilities=None), "main: capabilities.drop must hold ALL"),
    "some capabilities kept": (
        for_container(capabilities={"drop": ["SYS_ADMIN"]}),
        "main: capabilities.drop must hold ALL",
    ),
    "host path": (volume(hostPath={"path": "/"}), "volume x must not be a hostPath"),
    "NFS": (volume(nfs={"server": "s", "path": "/"}), "volume x must not be a nfs"),
    "an image as a volume": (volume(image={"reference": "r"}), "volume x must not be a image"),
    "a volume of no type": (volume(), "volume x must not be a volume without a type"),
    "host port": (in_container(ports=[{"containerPort": 80, "hostPort": 80}]), "main: hostPort must not be set"),
    "a probe elsewhere": (
        in_container(livenessProbe={"httpGet": {"port": 80, "host": "10.0.0.1"}}),
        "main: livenessProbe.httpGet.host must not be set",
    ),
    "a TCP probe elsewhere": (
        in_container(startupProbe={"tcpSocket": {"port": 80, "host": "10.0.0.1"}}),
        "main: startupProbe.tcpSocket.host must not be set",
    ),
    "a hook elsewhere": (
        in_container(lifecycle={"preStop": {"httpGet": {"port": 80, "host": "10.0.0.1"}}}),
        "main: lifecycle.preStop.httpGet.host must not be set",
    ),
    "AppArmor off": (
        for_pod(appArmorProfile={"type": "Unconfined"}),
        "spec: appArmorProfile.type must be RuntimeDefault or Localhost",
    ),
    "AppArmor off for one": (
        for_container(appArmorProfile={"type": "Unconfined"}),
        "main: appArmorProfile.type must be RuntimeDefault or Localhost",
    ),
    "AppArmor off by annotation": (
        annotation(APPARMOR, "unconfined"),
        f"annotation {APPARMOR} must be runtime/default or localhost/*",
    ),
    "SELinux type": (for_pod(seLinuxOptions={"type": "spc_t"}), "spec: seLinuxOptions.type must be one for containers"),
    "SELinux user": (for_pod(seLinuxOptions={"user": "u"}), "spec: seLinuxOptions.user must not be set"),
    "SELinux role": (for_container(seLinuxOptions={"role": "r"}), "main: seLinuxOptions.role must not be set"),
    "/proc unmasked": (for_container(procMount="Unmasked"), "main: procMount must be Default"),
    "a sysctl": (for_pod(sysctls=[{"name": "kernel.msgmax"}]), "sysctl kernel.msgmax must not be set"),
    "no seccomp": (for_pod(seccompProfile=None), "main: seccompProfile.type must be RuntimeDefault or Localhost"),
    "seccomp off": (
        for_pod(seccompProfile={"type": "Unconfined"}),
        "spec: seccompProfile.type must be RuntimeDefault or Localhost",
    ),
    "seccomp off for one": (
        for_container(seccompProfile={"type": "Unconfined"}),
        "main: seccompProfile.type must be RuntimeDefault or Localhost",
    ),
    "escalation": (for_container(allowPrivilegeEscalation=True), "main: allowPrivilegeEscalation must be false"),
    "escalation by default": (
        in_container(securityContext={"capabilities": {"drop": ["ALL"]}}),
        "main: allowPrivilegeEscalation must be false",
    ),
    "maybe root": (for_pod(runAsNonRoot=None), "main: runAsNonRoot must be true"),
    "root allowed for one": (for_container(runAsNonRoot=False), "main: runAsNonRoot must be true"),
    "root": (for_pod(runAsUser=0), "spec: runAsUser must not be 0"),
    "root in one": (for_container(runAsUser=0), "main: runAsUser must not be 0"),
}
ALLOWED: dict[str, Callable[[Pod], None]] = {
    "nothing more": in_spec(),
    "the container says it itself": for_container(runAsNonRoot=True, seccompProfile={"type": "Localhost"}),
    "binding low ports": for_container(capabilities={"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}),
    "a probe of itself": in_container(livenessProbe={"httpGet": {"port": 80}}),
    "a safe sysctl": for_pod(sysctls=[{"name": "net.ipv4.tcp_syncookies"}]),
    "AppArmor's default": for_pod(appArmorProfile={"type": "RuntimeDefault"}),
    "AppArmor's default by annotation": annotation(APPARMOR, "runtime/default"),
    "SELinux for containers": for_pod(seLinuxOptions={"type": "container_t", "level": "s0:c1"}),
    "a claim": volume(persistentVolumeClaim={"claimName": "c"}),
    "another user": for_pod(runAsUser=1000),
}


def changed(change: Callable[[Pod], None]) -> Pod:
    pod = copy.deepcopy(GOOD)
    change(pod)
    return pod


@pytest.mark.parametrize("case", FORBIDDEN)
def test_what_the_standard_forbids_is_seen(case: str) -> None:
    change, complaint = FORBIDDEN[case]
    assert violations(changed(change)) == [complaint]


@pytest.mark.parametrize("case", ALLOWED)
def test_what_the_standard_allows_passes(case: str) -> None:
    assert violations(changed(ALLOWED[case])) == []


@pytest.mark.parametrize("kind", ["initContainers", "ephemeralContainers"])
def test_containers_of_every_kind_are_looked_at(kind: str) -> None:
    assert violations(changed(in_spec(**{kind: [{"name": "other"}]}))) == [
        "other: allowPrivilegeEscalation must be false",
        "other: capabilities.drop must hold ALL",
    ]
