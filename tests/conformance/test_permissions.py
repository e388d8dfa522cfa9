"""Permissions: which request needs which, and the texts of refusals.

The user of these tests may configure entities whose names begin with ``c-``, write to ``w-`` and read from ``r-``.
"""

from __future__ import annotations

import pytest

from anyamqp.message import Message
from anyamqp.testing.embedded.users import Permissions
from anyamqp.wire import methods
from anyamqp.wire.frames import build, encode_content, field_table
from anyamqp.wire.methods import Method
from support.conformance import Target
from support.queues import unique
from support.rawpeer import RawPeer

pytestmark = pytest.mark.anyio

PREFIXED = Permissions(configure="^c-", write="^w-", read="^r-")
DEAD_LETTERS = field_table({"x-dead-letter-exchange": "w-x"})
ALTERNATE = field_table({"alternate-exchange": "w-x"})


def publish(message: Message, exchange: str, routing_key: str = "") -> bytes:
    """The frames of a publish on channel 1."""
    method = build(methods.Basic.Publish, exchange=exchange, routing_key=routing_key)
    return b"".join(encode_content(1, method, message, 4096))


async def closed_by(peer: RawPeer, request: Method | bytes) -> str:
    """The text with which the broker closes channel 1, which is opened again."""
    if isinstance(request, bytes):
        await peer.say(request)
    else:
        await peer.send(1, request)
    close = await peer.expect(1, methods.Channel.Close)
    await peer.send(1, methods.Channel.CloseOk())
    await peer.call(1, build(methods.Channel.Open), methods.Channel.OpenOk)
    return close.reply_text


def refused(target: Target, right: str, named: str, user: str) -> str:
    """The text of a refusal; RabbitMQ names the permission since 4.0."""
    right = "" if target.rules.version == "3.10" else f"{right} "
    return f"ACCESS_REFUSED - {right}access to {named} in vhost '/' refused for user '{user}'"


@pytest.mark.parametrize(
    ("request_", "right", "named"),
    [
        (build(methods.Queue.Declare, queue="w-q"), "configure", "queue 'w-q'"),
        (build(methods.Queue.Delete, queue="w-q"), "configure", "queue 'w-q'"),
        (build(methods.Queue.Declare, queue="c-q", arguments=DEAD_LETTERS), "read", "queue 'c-q'"),
        (build(methods.Queue.Purge, queue="c-q"), "read", "queue 'c-q'"),
        (build(methods.Queue.Bind, queue="r-q", exchange="r-x"), "write", "queue 'r-q'"),
        (build(methods.Queue.Bind, queue="w-q", exchange="w-x"), "read", "exchange 'w-x'"),
        (build(methods.Queue.Unbind, queue="r-q", exchange="r-x"), "write", "queue 'r-q'"),
        (build(methods.Basic.Get, queue="w-q"), "read", "queue 'w-q'"),
        (build(methods.Basic.Consume, queue="w-q"), "read", "queue 'w-q'"),
        (build(methods.Exchange.Declare, exchange="r-x", exchange_type="fanout"), "configure", "exchange 'r-x'"),
        (
            build(methods.Exchange.Declare, exchange="c-x", exchange_type="fanout", arguments=ALTERNATE),
            "read",
            "exchange 'c-x'",
        ),
        (build(methods.Exchange.Declare, exchange="amq.direct"), "configure", "exchange 'amq.direct'"),
        (build(methods.Exchange.Delete, exchange="w-x"), "configure", "exchange 'w-x'"),
        (build(methods.Exchange.Bind, destination="r-x", source="r-y"), "write", "exchange 'r-x'"),
        (build(methods.Exchange.Bind, destination="w-x", source="w-y"), "read", "exchange 'w-y'"),
        (build(methods.Exchange.Unbind, destination="w-x", source="w-y"), "read", "exchange 'w-y'"),
        (publish(Message(b""), "r-x"), "write", "exchange 'r-x'"),
        (publish(Message(b""), "", "w-q"), "write", "exchange 'amq.default'"),
    ],
)
async def test_a_request_needs_its_permission(target: Target, request_: Method | bytes, right: str, named: str) -> None:
    async with target.administrator.user(PREFIXED) as user, target.raw(1, user=user) as peer:
        assert await closed_by(peer, request_) == refused(target, right, named, user)


@pytest.mark.parametrize(
    "request_",
    [
        build(methods.Queue.Declare, queue="q", arguments=field_table({"x-dead-letter-exchange": "x"})),
        build(
            methods.Exchange.Declare,
            exchange="e",
            exchange_type="fanout",
            arguments=field_table({"alternate-exchange": "x"}),
        ),
    ],
)
async def test_messages_go_only_on_to_an_exchange_that_the_user_may_write_to(target: Target, request_: Method) -> None:
    no_writer = Permissions(configure=".*", write="", read=".*")
    async with target.administrator.user(no_writer) as user, target.raw(1, user=user) as peer:
        assert await closed_by(peer, request_) == refused(target, "write", "exchange 'x'", user)


async def test_permission_comes_before_existence(target: Target) -> None:
    async with target.administrator.user(PREFIXED) as user, target.raw(1, user=user) as peer:
        request: Method = build(methods.Basic.Get, queue="r-q")
        assert await closed_by(peer, request) == "NOT_FOUND - no queue 'r-q' in vhost '/'"
        assert await closed_by(peer, publish(Message(b""), "w-x")) == "NOT_FOUND - no exchange 'w-x' in vhost '/'"
        request = build(methods.Queue.Bind, queue="w-q", exchange="")
        assert await closed_by(peer, request) == "ACCESS_REFUSED - operation not permitted on the default exchange"


async def test_a_passive_declaration_needs_a_permission_since_4_3(target: Target) -> None:
    queue = build(methods.Queue.Declare, queue="q", passive=True)
    exchange = build(methods.Exchange.Declare, exchange="x", passive=True)
    async with target.administrator.user(PREFIXED) as user, target.raw(1, user=user) as peer:
        if target.rules.version == "4.3":
            assert await closed_by(peer, queue) == refused(target, "configure", "queue 'q'", user)
            assert await closed_by(peer, exchange) == refused(target, "configure", "exchange 'x'", user)
        else:
            assert await closed_by(peer, queue) == "NOT_FOUND - no queue 'q' in vhost '/'"
            assert await closed_by(peer, exchange) == "NOT_FOUND - no exchange 'x' in vhost '/'"


@pytest.mark.parametrize("name", ["c-q", "w-q", "r-q"])
async def test_any_permission_will_do_for_a_passive_declaration(target: Target, name: str) -> None:
    async with target.administrator.user(PREFIXED) as user, target.raw(1, user=user) as peer:
        request = build(methods.Queue.Declare, queue=name, passive=True)
        assert await closed_by(peer, request) == f"NOT_FOUND - no queue '{name}' in vhost '/'"


async def test_a_server_named_queue_needs_a_permission_for_its_name(target: Target) -> None:
    async with target.administrator.user(PREFIXED) as user, target.raw(1, user=user) as peer:
        text = await closed_by(peer, build(methods.Queue.Declare, exclusive=True))
        right = "" if target.rules.version == "3.10" else "configure "
        assert text.startswith(f"ACCESS_REFUSED - {right}access to queue 'amq.gen-")


async def test_an_empty_pattern_allows_nothing(target: Target) -> None:
    nothing = Permissions(configure="", write="", read="")
    async with target.administrator.user(nothing) as user, target.raw(1, user=user) as peer:
        request = build(methods.Queue.Declare, queue="q")
        assert await closed_by(peer, request) == refused(target, "configure", "queue 'q'", user)


async def test_a_pattern_may_match_anywhere_in_a_name(target: Target) -> None:
    anywhere = Permissions(configure="middle", write="", read="")
    async with target.administrator.user(anywhere) as user, target.raw(1, user=user) as peer:
        request = build(methods.Queue.Declare, queue=unique("in-the-middle-of"), exclusive=True)
        await peer.call(1, request, methods.Queue.DeclareOk)


async def test_topic_permissions_are_for_routing_keys(target: Target) -> None:
    exchange = unique("topics")
    declare = build(methods.Exchange.Declare, exchange=exchange, exchange_type="topic", auto_delete=True)
    async with target.administrator.user(Permissions()) as user, target.raw(1, user=user) as peer:
        await peer.call(1, declare, methods.Exchange.DeclareOk)
        await target.administrator.commands.set_topic_permissions(user, exchange, "^one", "^two")
        name = (await peer.call(1, build(methods.Queue.Declare, exclusive=True), methods.Queue.DeclareOk)).queue
        bind = build(methods.Queue.Bind, queue=name, exchange=exchange, routing_key="one.x")
        told = f"topic 'one.x' in exchange '{exchange}'"
        assert await closed_by(peer, bind) == refused(target, "read", told, user)
        bind = build(methods.Queue.Bind, queue=name, exchange=exchange, routing_key="two.x")
        await peer.call(1, bind, methods.Queue.BindOk)
        told = f"topic 'two.x' in exchange '{exchange}'"
        assert await closed_by(peer, publish(Message(b""), exchange, "two.x")) == refused(target, "write", told, user)
        await peer.say(publish(Message(b""), exchange, "one.x"))
        await peer.call(1, build(methods.Queue.Delete, queue=name), methods.Queue.DeleteOk)


# --- user_id ----------------------------------------------------------------------------------------------------------


async def test_a_message_names_no_other_user(target: Target) -> None:
    async with target.raw(1) as peer:
        text = await closed_by(peer, publish(Message(b"", user_id="other"), "amq.direct"))
        expected = "PRECONDITION_FAILED - user_id property set to 'other' but authenticated user was 'guest'"
        assert text == expected


async def test_a_missing_exchange_is_found_before_a_wrong_user(target: Target) -> None:
    async with target.raw(1) as peer:
        text = await closed_by(peer, publish(Message(b"", user_id="other"), "nowhere"))
        assert text == "NOT_FOUND - no exchange 'nowhere' in vhost '/'"


async def test_an_impersonator_may_name_any_user(target: Target) -> None:
    async with (
        target.administrator.user(Permissions(), tags=["impersonator"]) as user,
        target.raw(1, user=user) as peer,
    ):
        await peer.call(1, build(methods.Confirm.Select), methods.Confirm.SelectOk)
        await peer.say(publish(Message(b"", user_id="other"), "amq.direct"))
        await peer.expect(1, methods.Basic.Ack)


async def test_the_users_own_name_is_accepted(target: Target) -> None:
    async with target.raw(1) as peer:
        await peer.call(1, build(methods.Confirm.Select), methods.Confirm.SelectOk)
        await peer.say(publish(Message(b"", user_id="guest"), "amq.direct"))
        await peer.expect(1, methods.Basic.Ack)
