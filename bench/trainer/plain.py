"""The script that people write with TRL: `plain.py SETTINGS`, a JSON file. Nothing of ours is imported.

With `tuned` it is what someone writes who knows TRL and a CPU well: no bf16, no recomputation, one packed sequence at a
time with more accumulation. Otherwise precision, recomputation and batch layout are TRL's defaults.
"""

import json
import sys
from pathlib import Path
from typing import Any

from datasets import load_dataset
from peft import LoraConfig
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer


class Steps(TrainerCallback):  # type: ignore[misc]
    """A line for each step, as soon as it is done."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8", buffering=1)

    def on_log(self, _args: Any, state: Any, _control: Any, logs: Any = None, **_others: Any) -> None:
        """Step and loss."""
        if "loss" in logs:
            self._file.write(json.dumps({"step": state.global_step, "loss": float(logs["loss"])}) + "\n")


def main() -> None:
    """Train as the settings say."""
    settings = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    batch, accumulation = settings["batch"], settings["accumulation"]
    tuned = {}
    if settings["tuned"]:
        tuned = {"bf16": False, "activation_checkpointing": False, "model_init_kwargs": {"dtype": "float32"}}
        if settings["packing"]:
            batch, accumulation = 1, batch * accumulation
    trainer = SFTTrainer(
        model=settings["model"],
        train_dataset=load_dataset("json", data_files=settings["data"], split="train"),
        args=SFTConfig(
            output_dir=settings["output"],
            max_steps=settings["steps"],
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation,
            learning_rate=settings["learningRate"],
            lr_scheduler_type="constant",
            optim=settings["optimizer"],
            max_length=settings["maxLength"],
            packing=settings["packing"],
            seed=settings["seed"],
            use_cpu=settings["cpu"],
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            **tuned,
        ),
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear") if settings["lora"] else None,
    )
    trainer.add_callback(Steps(Path(settings["steps_file"])))
    trainer.train()
    trainer.save_model()


if __name__ == "__main__":
    main()
