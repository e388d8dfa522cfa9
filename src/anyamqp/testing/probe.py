"""A small blocking client that asks a RabbitMQ about its queues, so that an assertion needs no ``await``."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import Final, NamedTuple

from anyamqp.endpoint import Credentials
from anyamqp.errors import NotFound, ReplyError, SettingsError, reply_error
from anyamqp.settings import Settings
from anyamqp.wire import methods
from anyamqp.wire.decoder import Decoder
from anyamqp.wire.frames import PROTOCOL_HEADER, Payload, build, encode_method, field_table
from anyamqp.wire.methods import Method
from anyamqp.wire.receiving import Header

_LIMIT: Final = 10.0
"""Seconds that the broker has for each answer."""

_CHUNK: Final = 64 * 1024


class Counts(NamedTuple):
    """A queue as queue.declare-ok tells it."""

    messages: int
    consumers: int


class Probe:
    """A connection with one channel.

    Args:
        settings: where the broker is.

    Raises:
        OSError: the broker is not reachable.
        ReplyError: it refuses the login or the virtual host.
        SettingsError: the credentials are not a user's name and password.
    """

    def __init__(self, settings: Settings) -> None:
        credentials = settings.credentials
        if not isinstance(credentials, Credentials):
            raise SettingsError("credentials: the tests log in with a user's name and password only")
        address = settings.addresses[0]
        self._decoder = Decoder(0)
        self._payloads: list[Payload] = []
        self._socket = socket.create_connection((address.host, address.port), _LIMIT)
        try:
            self._log_in(credentials, settings.virtual_host)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the connection."""
        self._socket.close()

    def counts(self, queue: str) -> Counts:
        """The numbers of a queue's ready messages and of its consumers.

        Raises:
            ReplyError: there is no such queue (404), or another connection has it exclusively (405).
        """
        reply = self._ask(build(methods.Queue.Declare, queue=queue, passive=True))
        assert isinstance(reply, methods.Queue.DeclareOk)  # noqa: S101 - the protocol allows no other answer
        return Counts(reply.message_count, reply.consumer_count)

    def bodies(self, queue: str) -> list[bytes]:
        """The bodies of a queue's ready messages. They are taken and requeued, and count as redelivered afterwards.

        Raises:
            ReplyError: as for :meth:`counts`.
        """
        bodies: list[bytes] = []
        while isinstance(self._ask(build(methods.Basic.Get, queue=queue)), methods.Basic.GetOk):
            header = self._next()
            body = b""
            while isinstance(header, Header) and len(body) < header.body_size:
                piece = self._next()
                body += piece if isinstance(piece, bytes | memoryview) else b""
            bodies.append(body)
        self._send(1, build(methods.Basic.Nack, delivery_tag=0, multiple=True, requeue=True))
        self._ask(methods.Basic.Qos())  # answered after the messages are back
        return bodies

    def delete(self, queues: Iterable[str], exchanges: Iterable[str]) -> None:
        """Delete entities; those that are gone already are no error."""
        deletions: list[Method] = [build(methods.Queue.Delete, queue=name) for name in queues]
        deletions += [build(methods.Exchange.Delete, exchange=name) for name in exchanges]
        for deletion in deletions:
            try:
                self._ask(deletion)
            except NotFound:
                continue

    def _log_in(self, credentials: Credentials, virtual_host: str) -> None:
        self._socket.sendall(PROTOCOL_HEADER)
        self._expect(methods.Connection.Start)
        properties = field_table(
            {"connection_name": "pytest --amqp-url", "capabilities": {"authentication_failure_close": True}}
        )
        response = f"\0{credentials.username}\0{credentials.password}"
        self._send(0, methods.Connection.StartOk(properties, "PLAIN", response, "en_US"))
        tune = self._next()
        if not isinstance(tune, methods.Connection.Tune):
            raise ConnectionError(f"connection.tune expected, but {tune!r} came")
        self._send(0, build(methods.Connection.TuneOk, tune.channel_max or 0, tune.frame_max or 0, 0))
        self._send(0, build(methods.Connection.Open, virtual_host=virtual_host))
        self._expect(methods.Connection.OpenOk)
        self._open_channel()

    def _open_channel(self) -> None:
        self._send(1, build(methods.Channel.Open))
        self._expect(methods.Channel.OpenOk)

    def _ask(self, request: Method) -> Payload:
        """The answer to a request.

        Raises:
            ReplyError: the broker refuses it; the channel is open again.
        """
        self._send(1, request)
        return self._next()

    def _expect(self, kind: type[Method]) -> None:
        payload = self._next()
        if not isinstance(payload, kind):
            raise ConnectionError(f"{kind.__name__} expected, but {payload!r} came")

    def _send(self, channel: int, method: Method) -> None:
        self._socket.sendall(encode_method(channel, method))

    def _next(self) -> Payload:
        while not self._payloads:
            data = self._socket.recv(_CHUNK)
            if not data:
                raise ConnectionResetError(104, "the broker has ended the connection")
            self._decoder.feed(data)
            self._payloads += [frame.payload for frame in self._decoder.frames()]
        payload = self._payloads.pop(0)
        if isinstance(payload, methods.Channel.Close):
            self._send(1, methods.Channel.CloseOk())
            self._open_channel()
            raise _refusal(payload)
        if isinstance(payload, methods.Connection.Close):
            raise _refusal(payload)
        return payload


def _refusal(close: methods.Channel.Close | methods.Connection.Close) -> ReplyError:
    return reply_error(close.reply_code, close.reply_text)
