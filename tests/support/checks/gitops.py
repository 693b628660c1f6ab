"""What Argo CD and Flux make of an SFTJob: the shipped checks, run by a real Lua and a real CEL interpreter."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml
from cel_expr_python import cel
from cel_expr_python.ext import ext_optional, ext_strings
from lupa import lua51

from sftjob_contract.names import API_VERSION, KIND

FOLDER: Final = Path(__file__).parents[3] / "gitops"
HEALTH_LUA: Final = (FOLDER / "argocd" / "health.lua").read_text(encoding="utf-8")
FLUX: Final = yaml.safe_load((FOLDER / "flux" / "sftjobs.yaml").read_text(encoding="utf-8"))
_ARGO_LIBRARIES: Final = (
    "package", "table", "os", "assert", "collectgarbage", "error", "getmetatable", "ipairs", "load", "loadstring",
    "next", "pairs", "pcall", "rawequal", "rawget", "rawset", "require", "select", "setmetatable", "tonumber",
    "tostring", "type", "unpack", "xpcall", "_G", "_VERSION",
)  # fmt: skip
"""Globals that a script of a user's finds: gopher-lua's base, package and table, and a part of os."""
Object = Mapping[str, Any]


class Health(NamedTuple):
    """Argo CD's word for an object, and a sentence."""

    status: str
    message: str


def argo_health(job: Object, script: str = HEALTH_LUA) -> Health:
    """Run `script` as Argo CD does: Lua 5.1 without the string, math, io and debug libraries.

    Raises:
        lua51.LuaError: the script failed.
    """
    lua = lua51.LuaRuntime(register_eval=False, register_builtins=False)
    lua.execute("debug.setmetatable('', nil)")  # ("text"):upper() is the string library too
    names = lua.globals()
    for name in list(names):
        if name not in _ARGO_LIBRARIES:
            names[name] = None
    names.obj = lua.table_from(job, recursive=True)
    answer = lua.execute(script)
    return Health(answer.status, answer.message)


def flux_status(job: Object) -> str:
    """What Flux makes of the shipped expressions.

    Its order (github.com/fluxcd/pkg, runtime/cel): a generation that is not observed is InProgress, then inProgress,
    failed and current; none of them is InProgress, and an expression that cannot be evaluated is Unknown, which Flux
    waits on as well.
    """
    status = job.get("status") or {}
    if "observedGeneration" in status and status["observedGeneration"] != job["metadata"]["generation"]:
        return "InProgress"
    (expressions,) = FLUX["spec"]["healthCheckExprs"]
    assert (expressions["apiVersion"], expressions["kind"]) == (API_VERSION, KIND)
    for name, word in (("inProgress", "InProgress"), ("failed", "Failed"), ("current", "Current")):
        if (expression := expressions.get(name)) is None:
            continue
        result = _environment().compile(expression).eval(data=dict(job))
        if result.type() != cel.Type.BOOL:
            return "Unknown"
        if result.value():
            return word
    return "InProgress"


def _environment() -> cel.Env:
    fields = ("apiVersion", "kind", "metadata", "spec", "status")
    extensions = [ext_strings.ExtStrings(2), ext_optional.ExtOptional()]
    return cel.NewEnv(variables=dict.fromkeys(fields, cel.Type.DYN), extensions=extensions)
