"""Whatever a client sends, the embedded broker answers in AMQP or ends the connection; it never fails itself."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from anyamqp.protocol.events import Tuning
from anyamqp.testing.embedded.hosts import Hosts
from anyamqp.testing.embedded.model import Model
from anyamqp.testing.embedded.peer import Peer
from anyamqp.testing.embedded.users import Permissions, User
from anyamqp.wire import methods
from anyamqp.wire.decoder import Decoder
from anyamqp.wire.frames import PROTOCOL_HEADER, build, encode_method, method_name
from anyamqp.wire.methods import Method
from support.amqp import any_method, body, header
from support.streams import METHODS, any_methods, damaged, split, streams


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
PUBLISH = encode_method(1, build(methods.Basic.Publish, routing_key="q")) + header(1, 2) + body(1, b"ab")
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
