"""The health endpoints: ``GET`` or ``HEAD`` ``/live``, ``/ready`` and ``/health``, with JSON bodies.

===========  =======================================================  =================================================
path         200 when                                                 for
===========  =======================================================  =================================================
``/live``    the event loop runs; there is no other answer            a supervisor that restarts a hung process.
                                                                      Brokers, queues and events do not count: a
                                                                      restart mends none, and loses waiting vectors
``/ready``   both connections are open, every source queue is read,   a supervisor that waits until the service works,
             vectors are published, the service is not stopping       such as a rolling update
``/health``  it is ready and the buffer has room                      people and monitoring: the body has all details
===========  =======================================================  =================================================

Otherwise the status is 503. The body shows only the class and the AMQP reply code of an error: the text may name hosts,
users and queues. It is in the log.
"""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from errno import EACCES, EADDRINUSE
from importlib import import_module
from typing import Any, Final, TypeAlias

import anyio

from anyamqp import Connection, ReplyError, SettingsError
from feature_service.reader import QueueReader
from feature_service.service import FeatureService
from feature_service.settings import ServiceSettings

_LOGGER: Final = logging.getLogger("feature_service")

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]


def report(service: FeatureService) -> tuple[int, dict[str, object]]:
    """The status code and the body of ``/health``."""
    outbox = service.outbox
    is_well = service.is_ready and not outbox.is_full
    body: dict[str, object] = {
        "status": "ok" if is_well else "stopping" if service.is_stopping else "degraded",
        "reading": _connection(service.reading),
        "publishing": _connection(service.publishing),
        "queues": {
            **{reader.queue: _source(reader) for reader in service.readers},
            service.settings.queue: {
                "published_to": service.is_publishing,
                "last_error": _named(service.publishing_error),
            },
        },
        "vectors": {
            "buffered": len(outbox),
            "buffer_full": outbox.is_full,
            "accepted": outbox.accepted,
            "refused": outbox.refused,
            "confirmed": outbox.confirmed,
            "retried": outbox.retried,
        },
        "events": {
            "read": dict(service.counters.events),
            "bad": service.counters.bad_events,
            "faults": service.counters.faults,
            "oversized": service.counters.oversized,
        },
        "symbols": {"kept": service.symbol_count, "displaced": service.displaced_symbols},
    }
    return (200 if is_well else 503), body


def _live(_service: FeatureService) -> tuple[int, dict[str, object]]:
    return 200, {"status": "alive"}


def _ready(service: FeatureService) -> tuple[int, dict[str, object]]:
    return (200, {"status": "ready"}) if service.is_ready else (503, {"status": "not ready"})


def _connection(connection: Connection) -> dict[str, object]:
    stats = connection.stats
    return {
        "state": stats.state.value,
        "reconnects": stats.reconnects,
        "unconfirmed": stats.unconfirmed,
        "last_error": _named(stats.last_error),
    }


def _source(reader: QueueReader) -> dict[str, object]:
    at = reader.last_message_at
    return {
        "read": reader.is_reading,
        "last_error": _named(reader.last_error),
        "last_message_age": None if at is None else round(anyio.current_time() - at, 3),
    }


def _named(error: Exception | None) -> str | None:
    if error is None:
        return None
    name = type(error).__name__
    return f"{name} {error.code}" if isinstance(error, ReplyError) else name


_ANSWERS: Final[Mapping[str, Callable[[FeatureService], tuple[int, dict[str, object]]]]] = {
    "/live": _live,
    "/ready": _ready,
    "/health": report,
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
        answer = _ANSWERS.get(scope["path"])
        if answer is None:
            status, body = 404, {"error": f"only {', '.join(_ANSWERS)} are here"}
        elif scope["method"] not in ("GET", "HEAD"):
            status, body = 405, {"error": "only GET and HEAD are allowed"}
            headers.append((b"allow", b"GET, HEAD"))
        else:
            status, body = answer(self._service)
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
    """Serve the health endpoints of a service until ``stopped`` is set.

    Raises:
        SettingsError: the service cannot listen on the address or the port.
    """
    from hypercorn.config import Config

    config = Config()
    listener = _listen(service.settings)
    # Bound here, because hypercorn leaks its socket if the port is in use.
    config.bind = [f"fd://{listener.detach()}"]
    config.errorlog = None
    host, port = service.settings.health_host, service.settings.health_port
    _LOGGER.info(
        "health on http://%s/health, /ready and /live", f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    )
    config.graceful_timeout = 1.0
    run: Callable[..., Awaitable[None]] = import_module(f"hypercorn.{service.settings.backend}").serve
    await run(HealthApp(service), config, shutdown_trigger=stopped.wait)


def _listen(settings: ServiceSettings) -> socket.socket:
    host, port = settings.health_host, settings.health_port
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, UnicodeError) as error:
        port_is_to_blame = isinstance(error, OSError) and error.errno in (EADDRINUSE, EACCES)
        name, advice = (
            ("HEALTH_PORT", "choose another port, or 0 for none")
            if port_is_to_blame
            else ("HEALTH_HOST", "choose an address of this machine")
        )
        reason = (isinstance(error, OSError) and error.strerror) or error
        raise SettingsError(f"{name}: cannot listen on {host!r}, port {port}: {reason}; {advice}") from error
