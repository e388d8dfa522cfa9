"""A TCP proxy that breaks the network on purpose.

Put it between a client and a broker; its methods cause the faults of a real network::

    with FaultProxy("127.0.0.1", 5672) as proxy:
        async with anyamqp.connect(f"amqp://guest:guest@{proxy.host}:{proxy.port}/") as connection:
            proxy.reset()
            ...

The proxy runs in one thread of its own and shares no event loop with the client, so a client that stalls cannot stall
the fault, and the same proxy serves asyncio and trio. A method returns when the fault is in force, which takes well
under a millisecond; it may be called from any thread and from asynchronous code.

The methods end or stop connections in these ways:

===================  ==================================================================================================
``reset``            both sides get a RST
``finish``           both sides get a FIN
``half_close``       the client gets a FIN, its own bytes still reach the broker
``strand``           no bytes move any more, and neither side learns of it; new connections work
``black_hole``       no bytes move on any connection until ``heal``; then all bytes are delivered, in order
===================  ==================================================================================================
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

from anyamqp.errors import InvalidUse, SettingsError
from anyamqp.testing.pairs import send_end
from anyamqp.testing.relay import Relay


class FaultProxy:
    """A proxy in front of one broker; a context manager that listens from enter to exit.

    Parameters:
        host: the broker's host name or address.
        port: the broker's port.

    Raises:
        InvalidUse: a method was called outside the context.
    """

    def __init__(self, host: str, port: int) -> None:
        self._relay = Relay(host, port)

    def __enter__(self) -> Self:
        if self._relay.address is not None:
            raise InvalidUse("a FaultProxy is entered once; make another")
        self._relay.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._relay.stop()

    # Address and counters

    @property
    def host(self) -> str:
        """The address that the proxy listens on, always of the loopback interface."""
        return self._where()[0]

    @property
    def port(self) -> int:
        """The port that the proxy listens on."""
        return self._where()[1]

    @property
    def connections_total(self) -> int:
        """How many connections were accepted so far."""
        return self._relay.total

    @property
    def live_connections(self) -> int:
        """How many connections clients hold now: they have sent neither FIN nor RST. Stranded ones are not counted:
        no network could tell whether the client still holds them."""
        return self._relay.live

    @property
    def max_live_connections(self) -> int:
        """The largest number that :attr:`live_connections` has reached."""
        return self._relay.most

    # Ends

    def reset(self) -> None:
        """Reset every live connection, on both sides. Bytes that are under way are lost."""
        self._relay.do(self._relay.reset_all)

    def finish(self) -> None:
        """End every live connection with a FIN on both sides. Bytes that are under way are lost."""

        def finish() -> None:
            for pair in self._relay.pairs:
                pair.finished = True
                for stream in pair.streams:
                    stream.close()
                if pair.broker is None:
                    send_end(pair.client)

        self._relay.do(finish)

    def half_close(self) -> None:
        """End the broker's direction of every live connection: the client reads an end of stream, and its own bytes
        still reach the broker."""

        def half_close() -> None:
            for pair in self._relay.pairs:
                if pair.down is not None:
                    pair.down.close()
                else:
                    send_end(pair.client)

        self._relay.do(half_close)

    def strand(self) -> None:
        """Let every live connection go dead for ever, while new ones work.

        Neither side learns of it; the proxy stops reading too, so that windows and buffers fill. A broker
        behind a failed-over address looks like this, and so does a firewall that has forgotten a connection.
        """

        def strand() -> None:
            self._relay.stranded += self._relay.pairs
            self._relay.pairs.clear()

        self._relay.do(strand)

    def cut_after(self, n_bytes: int) -> None:
        """Forward ``n_bytes`` more from the broker, counted over all connections, and then reset the connection that
        got the last of them. With 0 the next byte from the broker is the one that does not arrive.

        Raises:
            SettingsError: ``n_bytes`` is negative.
        """
        if n_bytes < 0:
            raise SettingsError(f"n_bytes must be 0 or more, not {n_bytes}")

        def cut() -> None:
            self._relay.cut = n_bytes

        self._relay.do(cut)

    # Silence

    def black_hole(self) -> None:
        """Hold back all bytes in both directions until :meth:`heal`; ends and resets of the two sides are held too.

        A new connection is established by the kernel and then meets the same silence.
        """

        def darken() -> None:
            self._relay.is_dark = True

        self._relay.do(darken)

    def heal(self) -> None:
        """End :meth:`black_hole`: everything that was held back is delivered, in order."""

        def heal() -> None:
            self._relay.is_dark = False

        self._relay.do(heal)

    def refuse(self) -> None:
        """Refuse new connections, on a port that stays reserved. Those that exist go on."""
        self._relay.do(self._relay.refuse)

    def accept(self) -> None:
        """End :meth:`refuse`: listen again, on the same port."""
        self._relay.do(self._relay.accept)

    def mute(self) -> None:
        """Accept new connections and never answer on them, so that a handshake hangs. Those that exist go on."""

        def mute() -> None:
            self._relay.is_mute = True

        self._relay.do(mute)

    def unmute(self) -> None:
        """End :meth:`mute` for connections yet to come. Those that met silence stay silent for ever."""

        def unmute() -> None:
            self._relay.is_mute = False

        self._relay.do(unmute)

    # Nuisances

    def delay(self, seconds: float) -> None:
        """Delay all bytes that are read from now on by ``seconds``, in each direction. 0 ends it.

        Raises:
            SettingsError: ``seconds`` is negative.
        """
        if not seconds >= 0:
            raise SettingsError(f"seconds must be 0 or more, not {seconds}")

        def delay() -> None:
            self._relay.delay = seconds

        self._relay.do(delay)

    def rate(self, bytes_per_second: float | None) -> None:
        """Limit each direction of each connection to ``bytes_per_second``. ``None`` ends it.

        Raises:
            SettingsError: ``bytes_per_second`` is not above 0.
        """
        if bytes_per_second is not None and not bytes_per_second > 0:
            raise SettingsError(f"bytes_per_second must be above 0, not {bytes_per_second}")

        def rate() -> None:
            self._relay.rate = bytes_per_second
            for pair in self._relay.pairs:
                for stream in pair.streams:
                    stream.free_at = 0.0

        self._relay.do(rate)

    def corrupt(self) -> None:
        """Invert the last byte of the next chunk that is read from the broker, once. In AMQP that is mostly the end
        octet of a frame."""

        def corrupt() -> None:
            self._relay.corrupts_next = True

        self._relay.do(corrupt)

    def _where(self) -> tuple[str, int]:
        if self._relay.address is None:
            raise InvalidUse("this FaultProxy has not been entered: use it as 'with FaultProxy(...) as proxy'")
        return self._relay.address
