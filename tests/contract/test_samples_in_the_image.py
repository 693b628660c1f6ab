"""Samples without an image of their own run in the trainer's: nothing that they ask for is missing there."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from sftjob_operator.api import parse_job
from sftjob_operator.render import run_config
from sftjob_trainer.models.hardware import best_machine, choose
from sftjob_trainer.process.image import FLASH_PACKAGES, LIGER_PACKAGE, TRACKERS, needed_packages
from support.jobs.builders import UID
from support.jobs.manifests import ROOT, SAMPLES, load_manifest

INSTALLED = frozenset(re.findall(r"^([\w.-]+)==", (ROOT / "requirements" / "trainer.txt").read_text(), re.MULTILINE))


def test_the_image_for_a_cpu_has_no_fast_kernels_and_the_samples_are_tried_without() -> None:
    assert "transformers" in INSTALLED
    assert not INSTALLED & {*FLASH_PACKAGES.values(), LIGER_PACKAGE.replace("_", "-")}


@pytest.mark.parametrize("path", [pytest.param(path, id=path.stem) for path in SAMPLES])
def test_a_sample_asks_for_nothing_that_its_image_lacks_but_trackers_that_it_names(path: Path) -> None:
    body = load_manifest(path)
    job = parse_job({**body, "metadata": {**body["metadata"], "namespace": "team", "uid": UID}})
    if job.spec.image is None and job.spec.command is None:
        config = run_config(job)
        chosen = choose(config, replace(best_machine(config), packages=frozenset(), compiler=False))
        assert (chosen.attention in FLASH_PACKAGES, chosen.liger) == (False, False)
        for_cuda = choose(config, replace(best_machine(config), packages=frozenset({LIGER_PACKAGE}), compiler=True))
        assert (for_cuda.attention in FLASH_PACKAGES, for_cuda.liger) == (False, config.gpus > 0)
        absent = {package for _, package in needed_packages(config)} - INSTALLED
        assert absent <= {*TRACKERS}
        head = re.match(r"(#.*\n)*", path.read_text())
        assert head is not None
        assert {*re.findall(r"TRACKERS=(\w+)", head[0])} == absent
