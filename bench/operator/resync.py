"""What one resync costs: `python resync.py KUBECONFIG` prints the CPU seconds of each of two as JSON.

A process of its own, so that it runs with the sources of any release (PYTHONPATH). It lists from the server, and takes
in and looks at all jobs, as the operator does at its start and every ten minutes. The first is the one of a start.
"""

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Final

from sftjob_operator.controller import Controller
from sftjob_operator.effects.kube import KubeCluster
from sftjob_operator.metrics.operator import OperatorMetrics
from sftjob_operator.reconcile import Settings
from sftjob_operator.render import RenderSettings
from sftjob_operator.workqueue import SystemClock

RESYNCS: Final = 2
_INTERVAL_SECONDS: Final = 10.0
_SILENCE_SECONDS: Final = 600


async def measure(kubeconfig: Path) -> list[float]:
    """CPU seconds of this process for each resync, in the order in which they were made."""
    cluster = await KubeCluster.connect(kubeconfig, ())
    try:
        render = RenderSettings(trainer_image="image", progress_url=None, progress_ca=None)
        settings = Settings(render=render, silence_seconds=_SILENCE_SECONDS)
        controller = Controller(cluster, settings, _INTERVAL_SECONDS, SystemClock(), OperatorMetrics())
        spent = []
        for _ in range(RESYNCS):
            begin = time.process_time()
            await controller.resync()
            while len(controller.queue):
                await controller.work()
            spent.append(time.process_time() - begin)
    finally:
        await cluster.close()
    return spent


if __name__ == "__main__":
    print(json.dumps(asyncio.run(measure(Path(sys.argv[1])))))
