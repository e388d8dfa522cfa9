"""The broker's side of the wire for tests: frames by hand, and a session that is driven by them."""

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
    """A content that a session told of."""

    channel: int
    method: Method
    message: Received


# --- frames ---------------------------------------------------------------------------------------------------------


def frame(kind: int, channel: int, payload: bytes, *, end: bytes = b"\xce") -> bytes:
    """A frame, right or wrong."""
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + end


def body(channel: int, payload: bytes) -> bytes:
    """A body frame."""
    return frame(BODY, channel, payload)


def header(channel: int, body_size: int, *, class_id: int = 60, properties: bytes = b"\x00\x00") -> bytes:
    """A content header frame."""
    return frame(HEADER, channel, struct.pack(">HHQ", class_id, 0, body_size) + properties)


def method_frame(channel: int, class_id: int, method_id: int, arguments: bytes = b"") -> bytes:
    """A method frame by numbers."""
    return frame(METHOD, channel, struct.pack(">HH", class_id, method_id) + arguments)


def arguments(method: Method) -> bytes:
    """A method's arguments as pamqp encodes them, with tags of all 64 bits."""
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
    """A method frame as pamqp encodes it, with tags of all 64 bits."""
    return frame(METHOD, channel, method.index.to_bytes(4, "big") + arguments(method))


def content(channel: int, method: Method, data: bytes, *, frame_max: int = FRAME_MAX, **properties: Any) -> bytes:
    """A method with content."""
    return b"".join(encode_content(channel, method, Message(data, **properties), frame_max))


def decode(data: bytes, *, max_frame_size: int = FRAME_MAX, as_server: bool = False) -> list[Frame]:
    """The frames of a whole stream."""
    decoder = Decoder(max_frame_size, as_server=as_server)
    decoder.feed(data)
    return list(decoder.frames())


def comparable(frames: Iterable[Frame]) -> list[Frame]:
    """Frames whose pieces of bodies are bytes, so that their repr tells all."""
    return [
        Frame(channel, bytes(payload)) if isinstance(payload, memoryview) else Frame(channel, payload)
        for channel, payload in frames
    ]


def theirs_of(method: Method) -> base.Frame:
    """The same method as pamqp has it."""
    kind: type[base.Frame] = commands.INDEX_MAPPING[method.index]
    return kind(**{name: getattr(method, name) for name in method.defaults})


def ours_of(theirs: base.Frame) -> Method:
    """A method of pamqp's as we have it."""
    return methods.INDEX_MAPPING[theirs.index](**dict(theirs))


# --- a session under test -------------------------------------------------------------------------------------------


class Dialogue:
    """A session, and a broker that says what the test tells it to.

    Attributes:
        session: the session under test.
        events: everything that it has told, in order.
        now: the time; a test moves it by hand.
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
        """Give the session bytes from the broker; what it told, without transitions."""
        self.session.receive(b"".join(data), self.now)
        return self.news()

    def tell(self, method: Method, channel: int = 0) -> list[Event]:
        """Give the session a method from the broker; what it told, without transitions."""
        return self.say(any_method(channel, method))

    def news(self) -> list[Event]:
        """What the session told since the last call, without transitions."""
        fresh = all_events(self.session)
        self.events += fresh
        return [event for event in fresh if not isinstance(event, Transition)]

    def sent(self) -> list[Frame]:
        """The frames that the session sent since the last call."""
        self._sent.feed(self.output())
        return list(self._sent.frames())

    def output(self) -> bytes:
        """The next bytes that the session sends."""
        return b"".join(self.session.output(self.now))

    def sent_methods(self) -> list[Method]:
        """The methods that the session sent since the last call; it must have sent nothing else."""
        return [expect(frame.payload, Method) for frame in self.sent()]

    def start(
        self,
        *,
        mechanisms: str = "PLAIN AMQPLAIN",
        server_properties: dict[str, Any] | None = None,
    ) -> list[Event]:
        """The broker's connection.start."""
        return self.tell(methods.Connection.Start(0, 9, server_properties or {"product": "test"}, mechanisms))

    def tune(self, tuning: Tuning = PROPOSAL) -> list[Event]:
        """The broker's connection.tune."""
        return self.tell(methods.Connection.Tune(*tuning))

    def open(self, tuning: Tuning = PROPOSAL) -> None:
        """The whole handshake; what was said in it is gone from ``sent`` and ``news``."""
        self.start()
        self.tune(tuning)
        self.tell(methods.Connection.OpenOk())
        self.sent()
        assert self.session.state is LinkState.OPEN

    def open_channel(self) -> int:
        """An open channel; what was said for it is gone from ``sent`` and ``news``."""
        number = self.session.open_channel()
        self.tell(methods.Channel.OpenOk(), number)
        self.sent()
        return number

    def ended(self) -> Ended:
        """The one :class:`Ended` that was told."""
        self.news()
        (ended,) = [event for event in self.events if isinstance(event, Ended)]
        return ended

    def transitions(self) -> list[Transition]:
        """All transitions that were told."""
        self.news()
        return [event for event in self.events if isinstance(event, Transition)]


def opened(*, tuning: Tuning = PROPOSAL, proposal: Tuning = PROPOSAL, max_message_size: int = 1 << 20) -> Dialogue:
    """A dialogue whose handshake is done."""
    dialogue = Dialogue(proposal=proposal, max_message_size=max_message_size)
    dialogue.open(tuning)
    return dialogue


def all_events(session: Session) -> list[Event]:
    """All that a session has to tell."""
    events: list[Event] = []
    while (event := session.next_event()) is not None:
        events.append(event)
    return events


def contents(told: Iterable[Event]) -> list[Whole]:
    """The contents among what a session told."""
    events = [event for event in told if isinstance(event, ContentsReceived)]
    return [Whole(event.channel, *content) for event in events for content in event.contents]


def whole(event: Event) -> Whole:
    """The only content of an event."""
    (only,) = contents([event])
    return only


def octets(payload: Payload) -> bytes:
    """What a body frame carries, of which large ones are told as views."""
    assert isinstance(payload, bytes | memoryview), f"{payload!r} is no piece of a body"
    return bytes(payload)


def expect(value: object, kind: type[E]) -> E:
    """The value, which must be of that kind."""
    assert isinstance(value, kind), f"{value!r} is not a {kind.__name__}"
    return value
