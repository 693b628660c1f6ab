"""Real trainer processes that misbehave on order.

This directory, put on PYTHONPATH, holds a `sitecustomize` which every Python process runs first. What a trainer does
wrong is a JSON list in the environment variable TRAINER_FAULTS, each fault an object with its `kind`:

- `slow`: every step takes at least `seconds`, so that a run lasts on a machine of any speed.
- `signal`: the process gets the signal `number` after `step`; `to: parent` sends it to the process that started it.
- `nan`: the loss of the step after `step` is no number.

`rank` (default: every one) and `attempt` (default: every one) say which process does it.
"""

import json
from pathlib import Path
from typing import Any, Final

DIRECTORY: Final = Path(__file__).parent
VARIABLE: Final = "TRAINER_FAULTS"


def faulty(*faults: dict[str, Any]) -> dict[str, str]:
    """Environment variables that make a trainer misbehave."""
    return {"PYTHONPATH": str(DIRECTORY), VARIABLE: json.dumps(faults)}


def slow(seconds: float) -> dict[str, Any]:
    """Every step takes at least `seconds`."""
    return {"kind": "slow", "seconds": seconds}
