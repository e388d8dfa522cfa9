"""Whatever a client sends, the embedded broker answers in AMQP or ends the connection; it never fails itself."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from anyamqp.protocol.events import Tuning
from anyamqp.testing.embedded.assembly import Assembler
from anyamqp.testing.embedded.framing import Framing, RawFrame
from anyamqp.testing.embedded.hosts import Hosts
from anyamqp.testing.embedded.model import Model
from anyamqp.testing.embedded.peer import Peer
from anyamqp.testing.embedded.users import Permissions, User
from anyamqp.testing.embedded.versions import RULES, Rules
from anyamqp.wire import methods
from anyamqp.wire.basic import Received
from anyamqp.wire.decoder import Decoder
from anyamqp.wire.frames import PROTOCOL_HEADER, build, encode_method, method_name
from anyamqp.wire.methods import Method
from support.amqp import any_method, body, header
from support.streams import METHODS, any_methods, damaged, properties, split, streams


class AnyLogin:
    """Lets everybody in."""

    tuning = Tuning(channel_max=2047, frame_max=131072, heartbeat=60)

    def log_in(self, mechanism: str, response: str) -> User:  # noqa: ARG002
        return User("anybody", elsewhere=Permissions())

    def update_secret(self, secret: str) -> None:
        pass


HANDSHAKE = b"".join(
    (
        PROTOCOL_HEADER,
        encode_method(0, build(methods.Connection.StartOk, client_properties={}, response="", locale="")),
        encode_method(0, build(methods.Connection.TuneOk, *AnyLogin.tuning)),
        encode_method(0, build(methods.Connection.Open)),
        encode_method(1, build(methods.Channel.Open)),
    )
)

USUAL = [
    build(methods.Queue.Declare, queue="q"),
    build(methods.Queue.Declare),
    build(methods.Queue.Delete, queue="q"),
    build(methods.Confirm.Select),
    build(methods.Basic.Consume, queue="q"),
    build(methods.Basic.Consume, queue="q", no_ack=True),
    build(methods.Basic.Get, queue="q"),
    build(methods.Basic.Qos, prefetch_count=1),
    build(methods.Basic.Qos, prefetch_count=1, global_=True),
    build(methods.Basic.Ack, delivery_tag=1),
    build(methods.Basic.Nack, delivery_tag=2, multiple=True),
    build(methods.Basic.Recover, requeue=True),
    build(methods.Channel.Open),
    build(methods.Channel.CloseOk),
    build(methods.Channel.Close, reply_code=200, reply_text="", class_id=0, method_id=0),
]
QUEUE = encode_method(1, build(methods.Queue.Declare, queue="q", arguments={"x-max-priority": 5}))
GET = encode_method(1, build(methods.Basic.Get, queue="q"))
PUBLISH_METHOD = encode_method(1, build(methods.Basic.Publish, routing_key="q"))
PUBLISH = PUBLISH_METHOD + header(1, 2) + body(1, b"ab")
CONNECTION = tuple(method for method in METHODS if method_name(method).startswith("connection."))
OTHERS = tuple(method for method in METHODS if method not in CONNECTION)

pieces = st.one_of(
    st.sampled_from([encode_method(1, method) for method in USUAL] + [PUBLISH] * 4),
    any_methods(OTHERS).map(lambda method: any_method(1, method)),
    any_methods(CONNECTION).map(lambda method: any_method(0, method)),
)


def heard(peer: Peer, *chunks: bytes) -> list[Method]:
    """What the peer says to that; it must be AMQP."""
    decoder = Decoder(0)
    said: list[Method] = []
    for chunk in chunks:
        if not peer.is_over:
            peer.receive(chunk, 0.0)
        peer.pump()
        decoder.feed(b"".join(outgoing.data for outgoing in peer.take(0.0)))
        said += [frame.payload for frame in decoder.frames() if isinstance(frame.payload, Method)]
    return said


def new_peer(hosts: Hosts) -> Peer:
    peer = Peer(hosts, AnyLogin(), lambda: None, 0.0)
    assert isinstance(heard(peer, HANDSHAKE)[-1], methods.Channel.OpenOk)
    return peer


def check_books(model: Model, *peers: Peer) -> None:
    """When all are gone, nothing is out, and nobody consumes."""
    for peer in peers:
        peer.gone()
    assert all(queue.unacked == 0 and not queue.consumers for queue in model.queues.values())
    assert all(queue.owner is None for queue in model.queues.values())


@given(st.lists(st.tuples(st.booleans(), pieces), max_size=15))
def test_any_methods_of_two_clients_are_answered_in_amqp(said: list[tuple[bool, bytes]]) -> None:
    hosts = Hosts()
    model = hosts["/"]
    peers = (new_peer(hosts), new_peer(hosts))
    for which, data in said:
        heard(peers[which], data)
    for queue in model.queues.values():
        positions = [entry.position for entry in queue.ready]
        assert positions == sorted(positions)
    check_books(model, *peers)


@given(damaged(streams).flatmap(split), st.booleans())
def test_damaged_streams_are_answered_in_amqp_or_end(chunks: list[bytes], is_open: bool) -> None:
    hosts = Hosts()
    peer = new_peer(hosts) if is_open else Peer(hosts, AnyLogin(), lambda: None, 0.0)
    if is_open:
        heard(peer, *chunks)
    else:
        for chunk in chunks:
            if not peer.is_over:
                peer.receive(chunk, 0.0)
    check_books(hosts["/"], peer)


@st.composite
def contents(draw: st.DrawFn) -> list[bytes]:
    """Publishes whose properties and bodies are sound, or damaged, or larger or smaller than announced."""
    said: list[bytes] = []
    for _ in range(draw(st.integers(1, 4))):
        encoded = draw(properties() | damaged(properties()) | st.binary(max_size=40))
        data = draw(st.binary(max_size=10))
        announced = draw(st.just(len(data)) | st.integers(0, 2**64 - 1))
        method = build(methods.Basic.Publish, routing_key="q", mandatory=draw(st.booleans()))
        said += [encode_method(1, method), header(1, announced, properties=encoded), body(1, data), GET]
    return said


@given(contents(), st.sampled_from(list(RULES.values())))
def test_damaged_contents_are_taken_or_refused_in_amqp(said: list[bytes], rules: Rules) -> None:
    hosts = Hosts(rules)
    peer = new_peer(hosts)
    heard(peer, QUEUE, *said)
    check_books(hosts["/"], peer)


# --- frames ---------------------------------------------------------------------------------------------------------


def frames_of(*chunks: bytes) -> list[RawFrame]:
    framing = Framing(131072)
    found: list[RawFrame] = []
    for chunk in chunks:
        framing.feed(chunk)
        found += framing.frames()
    return found


@given(st.data())
def test_frames_are_the_same_in_any_chunks(data: st.DataObject) -> None:
    stream = PROTOCOL_HEADER + data.draw(streams)
    assert frames_of(*data.draw(split(stream))) == frames_of(stream)


def test_frame_that_no_limit_was_agreed_for_is_still_bounded() -> None:
    class Unlimited(AnyLogin):
        tuning = Tuning(channel_max=0, frame_max=0, heartbeat=60)

    peer = Peer(Hosts(RULES["4.3"]), Unlimited(), lambda: None, 0.0)
    tune_ok = encode_method(0, build(methods.Connection.TuneOk, *Unlimited.tuning))
    handshake = HANDSHAKE.replace(encode_method(0, build(methods.Connection.TuneOk, *AnyLogin.tuning)), tune_ok)
    assert isinstance(heard(peer, handshake)[-1], methods.Channel.OpenOk)
    (close,) = heard(peer, b"\x03\0\1\xff\xff\xff\xff")
    assert isinstance(close, methods.Connection.Close)
    assert close.reply_code == 501


def test_body_larger_than_the_broker_accepts_is_counted_and_not_kept() -> None:
    assembler = Assembler(replace(RULES["4.3"], message_size=10))
    raw = [RawFrame(frame[0], 1, frame[7:-1]) for frame in (PUBLISH_METHOD, header(1, 12), body(1, b"abcdef"))]
    assert [assembler.take(one) for one in raw] == [None, None, None]
    command = assembler.take(raw[-1])
    assert command is not None
    assert (command.size, command.content) == (12, Received(b"", b"\0\0"))
