"""The public names of ``anyamqp``."""

from __future__ import annotations

from importlib.metadata import version

import anyio
import pytest

import anyamqp


def test_all_is_sorted_and_every_name_exists() -> None:
    names = [name for name in anyamqp.__all__ if not name.startswith("_")]
    assert sorted(names, key=lambda name: (not name.isupper(), name)) == names
    assert all(hasattr(anyamqp, name) for name in anyamqp.__all__)


def test_nothing_public_is_left_out_of_all() -> None:
    public = {
        name
        for name, value in vars(anyamqp).items()
        if not name.startswith("_") and getattr(value, "__module__", "").startswith("anyamqp.")
    }
    assert public <= set(anyamqp.__all__)


def test_version_is_that_of_the_package() -> None:
    assert anyamqp.__version__ == version("anyamqp")


def test_a_connection_can_be_made_before_there_is_an_event_loop() -> None:
    connection = anyamqp.connect("amqp://127.0.0.1:1/", ready_timeout=0)

    async def use() -> anyamqp.State:
        async with connection:
            return connection.state

    assert anyio.run(use) is anyamqp.State.CONNECTING


SHOWN = {
    anyamqp.Connection: "channel channel_pool close consumer publisher rpc_client server_properties state stats "
    "transitions tuning update_secret wait_closed wait_ready wait_unblocked",
    anyamqp.Channel: "bind_exchange bind_queue close declare_exchange declare_queue delete_exchange delete_queue get "
    "publish purge_queue recover set_qos state transaction unbind_exchange unbind_queue",
    anyamqp.ChannelPool: "channel",
    anyamqp.Queue: "consumer_count message_count name",
    anyamqp.Publisher: "flush publish submit unconfirmed",
    anyamqp.Publication: "is_settled message_id wait",
    anyamqp.Consumer: "consumer_tag fail is_consuming on_error process queue stop",
    anyamqp.Delivery: "ack app_id body consumer_tag content_encoding content_type correlation_id delivery_count "
    "delivery_tag exchange expiration headers is_settled is_stale json message message_count message_id nack "
    "persistent priority redelivered reject reply_to requeue routing_key stream_offset timestamp type user_id",
    anyamqp.RpcClient: "call",
    anyamqp.Transaction: "is_open publish",
}


@pytest.mark.parametrize(("kind", "names"), SHOWN.items(), ids=lambda one: getattr(one, "__name__", ""))
def test_an_object_shows_only_what_its_user_may_call(kind: type[object], names: str) -> None:
    assert sorted(name for name in dir(kind) if not name.startswith("_")) == names.split()


def test_made_objects_hold_nothing_public_besides() -> None:
    connection = anyamqp.connect("amqp://guest:guest@memory/")
    channel = connection.channel()
    made = (
        connection,
        channel,
        channel.transaction(),
        connection.channel_pool(1),
        connection.publisher(),
        connection.consumer("q"),
        connection.rpc_client(),
    )
    assert [f"{type(one).__name__}.{name}" for one in made for name in vars(one) if not name.startswith("_")] == []
