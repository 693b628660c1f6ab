"""Options under the names of older releases, which are all over the web."""

from typing import Any

import pytest

from sftjob_trainer.preflight.extra_options import extra_problems
from support.trainer.stock import STOCK_WARNS
from support.trainer.tiny import run_config

pytestmark = STOCK_WARNS

REMOVED = [
    ("max_seq_length", 512),
    ("warmup_ratio", 0.1),
    ("evaluation_strategy", "no"),
    ("group_by_length", True),
    ("no_cuda", True),
    ("overwrite_output_dir", True),
    ("logging_dir", "logs"),
    ("save_safetensors", True),
    ("dataset_batch_size", 8),
    ("num_of_sequences", 8),
    ("use_liger", False),
    ("jit_mode_eval", False),
    ("dispatch_batches", False),
    ("adafactor", False),
    ("per_gpu_train_batch_size", 8),
]


@pytest.mark.parametrize(("name", "value"), REMOVED, ids=[name for name, _ in REMOVED])
def test_a_name_that_is_gone_is_told_before_anything_is_imported_where_trl_raises(name: str, value: Any) -> None:
    """Our check reads the installed library's source, so that it knows the names of that release and no others."""
    from trl import SFTConfig

    with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
        SFTConfig(output_dir="unused", use_cpu=True, bf16=False, **{name: value})

    [sentence] = extra_problems(run_config(model="m", dataset="d", extra={name: value}))
    assert sentence.startswith(f"training.extra.{name} is not a field of the installed trl.SFTConfig")


def test_trls_defaults_need_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our side: auto precision is fp32 without a GPU."""
    import torch
    from trl import SFTConfig

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")

    with pytest.raises(ValueError, match="bf16"):
        SFTConfig(output_dir="unused")
