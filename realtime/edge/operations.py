"""What operators and their tools ask: the overview, the metrics; and who is online, which everybody may ask."""

from __future__ import annotations

from aiohttp import web

from realtime.adapters.metrics import Metrics
from realtime.edge import answers
from realtime.edge.routes import Answer, Asked, Route, Who
from realtime.services.operations import Operations


def operations_routes(operations: Operations, metrics: Metrics) -> list[Route]:
    async def overview(_asked: Asked) -> Answer:
        return Answer(await operations.overview())

    async def exposition(_asked: Asked) -> web.Response:
        operations.sample_process()
        text, content_type = metrics.text()
        return web.Response(body=text, headers={"Content-Type": content_type})

    return [
        Route("GET", "/api/v1/ops/overview", Who.ADMIN, overview, "How everything stands, on all instances.",
              answer=answers.OpsOverview),
        Route("GET", "/metrics", Who.ANYONE, exposition, "Prometheus text.", gives="text/plain"),
    ]  # fmt: skip
