"""Streams in memory end in the same ways as TCP connections, and hold no more than their capacity (invariant 11)."""

from __future__ import annotations

import anyio
import pytest

from anyamqp.testing.memory import CAPACITY, MemoryStream, stream_pair

pytestmark = pytest.mark.anyio


async def received(stream: MemoryStream, count: int, max_bytes: int = 65536) -> bytes:
    data = b""
    while len(data) < count:
        data += await stream.receive(max_bytes)
    return data


async def test_bytes_arrive_in_order_both_ways() -> None:
    one, other = stream_pair()
    await one.send(b"ping ")
    await one.send(b"again")
    await other.send(b"pong")
    assert (await other.receive(), await one.receive()) == (b"ping again", b"pong")


async def test_receive_gives_at_most_max_bytes_and_the_rest_later() -> None:
    one, other = stream_pair()
    await one.send(b"abcdef")
    assert [await other.receive(4), await other.receive(4)] == [b"abcd", b"ef"]


async def test_receive_waits_for_bytes() -> None:
    one, other = stream_pair()
    got: list[bytes] = []

    async def read() -> None:
        got.append(await other.receive())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        await anyio.wait_all_tasks_blocked()
        assert got == []
        await one.send(b"late")
    assert got == [b"late"]


# --- end of stream --------------------------------------------------------------------------------------------------


async def test_closing_lets_the_other_end_read_what_was_sent_and_then_the_end() -> None:
    one, other = stream_pair()
    await one.send(b"last words")
    await one.aclose()
    assert await other.receive() == b"last words"
    for _ in range(2):
        with pytest.raises(anyio.EndOfStream):
            await other.receive()


async def test_closing_wakes_a_reader_at_the_other_end() -> None:
    one, other = stream_pair()

    async def read() -> None:
        with pytest.raises(anyio.EndOfStream):
            await other.receive()

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            await anyio.wait_all_tasks_blocked()
            await one.aclose()


async def test_sending_to_a_closed_end_breaks() -> None:
    one, other = stream_pair()
    await one.aclose()
    with pytest.raises(anyio.BrokenResourceError) as caught:
        await other.send(b"x")
    assert isinstance(caught.value.__cause__, ConnectionResetError)


async def test_closing_breaks_a_sender_that_waits_at_the_other_end() -> None:
    one, other = stream_pair()

    async def write() -> None:
        with pytest.raises(anyio.BrokenResourceError):
            await other.send(bytes(CAPACITY + 1))

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write)
            await anyio.wait_all_tasks_blocked()
            await one.aclose()


async def test_closed_end_can_neither_send_nor_receive() -> None:
    one, other = stream_pair()
    await other.send(b"unread")
    await one.aclose()
    with pytest.raises(anyio.ClosedResourceError):
        await one.receive()
    with pytest.raises(anyio.ClosedResourceError):
        await one.send(b"x")


async def test_closing_twice_is_closing_once() -> None:
    one, other = stream_pair()
    await one.aclose()
    await one.aclose()
    with pytest.raises(anyio.EndOfStream):
        await other.receive()


async def test_closing_wakes_a_reader_at_the_same_end() -> None:
    one, _ = stream_pair()

    async def read() -> None:
        with pytest.raises(anyio.ClosedResourceError):
            await one.receive()

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            await anyio.wait_all_tasks_blocked()
            await one.aclose()


async def test_closing_wakes_a_sender_at_the_same_end() -> None:
    one, _ = stream_pair()

    async def write() -> None:
        with pytest.raises(anyio.ClosedResourceError):
            await one.send(bytes(CAPACITY + 1))

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write)
            await anyio.wait_all_tasks_blocked()
            await one.aclose()


# --- half close -----------------------------------------------------------------------------------------------------


async def test_half_closed_end_still_receives() -> None:
    one, other = stream_pair()
    await one.send(b"question")
    await one.send_eof()
    assert await other.receive() == b"question"
    with pytest.raises(anyio.EndOfStream):
        await other.receive()
    await other.send(b"answer")
    assert await one.receive() == b"answer"


async def test_half_closed_end_sends_no_more() -> None:
    one, other = stream_pair()
    await one.send_eof()
    with pytest.raises((anyio.ClosedResourceError, anyio.BrokenResourceError)):
        await one.send(b"x")
    with pytest.raises(anyio.EndOfStream):
        await other.receive()


# --- reset ----------------------------------------------------------------------------------------------------------


async def test_reset_breaks_both_ends_and_loses_what_was_under_way() -> None:
    one, other = stream_pair()
    await one.send(b"lost")
    await other.send(b"lost")
    one.reset()
    for end in (one, other):
        with pytest.raises(anyio.BrokenResourceError) as caught:
            await end.receive()
        assert isinstance(caught.value.__cause__, ConnectionResetError)
        with pytest.raises(anyio.BrokenResourceError):
            await end.send(b"x")


async def test_reset_wakes_readers_and_senders_at_both_ends() -> None:
    one, other = stream_pair()

    async def read(end: MemoryStream) -> None:
        with pytest.raises(anyio.BrokenResourceError):
            await end.receive()

    async def write(end: MemoryStream) -> None:
        with pytest.raises(anyio.BrokenResourceError):
            await end.send(bytes(CAPACITY + 1))

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read, one)
            tasks.start_soon(write, one)
            await anyio.wait_all_tasks_blocked()
            other.reset()


# --- backpressure ---------------------------------------------------------------------------------------------------


async def test_one_direction_holds_its_capacity_without_a_reader() -> None:
    one, other = stream_pair()
    with anyio.fail_after(5):
        await one.send(bytes(CAPACITY))
        await other.send(b"the other direction is free")


async def test_sender_waits_at_capacity_until_there_is_room() -> None:
    one, other = stream_pair()
    await one.send(bytes(CAPACITY))
    sent: list[int] = []

    async def write() -> None:
        await one.send(b"ab")
        sent.append(2)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write)
            await anyio.wait_all_tasks_blocked()
            assert sent == []
            await other.receive(1)
            await anyio.wait_all_tasks_blocked()
            assert sent == []
            await other.receive(1)
            await anyio.wait_all_tasks_blocked()
            assert sent == [2]


async def test_more_than_the_capacity_arrives_whole_through_a_slow_reader() -> None:
    one, other = stream_pair()
    data = bytes(range(256)) * (3 * CAPACITY // 256)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one.send, data)
            assert await received(other, len(data), 10_000) == data


async def test_a_direction_never_holds_more_than_its_capacity() -> None:
    one, other = stream_pair()
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one.send, bytes(3 * CAPACITY))
            for _ in range(3):
                await anyio.wait_all_tasks_blocked()
                assert len(await other.receive(10 * CAPACITY)) == CAPACITY


# --- cancellation ---------------------------------------------------------------------------------------------------


async def test_cancelled_reader_takes_nothing() -> None:
    one, other = stream_pair()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await other.receive()
    await one.send(b"kept")
    assert await received(other, 4) == b"kept"


async def test_cancelled_reader_with_bytes_waiting_takes_nothing() -> None:
    one, other = stream_pair()
    await one.send(b"kept")
    with anyio.CancelScope() as scope:
        scope.cancel()
        await other.receive()
    assert scope.cancelled_caught
    assert await received(other, 4) == b"kept"
