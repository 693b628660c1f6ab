"""Cost of one resync: `python resync.py KUBECONFIG` prints the CPU seconds of each of two as JSON.

A separate process, so that it can run with the sources of any release (PYTHONPATH). It lists all jobs from the server
and processes them, as the operator does at its start and every ten minutes. The first resync is that of a start.
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
from sftjob_operator.runtime.workqueue import SystemClock

RESYNCS: Final = 2
_INTERVAL_SECONDS: Final = 10.0
_SILENCE_SECONDS: Final = 600


async def measure(kubeconfig: Path) -> list[float]:
    """CPU seconds of this process for each resync, in order."""
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
