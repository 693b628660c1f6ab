"""Rules of NetworkPolicies, which are kept and have no effect: Pods share the network of this machine.

Source: kubernetes' pkg/apis/networking/validation and pkg/apis/networking/v1/defaults.go.
"""

import ipaddress
from typing import Any, Final

from sftjob_sandbox import names
from sftjob_sandbox.builtin.scheduling import check_label_selector
from sftjob_sandbox.causes import GoText, forbidden, invalid, not_supported, quoted, required
from sftjob_sandbox.errors import Cause
from sftjob_sandbox.objects import Object

_PROTOCOLS: Final = ("SCTP", "TCP", "UDP")
_DIRECTIONS: Final = ("Egress", "Ingress")


def default_network_policy(policy: Object) -> None:
    """Directions that the rules imply, and TCP."""
    spec = policy.setdefault("spec", {})
    if not spec.get("policyTypes"):
        spec["policyTypes"] = ["Ingress", "Egress"] if spec.get("egress") else ["Ingress"]
    for rule in (*(spec.get("ingress") or ()), *(spec.get("egress") or ())):
        for port in rule.get("ports") or ():
            port.setdefault("protocol", "TCP")


def validate_network_policy(policy: Object, old: Object | None) -> list[Cause]:  # noqa: ARG001 -- one signature
    """Selectors, ports, peers and directions."""
    spec = policy.get("spec") or {}
    causes = check_label_selector(spec.get("podSelector") or {}, "spec.podSelector")
    for direction, peers in (("ingress", "from"), ("egress", "to")):
        for index, rule in enumerate(spec.get(direction) or ()):
            where = f"spec.{direction}[{index}]"
            for place, port in enumerate(rule.get("ports") or ()):
                causes += _port(port, f"{where}.ports[{place}]")
            for place, peer in enumerate(rule.get(peers) or ()):
                causes += _peer(peer, f"{where}.{peers}[{place}]")
    types = spec.get("policyTypes") or []
    if len(types) > len(_DIRECTIONS):
        return [*causes, invalid("spec.policyTypes", _shown(types), "may not specify more than two policyTypes")]
    wrong = [(index, name) for index, name in enumerate(types) if name not in _DIRECTIONS]
    return [*causes, *(not_supported(f"spec.policyTypes[{index}]", name, _DIRECTIONS) for index, name in wrong)]


def _shown(types: list[str]) -> GoText:
    return GoText("[]networking.PolicyType{" + ", ".join(quoted(name) for name in types) + "}")


def _port(port: Object, path: str) -> list[Cause]:
    causes = []
    if port.get("protocol") not in _PROTOCOLS:
        causes.append(not_supported(f"{path}.protocol", port.get("protocol") or "", _PROTOCOLS))
    target: Any = port.get("port")
    if isinstance(target, int):
        causes += [invalid(f"{path}.port", target, text) for text in names.port_number(target)]
    elif target is not None:
        causes += [invalid(f"{path}.port", target, text) for text in names.port_name(target)]
    end = port.get("endPort")
    if end is not None and not isinstance(target, int):
        text = "may not be specified when `port` is " + ("not specified" if target is None else "non-numeric")
        return [*causes, invalid(f"{path}.endPort", end, text)]
    if end is not None and end < target:
        causes.append(invalid(f"{path}.endPort", end, "must be greater than or equal to `port`"))
    return causes


def _peer(peer: Object, path: str) -> list[Cause]:
    if not peer:
        return [required(path, "must specify a peer")]
    causes = []
    for selector in ("podSelector", "namespaceSelector"):
        causes += check_label_selector(peer.get(selector) or {}, f"{path}.{selector}")
    block = peer.get("ipBlock")
    if block is not None and len(peer) > 1:
        return [*causes, forbidden(path, "may not specify both ipBlock and another peer")]
    return [*causes, *(_block(block, f"{path}.ipBlock") if block is not None else ())]


def _block(block: Object, path: str) -> list[Cause]:
    if not block.get("cidr"):
        return [required(f"{path}.cidr")]
    network = _network(block["cidr"])
    if network is None:
        return [_no_network(f"{path}.cidr", block["cidr"])]
    causes = []
    for index, text in enumerate(block.get("except") or ()):
        where, part = f"{path}.except[{index}]", _network(text)
        if part is None:
            causes.append(_no_network(where, text))
        elif part.version != network.version or part == network or not part.subnet_of(network):  # type: ignore[arg-type]
            causes.append(invalid(where, text, f"must be a strict subset of `cidr` {block['cidr']}"))
    return causes


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(text, strict=False) if "/" in text else None
    except ValueError:
        return None


def _no_network(path: str, text: str) -> Cause:
    return invalid(path, text, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)")
