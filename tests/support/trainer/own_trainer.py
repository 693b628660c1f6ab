"""What an image of the user's own may run: an unmodified transformers Trainer, with nothing of this project in it.

    python -c PROGRAM STEPS

It trains a tiny model until a file `stop-ATTEMPT` lies on the job's volume, saves a checkpoint there, and goes on from
it in the next attempt. The first attempt asks to be run again.
"""

import os
import sys
import time
from pathlib import Path
from typing import Any, Final

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

LEAST_STEP_SECONDS: Final = 0.05
"""So that a run lasts on a machine of any speed."""
RUN_ME_AGAIN: Final = 75
_ROWS: Final = 64
_TOKENS: Final = 16


class Rows(torch.utils.data.Dataset):
    """The same row over and over, which takes a while to read."""

    def __len__(self) -> int:
        """Rows of an epoch."""
        return _ROWS

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One row."""
        time.sleep(LEAST_STEP_SECONDS)
        tokens = torch.arange(_TOKENS)
        return {"input_ids": tokens, "labels": tokens}


class StopWhenAsked(TrainerCallback):
    """Ends training early, with a checkpoint, once a file is there."""

    def __init__(self, asked: Path) -> None:
        self._asked = asked

    def on_step_end(self, *told: Any, **_: Any) -> None:
        """Look for the file. What is told by position is (arguments, state, control)."""
        control = told[2]
        control.should_save = control.should_training_stop = self._asked.exists()


def main() -> int:
    """Train; the exit code of this process."""
    volume, attempt = Path(os.environ["SFTJOB_VOLUME"]), os.environ["SFTJOB_ATTEMPT"]
    output = volume / "output"
    config = LlamaConfig(
        vocab_size=_TOKENS,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        max_position_embeddings=_TOKENS,
    )
    arguments = TrainingArguments(
        output_dir=str(output),
        max_steps=int(sys.argv[1]),
        per_device_train_batch_size=1,
        logging_steps=1,
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    stop = StopWhenAsked(volume / f"stop-{attempt}")
    trainer = Trainer(model=LlamaForCausalLM(config), args=arguments, train_dataset=Rows(), callbacks=[stop])
    trainer.train(resume_from_checkpoint=any(output.glob("checkpoint-*")))
    return RUN_ME_AGAIN if attempt == "1" else 0


if __name__ == "__main__":
    sys.exit(main())
