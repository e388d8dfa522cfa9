"""A wrong call raises an error that names the mistake, before anything happens."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, Self

import pytest

import anyamqp
from anyamqp import Connection, InvalidArgument, InvalidUse, Message, SettingsError
from anyamqp.misuse import Entered, explained

URL = "amqp://guest:guest@memory/"
connect: Any = anyamqp.connect
message: Any = Message
settings: Any = anyamqp.Settings
policy: Any = anyamqp.ReconnectPolicy
tls: Any = anyamqp.TLS
"""Untyped, so that the tests can call them wrongly."""


def fresh() -> Any:
    """A connection that nobody entered, untyped."""
    return anyamqp.connect(URL)


# --- awaiting what is entered ---------------------------------------------------------------------------------------

AWAITED: list[tuple[Callable[[], Any], str]] = [
    (fresh, "async with connect(...) as connection"),
    (lambda: fresh().channel(), "async with connection.channel() as channel"),
    (lambda: fresh().channel_pool(2), "async with connection.channel_pool(8) as pool"),
    (lambda: fresh().publisher(), "async with connection.publisher() as publisher"),
    (lambda: fresh().consumer("q"), "async with connection.consumer(...) as consumer"),
    (lambda: fresh().rpc_client(), "async with connection.rpc_client() as rpc"),
    (lambda: fresh().channel().transaction(), "async with channel.transaction() as transaction"),
]


@pytest.mark.anyio
@pytest.mark.parametrize(("make", "right"), AWAITED)
async def test_awaiting_instead_of_entering_says_async_with(make: Callable[[], Any], right: str) -> None:
    made = make()
    with pytest.raises(InvalidUse) as caught:
        await made
    assert right in str(caught.value)
    assert str(caught.value).startswith(type(made).__name__)


class Valve(Entered):
    _kind = "a valve"
    _block = "async with plant.valve(...) as valve"

    def __init__(self) -> None:
        self.is_shut = True

    @property
    def _is_new(self) -> bool:
        return self.is_shut

    async def __aenter__(self) -> Self:
        self._check_new()
        self.is_shut = False
        return self

    async def __aexit__(self, *exc: object) -> None: ...

    def turn(self) -> None:
        self._check_entered()


@pytest.mark.anyio
async def test_block_is_entered_once() -> None:
    valve = Valve()
    async with valve:
        with pytest.raises(InvalidUse, match=r"^a valve is entered once; make a new one with plant\.valve\(\)$"):
            await valve.__aenter__()
    with pytest.raises(InvalidUse, match="entered once"):
        async with valve:
            pytest.fail("entered twice")


@pytest.mark.anyio
async def test_method_works_inside_the_block_only_once_it_was_entered() -> None:
    valve = Valve()
    with pytest.raises(InvalidUse) as caught:
        valve.turn()
    assert str(caught.value) == "a valve works inside its block: async with plant.valve(...) as valve"
    async with valve:
        valve.turn()


@pytest.mark.anyio
async def test_entering_one_leaves_others_alone() -> None:
    async with Valve():
        with pytest.raises(InvalidUse):
            Valve().turn()


# --- other clients' arguments ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: connect(host="localhost"), "connect() has no argument 'host': the host is part of the URL"),
        (lambda: connect(URL, login="guest"), "connect() has no argument 'login': the user is part of the URL"),
        (lambda: connect(URL, virtualhost="/"), "the virtual host is the URL's path"),
        (lambda: connect(URL, ssl=True), "'ssl': the URL begins with amqps://, or tls="),
        (lambda: connect(URL, timeout=5), "connect_timeout= is for one attempt, ready_timeout= for the first"),
        (lambda: connect(URL, hartbeat=5), "connect() has no argument 'hartbeat'; it has urls, credentials, heartbeat"),
        (lambda: connect(URL, None), "connect() takes only urls by position; by name it takes credentials, heartbeat"),
        (lambda: fresh().channel(publisher_confirms=True), "connection.publisher()"),
        (lambda: fresh().channel(5), "Connection.channel() takes nothing by position; by name it takes wait"),
        (lambda: fresh().consumer("q", prefetch_count=10), "no argument 'prefetch_count': in anyamqp it is prefetch="),
        (lambda: fresh().consumer("q", auto_ack=True), "no argument 'auto_ack': in anyamqp it is no_ack="),
        (lambda: fresh().consumer("q", 10), "Connection.consumer() takes only queue by position"),
        (
            lambda: fresh().publisher("market"),
            "Connection.publisher() takes nothing by position; by name it takes",
        ),
        (lambda: fresh().rpc_client(callback=print), "Connection.rpc_client() has no argument 'callback'"),
        (lambda: message(b"", delivery_mode=2), "Message() has no argument 'delivery_mode': in anyamqp it is persis"),
        (lambda: message(b"").replace(delivery_mode=2), "in anyamqp it is persistent=True for 2"),
        (lambda: fresh().channel_pool(), "Connection.channel_pool() needs size"),
        (lambda: fresh().consumer(), "Connection.consumer() needs queue"),
        (lambda: settings(host="localhost"), "Settings() has no argument 'host': the host is part of the URL"),
        (lambda: settings(URL), "Settings() takes nothing by position; by name it takes addresses, tls"),
        (lambda: policy(max_retries=5), "ReconnectPolicy() has no argument 'max_retries': in anyamqp it is max_att"),
        (lambda: tls(cafile="ca.pem"), "TLS() has no argument 'cafile': in anyamqp it is ca_file="),
    ],
)
def test_argument_of_another_client_is_told_by_its_name_here(call: Callable[[], object], said: str) -> None:
    with pytest.raises(InvalidUse) as caught:
        call()
    assert said in str(caught.value)


OF_A_CHANNEL: list[tuple[Callable[[Any], Awaitable[object]], str]] = [
    (lambda channel: channel.declare_queue("q", True), "Channel.declare_queue() takes only name by position"),
    (lambda channel: channel.declare_exchange("x", exchange_type="topic"), "in anyamqp it is type="),
    (lambda channel: channel.bind_queue(queue_name="q", exchange="x"), "in anyamqp it is queue="),
    (lambda channel: channel.set_qos(prefetch_count=5), "in anyamqp it is prefetch="),
    (lambda channel: channel.get("q", auto_ack=True), "in anyamqp it is no_ack="),
    (lambda channel: channel.publish(Message(b""), "q"), "Channel.publish() takes only message by position"),
]


@pytest.mark.anyio
@pytest.mark.parametrize(("call", "said"), OF_A_CHANNEL)
async def test_argument_of_another_clients_channel_is_told(call: Callable[[Any], Awaitable[object]], said: str) -> None:
    with pytest.raises(InvalidUse) as caught:
        await call(fresh().channel())
    assert said in str(caught.value)


@pytest.mark.anyio
async def test_routing_key_by_position_is_told_to_be_named() -> None:
    publisher: Any = fresh().publisher()
    for call in (publisher.publish, publisher.submit, fresh().rpc_client().call, fresh().channel().publish):
        with pytest.raises(InvalidUse, match=r"takes only message by position; by name it takes .*routing_key"):
            await call(Message(b""), "key")


def test_type_errors_of_other_origin_stay_as_they_are() -> None:
    def call(number: Any) -> object:
        return "a" + number

    with pytest.raises(TypeError, match="can only concatenate"):
        explained(call)(5)


def test_help_shows_the_arguments_and_what_they_mean() -> None:
    for function in (anyamqp.connect, Connection.consumer, anyamqp.Channel.declare_exchange):
        assert function.__doc__
        assert inspect.getdoc(function)
        assert "args" not in inspect.signature(function).parameters
    assert inspect.iscoroutinefunction(anyamqp.Channel.declare_exchange)


# --- values of wrong types and out of range -------------------------------------------------------------------------

NAN = float("nan")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("reconnect", 5),
        ("credentials", ("guest", "guest")),
        ("heartbeat", "60"),
        ("heartbeat", True),
        ("name", 5),
        ("connect_timeout", "10"),
        ("connect_timeout", -1),
        ("connect_timeout", NAN),
        ("shuffle", "yes"),
        ("tls", True),
        ("topology_recovery", "nothing"),
        ("ready_timeout", "60"),
        ("ready_timeout", -1),
        ("ready_timeout", NAN),
        ("ready_timeout", True),
        ("fail_fast", "no"),
        ("dial", "memory"),
    ],
)
def test_wrong_value_is_refused_by_connect(name: str, value: object) -> None:
    with pytest.raises(SettingsError, match=rf"^{name}: "):
        connect(URL, **{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("exchange", None),
        ("exchange", "x" * 256),
        ("defaults", {"app_id": "mine"}),
        ("defaults", anyamqp.Properties),
        ("mandatory", 1),
        ("timeout", "5"),
        ("timeout", -1),
        ("timeout", NAN),
        ("timeout", True),
        ("window", "256"),
        ("window", 2.5),
        ("window", True),
        ("window", 0),
        ("window_bytes", "1M"),
        ("window_bytes", 0),
        ("resend", None),
        ("retry_nacked", "yes"),
        ("blocked_timeout", "5"),
        ("blocked_timeout", -1),
        ("blocked_timeout", NAN),
    ],
)
def test_wrong_value_is_refused_by_publisher(name: str, value: object) -> None:
    with pytest.raises(InvalidArgument, match=rf"{name}: "):
        fresh().publisher(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("queue", 5),
        ("queue", None),
        ("queue", ["q"]),
        ("queue", "q" * 256),
        ("prefetch", "10"),
        ("prefetch", True),
        ("prefetch", 1.5),
        ("prefetch", -1),
        ("prefetch", 65536),
        ("prefetch", None),
        ("no_ack", 1),
        ("exclusive", "yes"),
        ("consumer_tag", 5),
        ("priority", "5"),
        ("priority", True),
        ("priority", 2**31),
        ("stream_offset", 1.5),
        ("stream_offset", datetime(2026, 11, 24)),  # noqa: DTZ001 - naive on purpose
        ("arguments", ["x"]),
        ("arguments", {"x": datetime(2026, 11, 24)}),  # noqa: DTZ001 - the same
        ("on_cancel", "ignore"),
        ("on_cancel", None),
    ],
)
def test_wrong_value_is_refused_by_consumer(name: str, value: object) -> None:
    with pytest.raises(InvalidArgument, match=name):
        fresh().consumer(**{"queue": "q", name: value})


SMALL: list[tuple[Callable[[], object], str]] = [
    (lambda: fresh().channel(wait="5"), "wait"),
    (lambda: fresh().channel(wait=-1), "wait"),
    (lambda: fresh().channel(wait=None), "wait"),
    (lambda: fresh().channel_pool("8"), "size"),
    (lambda: fresh().channel_pool(True), "size"),
    (lambda: fresh().channel_pool(0), "size"),
    (lambda: fresh().rpc_client(timeout="5"), "timeout"),
    (lambda: fresh().rpc_client(timeout=NAN), "timeout"),
    (lambda: fresh().rpc_client(resend=1), "resend"),
]


@pytest.mark.parametrize(("make", "name"), SMALL)
def test_wrong_value_is_refused_by_channel_pool_and_rpc_client(make: Callable[[], object], name: str) -> None:
    with pytest.raises(InvalidArgument, match=rf"^{name}: "):
        make()
