"""A typical TRL script: `plain.py SETTINGS`, a JSON file. Imports no project code.

With `tuned`, it is the script of a user who knows TRL and the machine well: no bf16 on a CPU, no recomputation, frozen
weights in the precision of the step, one packed sequence at a time with more accumulation. Otherwise precision,
recomputation and batch layout are TRL's defaults.
"""

import json
import resource
import sys
from pathlib import Path
from typing import Any

import torch
from datasets import load_dataset
from peft import LoraConfig
from transformers import BitsAndBytesConfig, TrainerCallback
from trl import SFTConfig, SFTTrainer


class Steps(TrainerCallback):
    """Writes a line for each step, as soon as it is done."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8", buffering=1)

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002 -- as transformers has it
        """Write step, loss and peak memory."""
        logs = kwargs["logs"]
        if "loss" in logs:
            line = {"step": state.global_step, "loss": float(logs["loss"]), "peakMemoryBytes": peak_memory()}
            self._file.write(json.dumps(line) + "\n")


def peak_memory() -> int:
    """Peak memory in bytes, of the GPU or without one of the process."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_reserved())
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def loading(settings: dict[str, Any]) -> dict[str, Any]:
    """Options for loading the model: TRL's defaults, except those that the method requires."""
    options: dict[str, Any] = {}
    if settings["tuned"]:
        frozen = settings["method"] != "full" and not settings["cpu"]
        options["dtype"] = "bfloat16" if frozen else "float32"
    if settings["method"] == "QLoRA":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    return options


def main() -> None:
    """Train with the given settings."""
    settings = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    batch, accumulation = settings["batch"], settings["accumulation"]
    tuned: dict[str, Any] = {}
    if settings["tuned"]:
        tuned = {"bf16": not settings["cpu"], "activation_checkpointing": False}
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
            model_init_kwargs=loading(settings),
            **tuned,
        ),
        peft_config=None
        if settings["method"] == "full"
        else LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"),
    )
    trainer.add_callback(Steps(Path(settings["steps_file"])))
    trainer.train()
    trainer.save_model()


if __name__ == "__main__":
    main()
