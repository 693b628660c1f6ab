"""What docs/failures.md shows of a real run, without what differs between one run and the next."""

import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from sftjob_contract.reasons import Reason
from sftjob_operator.reconcile.attempts.failure_reasons import POLICIES
from support.jobs.failing import Case
from support.jobs.small_jobs import Status

PAGE: Final = Path(__file__).resolve().parents[3] / "docs" / "failures.md"
WIDTH: Final = 120
_CONDITION: Final = ("type", "status", "reason", "message")
_ATTEMPT: Final = ("stage", "number", "reason", "exitCode", "fromStep", "reachedStep", "lostSteps", "message")
_ADJUSTMENT: Final = ("attempt", "reason", "perDeviceBatchSize", "gradientAccumulationSteps", "message")
_DIFFERS: Final = {
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ": "…",
    r"\bloss \d+\.\d+": "loss …",
    r"\d+ \w+ left\b": "… left",
    r"Evaluation loss went from \S+ to \S+\.": "Evaluation loss went from … to ….",
    r"from the process for \d+ s": "from the process for … s",
    r"it is at \S+ in \w+": "it is at … in …",
    r"takes \S+ and the volume has \S+ free of \S+;": "takes … and the volume has … free of …;",
    r"storage\.size: \S+ or more": "storage.size: … or more",
    r"pvc://input has .*?(?=\. Correct spec|$)": "pvc://input has …",
    r"/\S*/trainer/root/": "/",
}
"""What differs between machines and runs, and what the page has instead. The last is where the sandbox has a
container's files."""
_VARIES: Final = ("LOSS", "EVAL", "ETA", "AGE")
"""Columns that differ from run to run."""
Object = dict[str, Any]
Run = tuple[Case, str, Status]


def attempt_line(attempt: Object) -> str:
    """An attempt as `STAGE-NUMBER REASON EXIT-CODE at LAST-STEP, N lost`, without what is not known."""
    line = f"{attempt['stage']}-{attempt['number']} {attempt.get('reason', '-')} {attempt.get('exitCode', '-')}"
    line += f" at {attempt['reachedStep']}" if "reachedStep" in attempt else ""
    return line + (f", {attempt['lostSteps']} lost" if "lostSteps" in attempt else "")


def condition_line(entry: Object) -> str:
    """A condition as `TYPE STATUS REASON`."""
    return f"{entry['type']} {entry['status']} {entry['reason']}"


def seen(conditions: Sequence[Object]) -> list[Object]:
    """Those that tell of a failure: not Prepared where that went well, nor whether reports arrive."""
    told = [entry for entry in conditions if entry["type"] != "ProgressReporting"]
    return [entry for entry in told if condition_line(entry) != "Prepared True Prepared"]


def with_runs(text: str, reason: Reason, runs: Sequence[Run]) -> str:
    """The page `text` with the section of `reason` as it has to be."""
    section = re.compile(rf"(<!-- {reason}: [^>]* -->\n).*?(<!-- end of {reason} -->)", re.DOTALL)
    (found,) = section.finditer(text)
    hint = textwrap.fill(f"*What to change:* {POLICIES[reason].hint}", WIDTH, break_on_hyphens=False)
    shown = "\n\n".join([hint, *(_run(*run) for run in runs)])
    return f"{text[: found.start()]}{found[1]}\n{shown}\n\n{found[2]}{text[found.end() :]}"


def _run(case: Case, table: str, status: Status) -> str:
    shown: Object = {"conditions": [_part(entry, _CONDITION) for entry in _telling(seen(status["conditions"]))]}
    shown["attempts"] = [_part(entry, _ATTEMPT) for entry in status["attempts"] if not _is_good_prepare(entry)]
    if "adjustments" in status:
        shown["adjustments"] = [_part(entry, _ADJUSTMENT) for entry in status["adjustments"]]
    excerpt = yaml.safe_dump(shown, sort_keys=False, width=WIDTH, allow_unicode=True)
    return f"{case.told}\n\n```\n{_row(table)}\n```\n\n```yaml\n{excerpt}```"


def _telling(conditions: Sequence[Object]) -> list[Object]:
    """Without those that say the same as the last."""
    last = conditions[-1]
    return [entry for entry in conditions if entry is last or entry["message"] != last["message"]]


def _is_good_prepare(attempt: Object) -> bool:
    return attempt_line(attempt) == "prepare-1 Completed 0"


def _part(entry: Object, keys: Sequence[str]) -> Object:
    return {key: _steady(entry[key]) for key in keys if key in entry}


def _steady(value: Any) -> Any:
    """`value`, where a text has nothing that differs between runs."""
    if isinstance(value, str):
        for what, instead in _DIFFERS.items():
            value = re.sub(what, instead, value)
    return value


def _row(table: str) -> str:
    """What `kubectl get` printed of a job, with columns as wide as what is left in them."""
    header, row = table.splitlines()
    starts = [found.start() for found in re.finditer(r"\S+", header)]
    ends = [*starts[1:], None]
    cells = [(header[i:j].strip(), row[i:j].strip()) for i, j in zip(starts, ends, strict=True)]
    told = [(name, "…" if cell and name in _VARIES else cell) for name, cell in cells]
    widths = [max(map(len, cell)) for cell in told]
    lines = zip(*told, strict=True)
    shown = ("   ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) for line in lines)
    return "\n".join(line.rstrip() for line in shown)
