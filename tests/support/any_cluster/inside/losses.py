"""Runs in a Pod of the trainer's image: compares the losses of two runs, whose volumes are at $FIRST and $SECOND."""

import json
import os
from pathlib import Path

from sftjob_contract.layout import METRICS


def losses(volume: str) -> dict[int, float]:
    """Loss of each step; of a step that was done again, the last one."""
    text = (Path(os.environ[volume]) / METRICS).read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


first, second = losses("FIRST"), losses("SECOND")
different = [step for step in sorted(first.keys() & second.keys()) if abs(first[step] - second[step]) > 1e-6]
answer = {"first": len(first), "second": len(second), "missing": sorted(second.keys() - first.keys())[:9]}
print(json.dumps({**answer, "different": different[:9]}))
