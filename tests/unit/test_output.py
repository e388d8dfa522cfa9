"""The frames of a session that wait: their sizes and numbers, the answers among them, the pieces they leave in."""

from __future__ import annotations

from anyamqp.protocol.output import Output
from anyamqp.wire import methods
from anyamqp.wire.basic import content_parts, encode_ack
from anyamqp.wire.frames import encode_method
from support.amqp import decode

FRAME_MAX = 4096
METHOD = encode_method(1, methods.Basic.Publish(routing_key="q"))


def started() -> Output:
    """An output whose protocol header has left."""
    output = Output(FRAME_MAX)
    output.take()
    return output


def write(output: Output, body: bytes, frame_max: int = FRAME_MAX) -> None:
    output.write_content(content_parts(METHOD, 1, b"\0\0", body, frame_max), len(body))


def test_size_and_frames_are_those_that_leave() -> None:
    for body in (b"", b"x" * 100, b"x" * 10_000):
        output = started()
        write(output, body)
        size = output.size
        data = b"".join(output.take())
        assert (len(data), output.size, output.frames_written) == (size, 0, len(decode(data)))


def test_answers_are_owed_until_the_last_has_left() -> None:
    output = started()
    ack = encode_ack(1, 1, multiple=False)
    output.answer_with(ack)
    output.answer(1, methods.Channel.FlowOk(active=True))
    assert output.owed == output.size > len(ack)
    output.take()
    assert output.owed == 0


def test_large_bodies_leave_uncopied_in_each_take() -> None:
    output = started()
    body = b"x" * 600_000
    for _ in range(4):
        write(output, body, 0)
    taken = [output.take(), output.take()]
    assert all(sum(piece is body for piece in pieces) == 2 for pieces in taken)
