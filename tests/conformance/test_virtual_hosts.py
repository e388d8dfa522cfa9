"""Virtual hosts: who may open them, and that they share nothing."""

from __future__ import annotations

import pytest

from anyamqp.testing.embedded.users import Permissions
from anyamqp.wire import methods
from anyamqp.wire.frames import build
from support.conformance import Target
from support.queues import unique
from support.rawpeer import RawPeer

pytestmark = pytest.mark.anyio


async def open_refused(peer: RawPeer, virtual_host: str) -> methods.Connection.Close:
    """The answer to connection.open."""
    await peer.send(0, build(methods.Connection.Open, virtual_host=virtual_host))
    return await peer.closed()


async def test_a_missing_virtual_host_is_not_opened(target: Target) -> None:
    async with target.logged_in() as peer:
        close = await open_refused(peer, "nowhere")
        assert close == build(methods.Connection.Close, 530, "NOT_ALLOWED - vhost nowhere not found", 10, 40)


async def test_a_user_without_permissions_opens_nothing(target: Target) -> None:
    async with target.administrator.user() as user, target.logged_in(user) as peer:
        close = await open_refused(peer, "/")
        text = f"NOT_ALLOWED - access to vhost '/' refused for user '{user}'"
        assert close == build(methods.Connection.Close, 530, text, 10, 40)


async def test_permissions_hold_in_one_virtual_host(target: Target) -> None:
    administrator = target.administrator
    async with (
        administrator.user(Permissions()) as user,
        administrator.virtual_host() as host,
        target.logged_in(user) as peer,
    ):
        text = f"NOT_ALLOWED - access to vhost '{host}' refused for user '{user}'"
        assert (await open_refused(peer, host)).reply_text == text


async def test_virtual_hosts_share_no_queues(target: Target) -> None:
    declare = build(methods.Queue.Declare, queue=unique("q"), exclusive=True)
    look = build(methods.Queue.Declare, queue=declare.queue, passive=True)
    async with (
        target.administrator.virtual_host() as host,
        target.raw(1, virtual_host=host) as there,
        target.raw(1) as here,
    ):
        await there.call(1, declare, methods.Queue.DeclareOk)
        await here.send(1, look)
        close = await here.expect(1, methods.Channel.Close)
        assert close.reply_text == f"NOT_FOUND - no queue '{declare.queue}' in vhost '/'"


async def test_error_texts_name_the_virtual_host(target: Target) -> None:
    async with target.administrator.virtual_host() as host, target.raw(1, virtual_host=host) as peer:
        await peer.send(1, build(methods.Queue.Declare, queue="nowhere", passive=True))
        close = await peer.expect(1, methods.Channel.Close)
        assert close.reply_text == f"NOT_FOUND - no queue 'nowhere' in vhost '{host}'"


async def test_the_end_of_a_virtual_host_closes_its_connections(target: Target) -> None:
    host = unique("host")
    await target.administrator.commands.add_virtual_host(host)
    async with target.raw(1, virtual_host=host) as peer:
        await target.administrator.commands.remove_virtual_host(host)
        close = await peer.closed()
        # RabbitMQ 4 stops the virtual host first, and the connection may learn of that before.
        texts = {f"CONNECTION_FORCED - vhost '{host}' is {how}" for how in ("deleted", "down")}
        assert close.reply_code == 320
        assert close.reply_text in texts


async def test_the_end_of_a_user_closes_its_connections(target: Target) -> None:
    commands, user = target.administrator.commands, unique("user")
    await commands.add_user(user, ())
    await commands.set_permissions(user, "/", Permissions())
    async with target.raw(1, user=user) as peer:
        await commands.remove_user(user)
        close = await peer.closed()
        assert close == build(methods.Connection.Close, 320, f"CONNECTION_FORCED - user '{user}' is deleted", 0, 0)
