"""The query parameters of writes: CreateOptions, UpdateOptions, PatchOptions and DeleteOptions."""

from typing import Final, cast

from multidict import MultiMapping

from sftjob_sandbox.apimachinery.causes import forbidden, not_supported, required, too_long
from sftjob_sandbox.apimachinery.errors import Cause, invalid
from sftjob_sandbox.apimachinery.objects import Object
from sftjob_sandbox.http.listing import flag, integer
from sftjob_sandbox.storage.decoding import FieldValidation
from sftjob_sandbox.storage.writes import WriteOptions

_MANAGER_LIMIT: Final = 128
_VALIDATIONS: Final = ("", "Ignore", "Strict", "Warn")


def parse_write_options(kind: str, query: MultiMapping[str], user_agent: str, *, apply: bool = False) -> WriteOptions:
    """Read the options of a create, update or patch; `kind` names them in errors. Raises ApiError 422."""
    causes = _causes(kind, query, apply=apply)
    if causes:
        raise invalid(kind, "meta.k8s.io", "", causes)
    return WriteOptions(
        manager=query.get("fieldManager") or manager_of(user_agent),
        field_validation=cast(FieldValidation, query.get("fieldValidation") or "Warn"),
        dry_run="All" in query.getall("dryRun", []),
        force=flag(query, "force"),
    )


def manager_of(user_agent: str) -> str:
    """The field manager of a client that names none: its user agent up to the first slash."""
    name = "".join(character for character in user_agent.partition("/")[0] if character.isprintable())
    return name.encode()[:_MANAGER_LIMIT].decode(errors="ignore") or "unknown"


def delete_options_of_query(query: MultiMapping[str]) -> Object:
    """DeleteOptions as query parameters give them, where there is no body."""
    body: Object = {"dryRun": query.getall("dryRun", [])}
    if "propagationPolicy" in query:
        body["propagationPolicy"] = query["propagationPolicy"]
    if "orphanDependents" in query:
        body["orphanDependents"] = flag(query, "orphanDependents")
    if (seconds := integer(query, "gracePeriodSeconds")) is not None:
        body["gracePeriodSeconds"] = seconds
    return body


def _causes(kind: str, query: MultiMapping[str], *, apply: bool) -> list[Cause]:
    causes = []
    manager = query.get("fieldManager", "")
    if apply and not manager:
        causes.append(required("fieldManager", "is required for apply patch"))
    if kind == "PatchOptions" and not apply and "force" in query:
        causes.append(forbidden("force", "may not be specified for non-apply patch"))
    if len(manager.encode()) > _MANAGER_LIMIT:
        causes.append(too_long("fieldManager", _MANAGER_LIMIT))
    dry_run = query.getall("dryRun", [])
    if any(value != "All" for value in dry_run):
        causes.append(not_supported("dryRun", dry_run, ("All",)))
    validation = query.get("fieldValidation", "")
    if validation not in _VALIDATIONS:
        causes.append(not_supported("fieldValidation", validation, _VALIDATIONS))
    return causes
