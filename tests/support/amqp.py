"""The broker's side of the wire for tests: hand-made frames, and a session that receives them."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple, TypeVar

from pamqp import base, commands, encode

from anyamqp.message import FieldTable, Message
from anyamqp.protocol.events import ContentsReceived, Ended, Event, Tuning
from anyamqp.protocol.lifecycle import LinkState, Transition
from anyamqp.protocol.sasl import Mechanism, Plain
from anyamqp.protocol.session import Session
from anyamqp.wire import methods
from anyamqp.wire.basic import Received
from anyamqp.wire.decoder import Decoder
from anyamqp.wire.frames import Frame, Payload, encode_content
from anyamqp.wire.methods import Method

METHOD: Final = 1
HEADER: Final = 2
BODY: Final = 3
HEARTBEAT: Final = 8

FRAME_MAX: Final = 131072
USERNAME: Final = "alice"
PASSWORD: Final = "correct horse battery"
PROPOSAL: Final = Tuning(channel_max=2047, frame_max=FRAME_MAX, heartbeat=60)

E = TypeVar("E")


class Whole(NamedTuple):
    """A content from a session's event."""

    channel: int
    method: Method
    message: Received


# --- frames ---------------------------------------------------------------------------------------------------------


def frame(kind: int, channel: int, payload: bytes, *, end: bytes = b"\xce") -> bytes:
    """A frame, valid or not."""
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + end


def body(channel: int, payload: bytes) -> bytes:
    """A body frame."""
    return frame(BODY, channel, payload)


def header(channel: int, body_size: int, *, class_id: int = 60, properties: bytes = b"\x00\x00") -> bytes:
    """A content header frame."""
    return frame(HEADER, channel, struct.pack(">HHQ", class_id, 0, body_size) + properties)


def method_frame(channel: int, class_id: int, method_id: int, arguments: bytes = b"") -> bytes:
    """A method frame, from its class and method numbers."""
    return frame(METHOD, channel, struct.pack(">HH", class_id, method_id) + arguments)


def arguments(method: Method) -> bytes:
    """A method's arguments as pamqp encodes them, with full 64-bit tags."""
    out = bytearray()
    bits = 0
    definition: type[base.Frame] = commands.INDEX_MAPPING[method.index]
    for name in definition.attributes():
        kind = definition.amqp_type(name)
        value = getattr(method, name)
        if kind == "bit":
            if bits % 8 == 0:
                out.append(0)
            out[-1] |= bool(value) << (bits % 8)
            bits += 1
        else:
            bits = 0
            out += struct.pack(">Q", value) if kind == "longlong" else encode.by_type(value, kind)
    return bytes(out)


def any_method(channel: int, method: Method) -> bytes:
    """A method frame as pamqp encodes it, with full 64-bit tags."""
    return frame(METHOD, channel, method.index.to_bytes(4, "big") + arguments(method))


def content(channel: int, method: Method, data: bytes, *, frame_max: int = FRAME_MAX, **properties: Any) -> bytes:
    """A method with content."""
    return b"".join(encode_content(channel, method, Message(data, **properties), frame_max))


def decode(data: bytes, *, max_frame_size: int = FRAME_MAX, as_server: bool = False) -> list[Frame]:
    """Decode a whole stream."""
    decoder = Decoder(max_frame_size, as_server=as_server)
    decoder.feed(data)
    return list(decoder.frames())


def comparable(frames: Iterable[Frame]) -> list[Frame]:
    """Frames with bodies as bytes, so that their repr shows everything."""
    return [
        Frame(channel, bytes(payload)) if isinstance(payload, memoryview) else Frame(channel, payload)
        for channel, payload in frames
    ]


def theirs_of(method: Method) -> base.Frame:
    """Convert a method to pamqp's class."""
    kind: type[base.Frame] = commands.INDEX_MAPPING[method.index]
    return kind(**{name: getattr(method, name) for name in method.defaults})


def ours_of(theirs: base.Frame) -> Method:
    """Convert a method from pamqp's class."""
    return methods.INDEX_MAPPING[theirs.index](**dict(theirs))


# --- a session under test -------------------------------------------------------------------------------------------


class Dialogue:
    """A session, and a broker that the test scripts.

    Attributes:
        session: the session under test.
        events: all events of the session, in order.
        now: the time in seconds; the test advances it.
    """

    def __init__(
        self,
        *,
        mechanisms: Sequence[Mechanism] = (Plain(USERNAME, PASSWORD),),
        virtual_host: str = "/",
        proposal: Tuning = PROPOSAL,
        client_properties: FieldTable | None = None,
        max_message_size: int = 1 << 20,
        number: int = 1,
    ) -> None:
        self.now = 1000.0
        self.events: list[Event] = []
        self.session = Session(
            number=number,
            mechanisms=mechanisms,
            virtual_host=virtual_host,
            proposal=proposal,
            client_properties={} if client_properties is None else client_properties,
            max_message_size=max_message_size,
            now=self.now,
        )
        self._sent = Decoder(1 << 31, as_server=True)

    def say(self, *data: bytes) -> list[Event]:
        """Pass bytes from the broker to the session. Returns its events, without transitions."""
        self.session.receive(b"".join(data), self.now)
        return self.news()

    def tell(self, method: Method, channel: int = 0) -> list[Event]:
        """Pass a method from the broker to the session. Returns its events, without transitions."""
        return self.say(any_method(channel, method))

    def news(self) -> list[Event]:
        """The session's events since the last call, without transitions."""
        fresh = all_events(self.session)
        self.events += fresh
        return [event for event in fresh if not isinstance(event, Transition)]

    def sent(self) -> list[Frame]:
        """The frames that the session sent since the last call."""
        self._sent.feed(self.output())
        return list(self._sent.frames())

    def output(self) -> bytes:
        """Take the bytes that the session sends next."""
        return b"".join(self.session.output(self.now))

    def sent_methods(self) -> list[Method]:
        """The methods that the session sent since the last call. It must have sent nothing else."""
        return [expect(frame.payload, Method) for frame in self.sent()]

    def start(
        self,
        *,
        mechanisms: str = "PLAIN AMQPLAIN",
        server_properties: dict[str, Any] | None = None,
    ) -> list[Event]:
        """Pass the broker's connection.start to the session."""
        return self.tell(methods.Connection.Start(0, 9, server_properties or {"product": "test"}, mechanisms))

    def tune(self, tuning: Tuning = PROPOSAL) -> list[Event]:
        """Pass the broker's connection.tune to the session."""
        return self.tell(methods.Connection.Tune(*tuning))

    def open(self, tuning: Tuning = PROPOSAL) -> None:
        """Do the whole handshake, and clear ``sent`` and ``news``."""
        self.start()
        self.tune(tuning)
        self.tell(methods.Connection.OpenOk())
        self.sent()
        assert self.session.state is LinkState.OPEN

    def open_channel(self) -> int:
        """Open a channel, and clear ``sent`` and ``news``. Returns its number."""
        number = self.session.open_channel()
        self.tell(methods.Channel.OpenOk(), number)
        self.sent()
        return number

    def ended(self) -> Ended:
        """The only :class:`Ended` event so far."""
        self.news()
        (ended,) = [event for event in self.events if isinstance(event, Ended)]
        return ended

    def transitions(self) -> list[Transition]:
        """All transitions so far."""
        self.news()
        return [event for event in self.events if isinstance(event, Transition)]


def opened(*, tuning: Tuning = PROPOSAL, proposal: Tuning = PROPOSAL, max_message_size: int = 1 << 20) -> Dialogue:
    """A dialogue whose handshake is done."""
    dialogue = Dialogue(proposal=proposal, max_message_size=max_message_size)
    dialogue.open(tuning)
    return dialogue


def all_events(session: Session) -> list[Event]:
    """All events that a session has."""
    events: list[Event] = []
    while (event := session.next_event()) is not None:
        events.append(event)
    return events


def contents(told: Iterable[Event]) -> list[Whole]:
    """The contents in a session's events."""
    events = [event for event in told if isinstance(event, ContentsReceived)]
    return [Whole(event.channel, *content) for event in events for content in event.contents]


def whole(event: Event) -> Whole:
    """The only content of an event."""
    (only,) = contents([event])
    return only


def octets(payload: Payload) -> bytes:
    """The payload of a body frame as bytes; large ones come as views."""
    assert isinstance(payload, bytes | memoryview), f"{payload!r} is no piece of a body"
    return bytes(payload)


def expect(value: object, kind: type[E]) -> E:
    """Return the value, which must be of that type."""
    assert isinstance(value, kind), f"{value!r} is not a {kind.__name__}"
    return value
