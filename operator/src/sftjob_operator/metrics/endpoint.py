"""`GET /metrics` over plain HTTP, in the text format or as OpenMetrics, by the scraper's Accept header."""

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.aiohttp import make_aiohttp_handler


class MetricsEndpoint:
    """Server of one registry, until it is closed."""

    def __init__(self, registry: CollectorRegistry) -> None:
        app = web.Application(client_max_size=1)
        app.router.add_get("/metrics", make_aiohttp_handler(registry))
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)

    async def serve(self, host: str, port: int) -> None:
        """Start listening.

        Raises:
            OSError: the address is not available.
        """
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port).start()

    async def close(self) -> None:
        """Stop listening and close open connections."""
        await self._runner.cleanup()
