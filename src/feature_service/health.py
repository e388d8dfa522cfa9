"""``GET /health``: the truth about the service, in JSON; 200 if all is well, 503 if not."""

from __future__ import annotations

import json
import socket
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from importlib import import_module
from typing import Any, TypeAlias

import anyio

from anyamqp import Connection, SettingsError, State
from feature_service.service import FeatureService
from feature_service.settings import ServiceSettings

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]


def report(service: FeatureService) -> tuple[int, dict[str, object]]:
    """The status code and the body of the answer."""
    outbox = service.outbox
    states = {service.reading.state, service.publishing.state}
    is_well = states == {State.OPEN} and not outbox.is_full and not service.is_stopping
    body: dict[str, object] = {
        "status": "ok" if is_well else "stopping" if service.is_stopping else "degraded",
        "reading": _connection(service.reading),
        "publishing": _connection(service.publishing),
        "vectors": {
            "buffered": len(outbox),
            "buffer_full": outbox.is_full,
            "accepted": outbox.accepted,
            "refused": outbox.refused,
            "confirmed": outbox.confirmed,
            "retried": outbox.retried,
        },
        "events": {"read": dict(service.counters.events), "bad": service.counters.bad_events},
    }
    return (200 if is_well else 503), body


def _connection(connection: Connection) -> dict[str, object]:
    stats = connection.stats
    return {
        "state": stats.state.value,
        "reconnects": stats.reconnects,
        "unconfirmed": stats.unconfirmed,
        "last_error": None if stats.last_error is None else str(stats.last_error),
    }


class HealthApp:
    """The ASGI application (ASGI 3)."""

    def __init__(self, service: FeatureService) -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, send)

    async def _answer(self, scope: Scope, send: Send) -> None:
        headers: list[tuple[bytes, bytes]] = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
        body: Mapping[str, object]
        if scope["path"] != "/health":
            status, body = 404, {"error": "only /health is here"}
        elif scope["method"] not in ("GET", "HEAD"):
            status, body = 405, {"error": "only GET and HEAD are allowed"}
            headers.append((b"allow", b"GET, HEAD"))
        else:
            status, body = report(self._service)
        data = b"" if scope["method"] == "HEAD" else json.dumps(body).encode()
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": data})


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def serve(service: FeatureService, stopped: anyio.Event) -> None:
    """Serve the health endpoint of a service until ``stopped`` is set.

    Raises:
        SettingsError: the port cannot be had.
    """
    from hypercorn.config import Config

    config = Config()
    # Bound here, because hypercorn leaks its socket where the port cannot be had.
    config.bind = [f"fd://{_listen(service.settings).detach()}"]
    config.errorlog = None
    config.graceful_timeout = 1.0
    run: Callable[..., Awaitable[None]] = import_module(f"hypercorn.{service.settings.backend}").serve
    await run(HealthApp(service), config, shutdown_trigger=stopped.wait)


def _listen(settings: ServiceSettings) -> socket.socket:
    host, port = settings.health_host, settings.health_port
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise SettingsError(f"HEALTH_PORT: cannot listen on {host}, port {port}: {error.strerror or error}") from error
