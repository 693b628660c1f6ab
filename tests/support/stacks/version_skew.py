"""What the previous version of the operator rendered: SFTJobs, and the text of the run config of each.

After a release: write tests/support/stacks/previous_run_configs.yaml again from the golden files of that release.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from support.checks.golden import load_documents


class Previous(NamedTuple):
    """An SFTJob, and its run config as the previous version wrote it into the ConfigMap."""

    job: Mapping[str, Any]
    config: str


PREVIOUS = [Previous(**each) for each in load_documents(Path(__file__).with_name("previous_run_configs.yaml"))]
