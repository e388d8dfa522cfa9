"""``GET /health`` tells the truth, on both loops, over real HTTP."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace

import anyio
import httpx
import pytest

from anyamqp import ReconnectPolicy, Settings, SettingsError, State
from anyamqp.testing import Broker
from feature_service.health import HealthApp, report, serve
from feature_service.service import FeatureService
from feature_service.settings import ServiceSettings, for_service
from support.waiting import eventually

pytestmark = pytest.mark.anyio


def settings_for(backend: str, port: int = 0) -> ServiceSettings:
    broker = for_service(Settings(reconnect=ReconnectPolicy(initial=0.01, maximum=0.05), close_timeout=0.2))
    return ServiceSettings(broker=broker, health_host="127.0.0.1", health_port=port, backend=backend, interval=0.05)


@asynccontextmanager
async def running(broker: Broker, settings: ServiceSettings) -> AsyncGenerator[FeatureService, None]:
    service = FeatureService(settings, dial_reading=broker.dial, dial_publishing=broker.dial)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(service.run)
        await eventually(lambda: service.reading.state is State.OPEN and service.publishing.state is State.OPEN)
        yield service
        service.stop()


async def test_port_that_is_taken_is_named(anyio_backend_name: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings = settings_for(anyio_backend_name, taken.getsockname()[1])
        service = FeatureService(replace(settings))
        with anyio.fail_after(10), pytest.raises(SettingsError, match=r"^HEALTH_PORT: .*in use"):
            await serve(service, anyio.Event())


async def test_all_is_well_when_both_connections_are_open(anyio_backend_name: str) -> None:
    async with Broker() as broker, running(broker, settings_for(anyio_backend_name)) as service:
        status, body = report(service)
        assert (status, body["status"]) == (200, "ok")


async def test_lost_connection_shows_with_its_error_and_passes(anyio_backend_name: str) -> None:
    async with Broker() as broker, running(broker, settings_for(anyio_backend_name)) as service:
        broker.stop()
        await eventually(lambda: service.reading.state is State.RECONNECTING)
        status, body = report(service)
        assert (status, body["status"]) == (503, "degraded")
        assert "reading" in str(body)
        assert service.reading.stats.last_error is not None
        assert str(service.reading.stats.last_error) in str(body)
        await broker.start()
        await eventually(lambda: report(service)[0] == 200)


async def test_stopping_service_is_not_well(anyio_backend_name: str) -> None:
    async with Broker() as broker, running(broker, settings_for(anyio_backend_name)) as service:
        service.stop()
        assert report(service)[0] == 503
        assert report(service)[1]["status"] == "stopping"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def first_answer(client: httpx.AsyncClient) -> httpx.Response:
    """Ask until somebody listens."""
    while True:
        try:
            return await client.get("/health")
        except httpx.ConnectError:
            await anyio.sleep(0.02)


async def test_health_is_served_over_http_until_told_to_stop(anyio_backend_name: str) -> None:
    port = free_port()
    stopped = anyio.Event()
    async with (
        Broker() as broker,
        running(broker, settings_for(anyio_backend_name, port)) as service,
        anyio.create_task_group() as tasks,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client,
    ):
        tasks.start_soon(serve, service, stopped)
        with anyio.fail_after(10):
            answer = await first_answer(client)
        assert (answer.status_code, answer.json()["status"]) == (200, "ok")
        assert answer.headers["content-type"] == "application/json"
        assert (await client.head("/health")).content == b""
        assert (await client.get("/elsewhere")).status_code == 404
        refused = await client.post("/health")
        assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")
        broker.block()
        broker.stop()
        await eventually(lambda: service.publishing.state is not State.OPEN)
        assert (await client.get("/health")).status_code == 503
        await broker.start()
        broker.unblock()
        stopped.set()


async def test_other_protocols_than_http_are_left_alone(anyio_backend_name: str) -> None:
    async def nothing() -> dict[str, object]:
        raise AssertionError("nothing is to be received")

    async def none(_message: object) -> None:
        raise AssertionError("nothing is to be sent")

    await HealthApp(FeatureService(settings_for(anyio_backend_name)))({"type": "websocket"}, nothing, none)
