"""``/health``, ``/ready`` and ``/live`` are right, on both loops; one test uses real HTTP."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncGenerator, MutableMapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Never

import anyio
import httpx
import pytest

import anyamqp
from anyamqp import Address, Credentials, Message, ReconnectPolicy, Settings, SettingsError, State
from anyamqp.testing import Broker
from feature_service.health import HealthApp, report, serve
from feature_service.service import FeatureService
from feature_service.settings import QUEUE, SOURCES, ServiceSettings, for_service
from support.waiting import eventually

pytestmark = pytest.mark.anyio


def settings_for(backend: str, port: int = 0) -> ServiceSettings:
    broker = for_service(Settings(reconnect=ReconnectPolicy(initial=0.01, maximum=0.05), close_timeout=0.2))
    return ServiceSettings(broker=broker, health_host="127.0.0.1", health_port=port, backend=backend, interval=0.05)


async def declare(broker: Broker, *queues: str) -> None:
    async with anyamqp.connect("amqp://memory", dial=broker.dial) as gateway, gateway.channel() as channel:
        for queue in queues:
            await channel.declare_queue(queue)


async def delete(broker: Broker, queue: str) -> None:
    async with anyamqp.connect("amqp://memory", dial=broker.dial) as gateway, gateway.channel() as channel:
        await channel.delete_queue(queue)


async def send(broker: Broker, queue: str, body: bytes) -> None:
    async with anyamqp.connect("amqp://memory", dial=broker.dial) as gateway, gateway.channel() as channel:
        await channel.publish(Message(body), routing_key=queue)


@asynccontextmanager
async def running(
    broker: Broker, settings: ServiceSettings, *, sources: Sequence[str] = SOURCES
) -> AsyncGenerator[FeatureService, None]:
    """A service with these source queues."""
    await declare(broker, *sources)
    service = FeatureService(settings, dial_reading=broker.dial, dial_publishing=broker.dial)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(service.run)
        await eventually(
            lambda: service.is_publishing and sum(reader.is_reading for reader in service.readers) == len(sources)
        )
        yield service
        service.stop()


async def asked(service: FeatureService, path: str, method: str = "GET") -> tuple[int, Any]:
    """Call the application directly, without a server. Returns its answer."""
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        raise AssertionError("the request has no body to receive")

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    await HealthApp(service)({"type": "http", "path": path, "method": method}, receive, send)
    start, body = sent
    return start["status"], json.loads(body["body"] or "null")


async def test_port_that_is_taken_is_named(anyio_backend_name: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings = settings_for(anyio_backend_name, taken.getsockname()[1])
        service = FeatureService(replace(settings))
        with anyio.fail_after(10), pytest.raises(SettingsError, match=r"^HEALTH_PORT: .*in use"):
            await serve(service, anyio.Event())


async def test_all_is_well_when_queues_are_read_and_vectors_go_out(anyio_backend_name: str) -> None:
    async with Broker() as broker, running(broker, settings_for(anyio_backend_name)) as service:
        status, body = report(service)
        assert (status, body["status"]) == (200, "ok")
        assert await asked(service, "/ready") == (200, {"status": "ready"})
        assert await asked(service, "/live") == (200, {"status": "alive"})
        assert await asked(service, "/health", "HEAD") == (200, None)


async def test_queue_that_is_not_there_is_told_and_costs_readiness(anyio_backend_name: str) -> None:
    async with (
        Broker() as broker,
        running(broker, settings_for(anyio_backend_name), sources=SOURCES[1:]) as service,
    ):
        await eventually(lambda: service.readers[0].last_error is not None)
        status, body = await asked(service, "/health")
        assert (status, body["status"]) == (503, "degraded")
        assert body["reading"]["state"] == body["publishing"]["state"] == "open"
        assert body["queues"] == {
            SOURCES[0]: {"read": False, "last_error": "NotFound 404", "last_message_age": None},
            SOURCES[1]: {"read": True, "last_error": None, "last_message_age": None},
            SOURCES[2]: {"read": True, "last_error": None, "last_message_age": None},
            QUEUE: {"published_to": True, "last_error": None},
        }
        assert await asked(service, "/ready") == (503, {"status": "not ready"})
        assert await asked(service, "/live") == (200, {"status": "alive"})
        await declare(broker, SOURCES[0])
        await eventually(lambda: report(service)[0] == 200)


async def test_queue_that_was_deleted_is_told_until_it_is_back(anyio_backend_name: str) -> None:
    async with Broker() as broker, running(broker, settings_for(anyio_backend_name)) as service:
        await delete(broker, SOURCES[2])
        await eventually(lambda: not service.is_ready)
        await eventually(lambda: isinstance(service.readers[2].last_error, anyamqp.NotFound))
        await declare(broker, SOURCES[2])
        await eventually(lambda: service.is_ready)


async def test_error_of_a_source_queue_goes_once_it_is_read(anyio_backend_name: str) -> None:
    async with (
        Broker() as broker,
        running(broker, settings_for(anyio_backend_name), sources=SOURCES[1:]) as service,
    ):
        await eventually(lambda: service.readers[0].last_error is not None)
        await declare(broker, SOURCES[0])
        await eventually(lambda: service.is_ready)
        _, body = await asked(service, "/health")
        assert body["queues"][SOURCES[0]] == {"read": True, "last_error": None, "last_message_age": None}


async def test_error_of_publishing_goes_once_vectors_go_out(anyio_backend_name: str) -> None:
    async with Broker() as broker, running(broker, settings_for(anyio_backend_name)) as service:
        await delete(broker, QUEUE)
        await send(broker, SOURCES[1], b'{"event_type": "ticker", "symbol": "BTCUSDT", "payload": {}}')
        await eventually(lambda: service.outbox.retried > 0 and service.outbox.confirmed > 0)
        _, body = await asked(service, "/health")
        assert body["queues"][QUEUE] == {"published_to": True, "last_error": None}


async def test_age_of_a_queue_s_last_message_is_told(anyio_backend_name: str) -> None:
    async with Broker() as broker, running(broker, settings_for(anyio_backend_name)) as service:
        await send(broker, SOURCES[1], b"{}")
        await eventually(lambda: service.counters.bad_events == 1)
        ages = [
            reader["last_message_age"]
            for reader in (await asked(service, "/health"))[1]["queues"].values()
            if "read" in reader
        ]
        assert ages[0] is ages[2] is None
        assert 0 <= ages[1] < 30


async def test_target_queue_of_another_kind_costs_readiness(anyio_backend_name: str) -> None:
    async with Broker() as broker:
        async with anyamqp.connect("amqp://memory", dial=broker.dial) as other, other.channel() as channel:
            await channel.declare_queue(QUEUE, durable=False)
        await declare(broker, *SOURCES)
        service = FeatureService(
            settings_for(anyio_backend_name), dial_reading=broker.dial, dial_publishing=broker.dial
        )
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(service.run)
            await eventually(lambda: service.publishing_error is not None)
            status, body = await asked(service, "/health")
            assert status == 503
            assert body["queues"][QUEUE] == {"published_to": False, "last_error": "PreconditionFailed 406"}
            assert (await asked(service, "/ready"))[0] == 503
            service.stop()


async def test_lost_connection_shows_with_its_error_s_class_and_passes(anyio_backend_name: str) -> None:
    async with Broker() as broker, running(broker, settings_for(anyio_backend_name)) as service:
        broker.stop()
        await eventually(lambda: not service.is_ready and service.reading.stats.last_error is not None)
        status, body = await asked(service, "/health")
        assert (status, body["status"]) == (503, "degraded")
        assert body["reading"]["last_error"] == type(service.reading.stats.last_error).__name__
        assert not any(queue.get("read") for queue in body["queues"].values())
        assert (await asked(service, "/ready"))[0] == 503
        assert (await asked(service, "/live"))[0] == 200
        await broker.start()
        await eventually(lambda: report(service)[0] == 200)


async def test_blocked_broker_costs_readiness(anyio_backend_name: str) -> None:
    async with Broker() as broker, running(broker, settings_for(anyio_backend_name)) as service:
        broker.block()
        await send(broker, SOURCES[1], b'{"event_type": "ticker", "symbol": "BTCUSDT", "payload": {}}')
        await eventually(lambda: not service.is_ready)  # told at the first publish
        assert (await asked(service, "/health"))[1]["publishing"]["state"] == "blocked"
        broker.unblock()
        await eventually(lambda: service.is_ready)


async def test_errors_are_told_without_hosts_users_and_queues(anyio_backend_name: str) -> None:
    async def refuse(address: Address) -> Never:
        raise OSError(111, f"connect call failed ({address.host!r}, {address.port})")

    broker = for_service(Settings.from_urls("amqp://secret-user:secret-password@secret-host:1234/secret-vhost"))
    settings = replace(settings_for(anyio_backend_name), broker=broker)
    service = FeatureService(settings, dial_reading=refuse, dial_publishing=refuse)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(service.run)
        await eventually(lambda: service.reading.stats.last_error is not None)
        assert "secret-host" in str(service.reading.stats.last_error)
        told = str(await asked(service, "/health"))
        assert "TransportError" in told
        assert "secret" not in told
        assert "1234" not in told
        service.stop()


async def test_refused_login_is_told_by_class_and_code(anyio_backend_name: str) -> None:
    async with Broker() as broker:
        settings = settings_for(anyio_backend_name)
        wrong = replace(settings.broker, credentials=Credentials("secret-user", "wrong"))
        service = FeatureService(replace(settings, broker=wrong), dial_reading=broker.dial, dial_publishing=broker.dial)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(service.run)
            await eventually(lambda: service.reading.stats.last_error is not None)
            _, body = await asked(service, "/health")
            assert body["reading"]["last_error"] == "LoginRefused 403"
            assert "secret" not in str(body)
            service.stop()


async def test_stopping_service_is_alive_and_neither_well_nor_ready(anyio_backend_name: str) -> None:
    async with Broker() as broker, running(broker, settings_for(anyio_backend_name)) as service:
        service.stop()
        assert report(service)[0] == 503
        assert report(service)[1]["status"] == "stopping"
        assert (await asked(service, "/ready"))[0] == 503
        assert (await asked(service, "/live"))[0] == 200


@pytest.mark.parametrize("host", ["no-such-host.invalid", "192.0.2.1", "a" * 300])
async def test_address_that_is_not_the_machine_s_is_named(host: str, anyio_backend_name: str) -> None:
    service = FeatureService(replace(settings_for(anyio_backend_name, free_port()), health_host=host))
    with anyio.fail_after(10), pytest.raises(SettingsError, match=r"^HEALTH_HOST: cannot listen on"):
        await serve(service, anyio.Event())


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
        assert (await client.get("/ready")).json() == {"status": "ready"}
        assert (await client.get("/live")).json() == {"status": "alive"}
        elsewhere = await client.get("/elsewhere")
        assert (elsewhere.status_code, elsewhere.json()) == (404, {"error": "only /live, /ready, /health are here"})
        refused = await client.post("/health")
        assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")
        broker.block()
        broker.stop()
        await eventually(lambda: service.publishing.state is not State.OPEN)
        assert (await client.get("/health")).status_code == 503
        assert (await client.get("/live")).status_code == 200
        await broker.start()
        broker.unblock()
        stopped.set()


async def test_other_protocols_than_http_are_left_alone(anyio_backend_name: str) -> None:
    async def nothing() -> dict[str, object]:
        raise AssertionError("nothing is to be received")

    async def none(_message: object) -> None:
        raise AssertionError("nothing is to be sent")

    await HealthApp(FeatureService(settings_for(anyio_backend_name)))({"type": "websocket"}, nothing, none)
