"""`python -m sftjob_operator`: put the parts together and run them until the process is asked to end."""

import argparse
import asyncio
import logging
import os
import socket
import sys
from contextlib import closing
from importlib.metadata import version
from typing import Final
from urllib.parse import urlsplit

import kopf

from sftjob_operator.controller import Controller
from sftjob_operator.effects.cluster import ClusterError
from sftjob_operator.effects.kube import KubeCluster
from sftjob_operator.handlers import registry
from sftjob_operator.logs import configure_logging
from sftjob_operator.progress.endpoint import ProgressEndpoint
from sftjob_operator.progress.identity import TokenReviewer
from sftjob_operator.progress.tls import TlsError, server_context, tls_material
from sftjob_operator.reconcile import Settings
from sftjob_operator.render import RenderSettings
from sftjob_operator.settings import Address, OperatorSettings, SettingsError, configure, read_settings
from sftjob_operator.workqueue import SystemClock

EXIT_CONFIGURATION: Final = 2
"""The operator can not start as it is configured; the last log line says why."""

log = logging.getLogger("sftjob_operator")


def main() -> int:
    """Run the operator; answers the exit code of the process."""
    parser = argparse.ArgumentParser(prog="sftjob_operator", description=__doc__)
    parser.add_argument("--version", action="version", version=version("sftjob-operator"))
    parser.parse_args()
    configure_logging()
    try:
        asyncio.run(run(read_settings(os.environ)))
    except (SettingsError, TlsError, ClusterError, OSError) as error:
        log.critical("%s", error)
        return EXIT_CONFIGURATION
    return 0


async def run(settings: OperatorSettings) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        TlsError, ClusterError, OSError: it can not start: no certificate, no API server to name, or no free address.
    """
    clock = SystemClock()
    cluster = await KubeCluster.connect(settings.kubeconfig, settings.namespaces)
    with closing(_listener(settings.progress_address)) as listener:
        url = settings.progress_url or _own_url(listener)
        hosts = (urlsplit(url).hostname or "", settings.progress_address.host)
        tls = tls_material(settings.progress_tls_dir, hosts, clock.now())
        render = RenderSettings(trainer_image=settings.trainer_image, progress_url=url, progress_ca=tls.ca)
        deciding = Settings(render=render, silence_seconds=settings.silence_seconds)
        controller = Controller(cluster, deciding, settings.progress_interval_seconds, clock)
        reviewer = TokenReviewer(cluster.review_token, clock.now)
        endpoint = ProgressEndpoint(reviewer, controller.training_attempt, controller.report)
        await controller.first_listing()
        await endpoint.serve(listener, server_context(tls))
        log.info("started: trainers report to %s", url)
        async with asyncio.TaskGroup() as tasks:
            work = tasks.create_task(controller.run(settings.workers))

            async def stop() -> None:
                work.cancel()
                await endpoint.close()

            await _watch(registry(controller, cluster.credentials, stop), settings)
            work.cancel()
    await cluster.close()
    log.info("stopped")


async def _watch(handlers: kopf.OperatorRegistry, settings: OperatorSettings) -> None:
    kopf_settings = kopf.OperatorSettings()
    configure(kopf_settings)
    liveness = settings.liveness_address
    await kopf.operator(
        registry=handlers,
        settings=kopf_settings,
        clusterwide=not settings.namespaces,
        namespaces=settings.namespaces,
        liveness_endpoint=f"http://{liveness.host}:{liveness.port}/healthz" if liveness else None,
    )


def _listener(address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    return socket.create_server((address.host, address.port), family=family)


def _own_url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


if __name__ == "__main__":
    sys.exit(main())
