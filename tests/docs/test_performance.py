"""docs/performance.md: what `auto` takes is what the trainer chooses on each machine."""

from dataclasses import replace

import pytest

from sftjob_contract.run.config import RunConfig
from sftjob_trainer.models.hardware import VARLEN_ATTENTION, Machine, choose
from sftjob_trainer.process.image import LIGER_PACKAGE
from support.jobs.doc_blocks import ROOT
from support.trainer.tiny import lora, run_config

LINES = (ROOT / "docs/performance.md").read_text(encoding="utf-8").splitlines()
FOR_CUDA = frozenset({LIGER_PACKAGE})


def table() -> list[tuple[str, ...]]:
    """Rows of the first table, without its head."""
    first = next(number for number, line in enumerate(LINES) if line.startswith("|---"))
    rows = []
    for line in LINES[first + 1 :]:
        if not line.startswith("|"):
            break
        rows.append(tuple(cell.strip() for cell in line.strip("|").split("|")))
    return rows


def chosen(gpu: str, capability: tuple[int, int] | None) -> tuple[str, ...]:
    machine = Machine(
        gpu=None if capability is None else gpu,
        capability=capability or (0, 0),
        packages=FOR_CUDA if capability else frozenset(),
    )

    def choice(config: RunConfig) -> tuple[str, str, str, str]:
        found = choose(replace(config, gpus=0 if capability is None else 1), machine)
        attention = {VARLEN_ATTENTION: "by document", None: "the model's default"}.get(found.attention, found.attention)
        return str(found.precision), str(found.dtype), str(attention), "Liger" if found.liger else "none"

    full = choice(run_config(model="m", dataset="d"))
    adapter = choice(run_config(model="m", dataset="d", method=lora()))
    packed = choice(run_config(model="m", dataset="d", packing=True))
    return gpu, full[0], adapter[1], full[1], packed[2], full[2], full[3]


@pytest.mark.parametrize(
    ("gpu", "capability"),
    [
        ("none", None),
        ("capability 7.5 (T4)", (7, 5)),
        ("capability 8.0 (A100)", (8, 0)),
        ("capability 9.0 (H100, H200)", (9, 0)),
    ],
)
def test_auto_takes_on_each_gpu_what_the_page_says(gpu: str, capability: tuple[int, int] | None) -> None:
    assert chosen(gpu, capability) in table()


def test_the_page_has_no_other_gpu() -> None:
    assert len(table()) == 4
