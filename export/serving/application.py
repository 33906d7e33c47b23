"""The web application that serves a model."""

import asyncio
import contextlib
import time

import prometheus_client
from fastapi import FastAPI
from fastapi import Request
from fastapi import Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from export.serving import open_inference
from export.serving import tf_serving
from export.serving.answers import make_answer
from export.serving.metrics import Metrics
from export.serving.request_error import RequestError
from export.serving.service import Service

# Nginx's, for a client that does not wait for its answer.
_CLIENT_CLOSED_REQUEST = 499


def make_application(service: Service, poll_seconds: float) -> FastAPI:
    """Returns an application that speaks both protocols.

    Args:
        service: what answers.
        poll_seconds: from one look at the model on disk to the next.
    """

    @contextlib.asynccontextmanager
    async def watch(application):
        watching = asyncio.create_task(service.watcher.watch(poll_seconds))
        yield
        watching.cancel()

    # Its pages of documentation load scripts from elsewhere.
    application = FastAPI(
        lifespan=watch, docs_url=None, redoc_url=None, openapi_url=None
    )
    application.include_router(tf_serving.make_router(service))
    application.include_router(open_inference.make_router(service))
    application.add_middleware(_Measurement, metrics=service.metrics)

    @application.get("/metrics")
    async def describe_metrics() -> Response:
        return Response(
            service.metrics.describe(),
            media_type=prometheus_client.CONTENT_TYPE_LATEST,
        )

    @application.exception_handler(RequestError)
    async def refuse(request: Request, error: RequestError) -> Response:
        answer = make_answer({"error": error.message}, error.status)
        if error.status == 503:
            answer.headers["retry-after"] = "1"
        return answer

    @application.exception_handler(ClientDisconnect)
    async def forget(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=_CLIENT_CLOSED_REQUEST)

    @application.exception_handler(HTTPException)
    async def refuse_route(request: Request, error: HTTPException) -> Response:
        return make_answer(
            {"error": f"{request.method} {request.url.path}: {error.detail}."},
            error.status_code,
        )

    @application.exception_handler(Exception)
    async def fail(request: Request, error: Exception) -> Response:
        return make_answer(
            {"error": "The server failed; its log says of what."}, 500
        )

    return application


class _Measurement:
    """Counts and times requests to predict."""

    def __init__(self, application, metrics: Metrics):
        self._application = application
        self._metrics = metrics

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._application(scope, receive, send)
            return
        begin = time.perf_counter()
        status = 500

        async def send_and_note(message):
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._application(scope, receive, send_and_note)
        finally:
            protocol = "v2" if scope["path"].startswith("/v2") else "v1"
            self._metrics.requests.labels(protocol, status).inc()
            self._metrics.request_seconds.labels(protocol).observe(
                time.perf_counter() - begin
            )
