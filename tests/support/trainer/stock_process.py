"""One of several processes of a script that trains with TRL alone: `... MODEL OUTPUT [OPTION=JSON ...]`.

It says, as JSON, of how many processes it believes itself to be one, and whether it believes itself to be the first.
With STOP_AT in its environment it gets SIGTERM after that step. Where no step follows another for hundreds of times
what one takes, it shows where it stands and ends with 1.
"""

import faulthandler
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from support.trainer.stock import stock_trainer

ROWS = [{"text": f"open file {number}"} for number in range(16)]


SILENT_SECONDS = 5


class Terminator(TrainerCallback):  # type: ignore[misc]
    """SIGTERM after a step, and an end when there is none."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        faulthandler.dump_traceback_later(SILENT_SECONDS, exit=True)
        if state.global_step == int(os.environ.get("STOP_AT", "0")):
            os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    options = {name: json.loads(value) for name, _, value in (option.partition("=") for option in sys.argv[3:])}
    trainer = stock_trainer(Path(sys.argv[1]), ROWS, Path(sys.argv[2]), **options)
    print(json.dumps([trainer.args.world_size, trainer.is_world_process_zero()]), flush=True)  # noqa: T201
    trainer.add_callback(Terminator())
    trainer.train()
