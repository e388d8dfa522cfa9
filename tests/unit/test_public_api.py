"""The public names of ``anyamqp``."""

from __future__ import annotations

from importlib.metadata import version

import anyio

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


def test_a_consumer_shows_only_what_its_user_may_call() -> None:
    shown = {name for name in dir(anyamqp.Consumer) if not name.startswith("_")}
    assert shown == {"consumer_tag", "is_consuming", "on_error", "process", "queue", "stop"}
