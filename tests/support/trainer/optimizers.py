"""Optimizers that this environment, like the images, has the packages for."""

from importlib.util import find_spec
from typing import Final

from sftjob_contract.run.optimization import Optimizer

INSTALLED: Final = [one for one in Optimizer if one.package is None or find_spec(one.package)]
ABSENT: Final = [one for one in Optimizer if one not in INSTALLED]
