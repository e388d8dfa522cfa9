"""What ``import holdfast`` gives."""

from __future__ import annotations

from importlib.metadata import version

import anyio

import holdfast


def test_all_is_sorted_and_every_name_exists() -> None:
    names = [name for name in holdfast.__all__ if not name.startswith("_")]
    assert sorted(names, key=lambda name: (not name.isupper(), name)) == names
    assert all(hasattr(holdfast, name) for name in holdfast.__all__)


def test_nothing_public_is_left_out_of_all() -> None:
    public = {
        name
        for name, value in vars(holdfast).items()
        if not name.startswith("_") and getattr(value, "__module__", "").startswith("holdfast.")
    }
    assert public <= set(holdfast.__all__)


def test_version_is_that_of_the_package() -> None:
    assert holdfast.__version__ == version("holdfast")


def test_a_connection_can_be_made_before_there_is_an_event_loop() -> None:
    connection = holdfast.connect("amqp://127.0.0.1:1/", ready_timeout=0)

    async def use() -> holdfast.State:
        async with connection:
            return connection.state

    assert anyio.run(use) is holdfast.State.CONNECTING
