"""Logins, the limits of a connection, and the properties by which the broker presents itself."""

from __future__ import annotations

import pytest

from anyamqp.wire import fields, methods
from anyamqp.wire.frames import PROTOCOL_HEADER, build
from support.conformance import Target
from support.rawpeer import RawPeer

pytestmark = pytest.mark.anyio


def amqplain(**told: str) -> str:
    """A response of AMQPLAIN: a table without its size."""
    return fields.table("response", told)[4:].decode()


async def greeting_of(target: Target) -> methods.Connection.Start:
    """The broker's connection.start."""
    async with await target.dial(None) as stream:
        peer = RawPeer(stream)
        await peer.say(PROTOCOL_HEADER)
        return await peer.expect(0, methods.Connection.Start)


async def answer_to(target: Target, mechanism: str, response: str) -> methods.Method:
    """The broker's answer to a login."""
    async with await target.dial(None) as stream:
        peer = RawPeer(stream)
        await peer.log_in(mechanism=mechanism, response=response)
        answer = (await peer.frame()).payload
        assert isinstance(answer, methods.Method)
        return answer


async def test_the_broker_presents_its_capabilities(target: Target) -> None:
    properties = (await greeting_of(target)).server_properties
    assert properties["capabilities"] == {
        "publisher_confirms": True,
        "exchange_exchange_bindings": True,
        "basic.nack": True,
        "consumer_cancel_notify": True,
        "connection.blocked": True,
        "consumer_priorities": True,
        "authentication_failure_close": True,
        "per_consumer_qos": True,
        "direct_reply_to": True,
    }
    assert isinstance(properties["version"], str)
    assert properties["version"].startswith(f"{target.rules.version}.")


async def test_the_broker_offers_its_mechanisms(target: Target) -> None:
    start = await greeting_of(target)
    expected = {"PLAIN", "AMQPLAIN"} if target.rules.version == "3.10" else {"PLAIN", "AMQPLAIN", "ANONYMOUS"}
    assert set(start.mechanisms.split()) == expected
    assert start.locales == "en_US"


@pytest.mark.parametrize(
    ("mechanism", "response"),
    [
        ("PLAIN", "\0guest\0guest"),
        ("AMQPLAIN", amqplain(LOGIN="guest", PASSWORD="guest")),
        ("AMQPLAIN", amqplain(PASSWORD="guest", other="ignored", LOGIN="guest")),
    ],
)
async def test_a_login_is_answered_with_the_limits(target: Target, mechanism: str, response: str) -> None:
    assert await answer_to(target, mechanism, response) == build(methods.Connection.Tune, 2047, 131072, 60)


async def test_anybody_may_be_guest_since_4_0(target: Target) -> None:
    if "ANONYMOUS" in target.rules.mechanisms:
        assert isinstance(await answer_to(target, "ANONYMOUS", "whoever"), methods.Connection.Tune)
    else:
        assert "ANONYMOUS" not in (await greeting_of(target)).mechanisms.split()


@pytest.mark.parametrize(
    ("mechanism", "response"),
    [
        ("PLAIN", "\0guest\0wrong"),
        ("PLAIN", "\0nobody\0guest"),
        ("AMQPLAIN", amqplain(LOGIN="guest", PASSWORD="wrong")),
    ],
)
async def test_a_refused_login_names_the_mechanism(target: Target, mechanism: str, response: str) -> None:
    text = (
        f"ACCESS_REFUSED - Login was refused using authentication mechanism {mechanism}. "
        "For details see the broker logfile."
    )
    assert await answer_to(target, mechanism, response) == build(methods.Connection.Close, 403, text, 0, 0)


async def test_a_refused_login_is_silent_for_a_client_without_the_capability(target: Target) -> None:
    async with await target.dial(None) as stream:
        peer = RawPeer(stream)
        await peer.log_in(response="\0guest\0wrong", capabilities={})
        await peer.ended()


async def test_the_smallest_frames_of_a_version_are_accepted(target: Target) -> None:
    async with await target.dial(None) as stream:
        peer = RawPeer(stream)
        await peer.log_in()
        await peer.tune(frame_max=4096 if target.rules.version != "4.3" else 8192)
        await peer.open(1)


async def test_a_login_has_no_second_opening(target: Target) -> None:
    async with target.raw() as peer:
        await peer.send(0, build(methods.Connection.Open, virtual_host="/"))
        close = await peer.closed()
        assert close == build(
            methods.Connection.Close, 504, "CHANNEL_ERROR - unexpected method in connection state running", 10, 40
        )


async def test_a_new_secret_is_accepted(target: Target) -> None:
    async with target.raw() as peer:
        await peer.call(0, build(methods.Connection.UpdateSecret, "new", "why"), methods.Connection.UpdateSecretOk)
