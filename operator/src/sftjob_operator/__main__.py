"""`python -m sftjob_operator`: put the parts together and run them until the process is asked to end."""

import argparse
import asyncio
import logging
import os
import socket
import ssl
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Final, NoReturn
from urllib.parse import urlsplit

import kopf
from prometheus_client import CollectorRegistry

from sftjob_operator.controller import Controller
from sftjob_operator.effects.cluster import ClusterError, UnavailableError
from sftjob_operator.effects.kube import KubeCluster
from sftjob_operator.effects.lease import Holder, Lease
from sftjob_operator.garbage import collect_forever, leave_old_objects_alone
from sftjob_operator.handlers import registry
from sftjob_operator.metrics.endpoint import MetricsEndpoint
from sftjob_operator.metrics.jobs import JobMetrics
from sftjob_operator.metrics.operator import OperatorMetrics
from sftjob_operator.progress.availability import EndpointAvailability
from sftjob_operator.progress.endpoint import ProgressEndpoint
from sftjob_operator.progress.identity import TokenReviewer
from sftjob_operator.progress.tls import (
    RENEWAL_CHECK_SECONDS,
    TlsError,
    TlsMaterial,
    load_certificate,
    secret_material,
    server_context,
    tls_material,
)
from sftjob_operator.reconcile import Settings
from sftjob_operator.render import NodeLabel, RenderSettings
from sftjob_operator.runtime.kopf_shutdown import ShutdownCanceller
from sftjob_operator.runtime.logs import configure_logging, name_pods
from sftjob_operator.runtime.watch_age import WatchAge
from sftjob_operator.runtime.workqueue import SystemClock
from sftjob_operator.settings import Address, NamespacedName, OperatorSettings, SettingsError, configure, read_settings

EXIT_CONFIGURATION: Final = 2
"""The operator cannot start with its configuration; the last log line has the reason."""
EXIT_LEASE_LOST: Final = 3
"""The operator has lost its Lease."""
RESTART_SECONDS: Final = 1.0
FIRST_CERTIFICATE_RETRY_SECONDS: Final = 5.0

Material = Callable[[], Awaitable[TlsMaterial]]
"""Function that returns the current certificate."""

log = logging.getLogger("sftjob_operator")


def main() -> int:
    """Run the operator; return the exit code of the process."""
    parser = argparse.ArgumentParser(prog="sftjob_operator", description=__doc__)
    parser.add_argument("--version", action="version", version=version("sftjob-operator"))
    parser.parse_args()
    configure_logging()
    leave_old_objects_alone()
    try:
        _serve(read_settings(os.environ))
    except (SettingsError, TlsError, ClusterError, OSError) as error:
        log.critical("%s", error)
        return EXIT_CONFIGURATION
    return 0


def _serve(settings: OperatorSettings) -> None:
    """Run until asked to stop; restart from the beginning if a part fails permanently.

    kopf fails if a watch ends with any error but 410 Gone. Nothing is lost: the API server has all state.
    """
    while True:
        try:
            return asyncio.run(run(settings))
        except ExceptionGroup as failures:
            log.error("%s; restarting in %g s", failures.exceptions[0], RESTART_SECONDS)  # noqa: TRY400 -- kopf logged it
            time.sleep(RESTART_SECONDS)


async def run(settings: OperatorSettings) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        TlsError, ClusterError, OSError: it cannot start: no certificate, no API server configured, or no free address.
    """
    metrics = OperatorMetrics()
    cluster = await KubeCluster.connect(settings.kubeconfig, [metrics.trace()])
    try:
        async with _hold_lease(cluster, settings):
            await _run(cluster, settings, metrics)
    finally:
        await cluster.close()
    log.info("stopped")


@asynccontextmanager
async def _hold_lease(cluster: KubeCluster, settings: OperatorSettings) -> AsyncIterator[None]:
    """Hold the configured Lease while serving; losing it ends the process: it may decide nothing without it."""
    if settings.lease is None:
        yield
        return
    lease = Lease(settings.lease.namespace, settings.lease.name, Holder.of_this_process(settings.pod_name))
    cluster.write_while(lease.held)
    await lease.acquire(cluster)
    kept = asyncio.create_task(lease.keep(cluster))
    kept.add_done_callback(lambda task: None if task.cancelled() else _exit_on_lost_lease())
    try:
        yield
    finally:
        kept.cancel()
        await lease.release(cluster)


def _exit_on_lost_lease() -> NoReturn:
    """Exit at once: work in progress now belongs to the operator that holds the Lease."""
    log.critical("lost the Lease: another operator may hold it; exiting")
    os._exit(EXIT_LEASE_LOST)


async def _run(cluster: KubeCluster, settings: OperatorSettings, metrics: OperatorMetrics) -> None:
    clock = SystemClock()
    with closing(_listener(settings.progress_address)) as listener:
        host, port = listener.getsockname()[:2]
        url = settings.progress_url or f"https://{Address(host=host, port=port)}"
        hosts = (urlsplit(url).hostname or "", settings.progress_address.host)
        material = _material(cluster, settings.progress_tls, hosts, clock)
        tls = await _first_material(material)
        context = server_context(tls)
        label = settings.gpu_node_label
        render = RenderSettings(
            trainer_image=settings.trainer_image,
            progress_url=url,
            progress_ca=tls.ca,
            gpu_node=None if label is None else NodeLabel(key=label[0], value=label[1]),
        )
        decision_settings = Settings(render=render, silence_seconds=settings.silence_seconds)
        interval = settings.progress_interval_seconds
        controller = Controller(cluster, decision_settings, interval, clock, metrics, settings.namespaces)
        reviewer = TokenReviewer(cluster.review_token, clock.now)
        availability = EndpointAvailability(clock.now)
        controller.follow(availability)
        endpoint = ProgressEndpoint(
            reviewer, controller.training_attempt, controller.report, controller.newest_progress, availability
        )
        watches = WatchAge(clock.monotonic)
        scraped = MetricsEndpoint(_complete(metrics, controller, watches, clock, settings.metrics_jobs))
        name_pods(controller.newest_pod)
        await controller.first_listing()
        await endpoint.serve(listener, context)
        log.info("started: trainers report to %s", url)
        async with _serving(scraped, settings.metrics_address), asyncio.TaskGroup() as tasks:
            canceller = ShutdownCanceller()

            def use_ca(ca: str) -> None:
                availability.certificate_changed()
                controller.use(replace(decision_settings, render=replace(render, progress_ca=ca)))

            background = [
                tasks.create_task(controller.run(settings.workers)),
                tasks.create_task(keep_certificate(material, tls, context, use_ca)),
                tasks.create_task(availability.watch()),
                tasks.create_task(collect_forever()),
            ]

            async def stop() -> None:
                canceller.start()
                for task in background:
                    task.cancel()
                await endpoint.close()
                await scraped.close()

            with canceller:
                await _watch(registry(controller, cluster.credentials, stop, watches, metrics), settings)
            for task in background:
                task.cancel()


def _complete(
    metrics: OperatorMetrics, controller: Controller, watches: WatchAge, clock: SystemClock, limit: int
) -> CollectorRegistry:
    """Return the registry, with metrics that read the parts of this operator."""
    metrics.read("sftjob_workqueue_depth", "Jobs that wait for a worker.", controller.queue.__len__)
    metrics.read(
        "sftjob_unserved_namespaces",
        "Namespaces of SFTJOB_NAMESPACES that the API server refuses to list.",
        controller.unserved_namespaces,
    )
    metrics.read("sftjob_watch_age_seconds", "Since the API server last answered the older watch.", watches.seconds)
    metrics.registry.register(JobMetrics(controller.jobs, clock.now, limit))
    return metrics.registry


@asynccontextmanager
async def _serving(endpoint: MetricsEndpoint, address: Address | None) -> AsyncIterator[None]:
    if address is not None:
        await endpoint.serve(address.host, address.port)
    try:
        yield
    finally:
        await endpoint.close()


async def keep_certificate(
    material: Material, served: TlsMaterial, context: ssl.SSLContext, use_ca: Callable[[str], None]
) -> None:
    """Maintain the certificate until cancelled: serve the renewed one, and pass its CA to `use_ca`."""
    while True:
        await asyncio.sleep(RENEWAL_CHECK_SECONDS)
        try:
            fresh = await material()
            if fresh != served:
                load_certificate(context, fresh)
                if fresh.ca != served.ca:
                    use_ca(fresh.ca)
                served = fresh
                log.info("renewed the certificate of the progress endpoint")
        except (TlsError, ClusterError, OSError) as error:
            log.warning("certificate renewal failed: %s; retrying in %g s", error, RENEWAL_CHECK_SECONDS)


def _material(
    cluster: KubeCluster, where: Path | NamespacedName, hosts: tuple[str, ...], clock: SystemClock
) -> Material:
    async def material() -> TlsMaterial:
        if isinstance(where, Path):
            return tls_material(where, hosts, clock.now())
        return await secret_material(cluster, where.namespace, where.name, hosts, clock.now())

    return material


async def _first_material(material: Material) -> TlsMaterial:
    while True:
        try:
            return await material()
        except UnavailableError as error:
            log.warning("cannot read the certificate: %s; retrying", error)
            await asyncio.sleep(FIRST_CERTIFICATE_RETRY_SECONDS)


async def _watch(handlers: kopf.OperatorRegistry, settings: OperatorSettings) -> None:
    kopf_settings = kopf.OperatorSettings()
    configure(kopf_settings, settings.watch_silence_seconds)
    liveness = settings.liveness_address
    await kopf.operator(
        registry=handlers,
        settings=kopf_settings,
        clusterwide=not settings.namespaces,
        namespaces=settings.namespaces,
        liveness_endpoint=f"http://{liveness}/healthz" if liveness else None,
    )


def _listener(address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    return socket.create_server((address.host, address.port), family=family)


if __name__ == "__main__":
    sys.exit(main())
