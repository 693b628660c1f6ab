"""Ask a model trained by an SFTJob: `python answer.py MODEL [--adapter DIRECTORY] QUESTION ...`."""

import argparse
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

MAX_NEW_TOKENS: Final = 80
NO_REPEAT_NGRAM: Final = 3
"""No sequence of this many tokens is repeated: small models tend to loop."""


def answers(questions: Sequence[str], model: Path, adapter: Path | None = None) -> list[str]:
    """The most likely answer of the model to each question.

    `model` is a directory in hub layout; `adapter` is a directory saved by PEFT, trained on top of that model.
    """
    # PEFT imports it. On some CPUs it then requests kernels that are not needed here.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    import torch  # noqa: PLC0415 -- seconds to import, and a usage error needs none of it
    from peft import PeftModel  # noqa: PLC0415 -- same
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415 -- same

    tokenizer: Any = AutoTokenizer.from_pretrained(model)
    network: Any = AutoModelForCausalLM.from_pretrained(model)
    if adapter is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # PEFT 0.21 uses an old name of transformers 5.23
            network = PeftModel.from_pretrained(network, adapter)
    network.eval()
    texts = []
    for question in questions:
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        with torch.no_grad():
            output = network.generate(
                **prompt, max_new_tokens=MAX_NEW_TOKENS, do_sample=False, no_repeat_ngram_size=NO_REPEAT_NGRAM
            )
        new = output[0, prompt["input_ids"].shape[1] :]
        texts.append(" ".join(tokenizer.decode(new, skip_special_tokens=True).split()))
    return texts


def main() -> None:
    """Print each question and its answer."""
    parser = argparse.ArgumentParser(description="Ask a model that an SFTJob made.")
    parser.add_argument("model", type=Path, help="directory of the model, such as .../output/model")
    parser.add_argument("--adapter", type=Path, help="directory of a LoRA adapter, such as .../output/adapter")
    parser.add_argument("questions", nargs="+", metavar="QUESTION")
    arguments = parser.parse_args()
    for question, text in zip(
        arguments.questions, answers(arguments.questions, arguments.model, arguments.adapter), strict=True
    ):
        print(f"{question}\n  {text}")


if __name__ == "__main__":
    main()
