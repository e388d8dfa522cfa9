"""Fifty bugs, as one could make them while changing the code. Their author read the sources and not the tests."""

from __future__ import annotations

from typing import Final, NamedTuple


class Bug(NamedTuple):
    """A bug.

    Attributes:
        name: the fault that it makes.
        path: the file, below ``src/anyamqp``.
        right: a piece of the file, which it contains once.
        wrong: the piece that replaces it.
    """

    name: str
    path: str
    right: str
    wrong: str


BUGS: Final = (
    # --- a publish --------------------------------------------------------------------------------------------------
    Bug(
        "publishes sent again come back in the wrong order",
        "protocol/places.py",
        "self.backlog.extendleft(reversed(publishes))",
        "self.backlog.extendleft(publishes)",
    ),
    Bug(
        "publishes sent again go behind the others",
        "protocol/places.py",
        "self.backlog.extendleft(reversed(publishes))",
        "self.backlog.extend(publishes)",
    ),
    Bug(
        "a confirm of a channel that has ended settles a publish of the next",
        "protocol/places.py",
        "        self.ledger.clear()\n        self._last_returned = 0",
        "        self._last_returned = 0",
    ),
    Bug(
        "a publish that timed out is sent all the same",
        "protocol/outbox.py",
        "is PublisherState.FLOWING and now < pending.deadline:",
        "is PublisherState.FLOWING:",
    ),
    Bug(
        "a new publish overtakes the backlog",
        "protocol/outbox.py",
        "            self.backlog.append(pending)\n            self._send_backlog(now)",
        "            self.backlog.appendleft(pending)\n            self._send_backlog(now)",
    ),
    Bug(
        "room in the window is lost with each refused publish",
        "protocol/outbox.py",
        "        if self._refusal is not None:  # an attribute, because the table never runs per message\n"
        "            self.places.leave(pending)\n",
        "        if self._refusal is not None:  # an attribute, because the table never runs per message\n",
    ),
    Bug(
        "a confirmed publish keeps its room in the window",
        "protocol/outbox.py",
        "        self.window.give_back(size, count)\n",
        "        self.window.give_back(0, count)\n",
    ),
    Bug(
        "a returned publish counts as confirmed",
        "protocol/outbox.py",
        "if is_ack and pending.returned is None:",
        "if is_ack:",
    ),
    Bug(
        "a nacked publish counts as confirmed",
        "protocol/outbox.py",
        "            is_ack = isinstance(method, methods.Basic.Ack)\n",
        "            is_ack = True\n",
    ),
    Bug(
        "publishes that were never sent wait for ever while the connection is blocked",
        "protocol/outbox.py",
        "        if now >= self.block.due_at:\n            self._fail_unsent(now)\n        if now >= self._expires_at:",
        "        if now >= self._expires_at:",
    ),
    Bug(
        "after a close one by one never becomes all at once again",
        "protocol/outbox.py",
        "        if had and not count:\n            self._fire(PublisherEvent.PROBED)\n",
        "        if had and count < 0:\n            self._fire(PublisherEvent.PROBED)\n",
    ),
    Bug(
        "a confirm for several settles one too many",
        "protocol/confirms.py",
        "first, after = self._first, place + 1",
        "first, after = self._first, place + 2",
    ),
    Bug(
        "a confirm for all of them settles none",
        "protocol/confirms.py",
        "place = tag - self._base if tag or not multiple else len(self._places) - 1",
        "place = tag - self._base",
    ),
    Bug(
        "the ledger forgets its stragglers when it shrinks",
        "protocol/confirms.py",
        "            self._stragglers.update(self.tagged(self._base + first - 1))\n",
        "",
    ),
    Bug(
        "a large message overtakes those that wait for room",
        "protocol/window.py",
        "return not self._waiting and self._take_if_free(size)",
        "return self._take_if_free(size)",
    ),
    Bug(
        "a message larger than the window waits for ever",
        "protocol/window.py",
        "        if not fits and self._used_count:\n",
        "        if not fits:\n",
    ),
    Bug(
        "a cancelled waiter keeps the room that it was given",
        "protocol/window.py",
        "        if waiter.is_granted:\n            self.give_back(waiter.size)\n        elif",
        "        if waiter.is_granted:\n            pass\n        elif",
    ),
    Bug(
        "the first publish with that id counts as the returned one",
        "protocol/returns.py",
        "            pending.returned is None\n            and pending.message_id == message_id",
        "            pending.message_id == message_id",
    ),
    # --- a delivery -------------------------------------------------------------------------------------------------
    Bug(
        "one ack settles an older delivery that is still in work",
        "protocol/acks.py",
        "covered = [tag for tag in pending if tag <= self._floor]",
        "covered = list(pending)",
    ),
    Bug(
        "the gap closes one too early",
        "protocol/acks.py",
        "            return\n        self._floor = tag\n        if self._settled:\n",
        "            return\n        self._floor = tag + 1\n        if self._settled:\n",
    ),
    Bug(
        "a request overtakes the acks that were given before it",
        "protocol/channels.py",
        "        self.require_open(number)\n        self._unsent_acks.flush(number)\n",
        "        self.require_open(number)\n",
    ),
    Bug(
        "a delivery can be settled twice",
        "delivery.py",
        "        self._settled = True\n        return self._settler\n",
        "        return self._settler\n",
    ),
    Bug(
        "a cancelled handling counts as a failure",
        "on_error.py",
        "delivery.requeue(failed=False, after=_CANCELLED_PAUSE)",
        "delivery.requeue(failed=True, after=_CANCELLED_PAUSE)",
    ),
    Bug(
        "deliveries that wait are forgotten when a consumer stops",
        "protocol/subscription.py",
        "        taken = list(self.waiting)\n        self.waiting.clear()\n        return taken\n",
        "        self.waiting.clear()\n        return []\n",
    ),
    Bug(
        "reading that paused for a consumer never goes on",
        "protocol/subscription.py",
        "        self.is_reading_paused = False\n        return (Reading.RESUME,)\n",
        "        self.is_reading_paused = False\n        return ()\n",
    ),
    Bug(
        "a consumer without a prefetch takes messages without end",
        "protocol/subscription.py",
        "if len(waiting) >= self._pause_at and not self.is_reading_paused:",
        "if len(waiting) >= 1000 * self._pause_at and not self.is_reading_paused:",
    ),
    Bug(
        "a broker that delivers far more than the prefetch is not told so",
        "protocol/subscription.py",
        "        if held > self._most_unsettled and not is_of_stream(deliveries[-1]):\n",
        "        if held < 0 and not is_of_stream(deliveries[-1]):\n",
    ),
    Bug(
        "the tasks that wait for a delivery do not learn of the end",
        "protocol/subscription.py",
        "        self.error = error\n        for waker in self.wakers:\n            waker.set()\n        return",
        "        self.error = error\n        return",
    ),
    Bug(
        "an ack of a delivery crosses to the next link",
        "protocol/settlements.py",
        "        self.is_stale = True\n        self._forget_pauses()\n",
        "        self._forget_pauses()\n",
    ),
    # --- the connection ---------------------------------------------------------------------------------------------
    Bug(
        "the broker is found dead after three intervals",
        "protocol/heartbeat.py",
        "dead_at = self._read_at + 2 * interval",
        "dead_at = self._read_at + 3 * interval",
    ),
    Bug(
        "heartbeats go out once in an interval",
        "protocol/heartbeat.py",
        "send = not dead and now >= self._wrote_at + interval / 2",
        "send = not dead and now >= self._wrote_at + interval",
    ),
    Bug(
        "a stalled event loop costs the link",
        "protocol/heartbeat.py",
        "        dead_at = max(dead_at, self._grace_until)\n",
        "",
    ),
    Bug(
        "a link that did useful work counts as a failed attempt",
        "protocol/reconnect.py",
        "or (life.has_worked and not is_fault)",
        "",
    ),
    Bug(
        "a booting broker's refusals end the connection at once",
        "protocol/reconnect.py",
        "now - self._refused_since >= self._policy.refusal_grace",
        "now - self._refused_since >= 0.0",
    ),
    Bug(
        "the records of a name are all skipped but the first",
        "protocol/addresses.py",
        "        if len(self._records) > 1:\n",
        "        if len(self._records) > 99:\n",
    ),
    Bug(
        "the transport stays open when a link ends",
        "net/link.py",
        "        with anyio.CancelScope(shield=True), anyio.move_on_after(_LINGER):\n"
        "            await self._stream.aclose()\n",
        "        with anyio.CancelScope(shield=True), anyio.move_on_after(_LINGER):\n"
        "            await anyio.lowlevel.checkpoint()\n",
    ),
    Bug(
        "the last frames are dropped at a close",
        "net/link.py",
        "                with anyio.move_on_after(_LINGER):\n                    await self._output_done.wait()\n",
        "                pass\n",
    ),
    Bug(
        "publishers above the high-water mark are never woken",
        "net/link.py",
        "                if was_full and not self.is_full:\n                    self._output_taken.wake()\n",
        "",
    ),
    Bug(
        "a flood of frames keeps all other tasks waiting",
        "net/link.py",
        "                if self._loop.now() > until and not self.has_ended:\n                    break",
        "                if self._loop.now() > until + 3600 and not self.has_ended:\n                    break",
    ),
    Bug(
        "a close that the user asked for waits out the pause before the next dial",
        "core/supervisor.py",
        "                self._work = None  # a pause that waits for the end of the last link\n"
        "                if self._attempt is not None:\n"
        "                    self._attempt.cancel()\n",
        "                self._work = None  # a pause that waits for the end of the last link\n",
    ),
    Bug(
        "nobody is told when a channel number is free",
        "core/supervisor.py",
        "        self._core.number_wakers.wake()\n",
        "        pass\n",
    ),
    # --- what is declared -------------------------------------------------------------------------------------------
    Bug(
        "bindings are declared again before their queues",
        "protocol/topology.py",
        "return [*self.exchanges(), *self.queues(), *self.bindings()]",
        "return [*self.exchanges(), *self.bindings(), *self.queues()]",
    ),
    Bug(
        "a deleted queue comes back after a loss",
        "protocol/topology.py",
        "            self._forget_queue(self.declared_name(request.queue))\n",
        "            pass\n",
    ),
    Bug(
        "a request names a queue as it was called before the loss",
        "protocol/topology.py",
        "        return request.replace(queue=name)\n\n    def is_stream",
        "        return request\n\n    def is_stream",
    ),
    Bug(
        "an auto-delete queue comes back after its last consumer has gone",
        "protocol/topology.py",
        "        self._consumers[name] -= 1\n",
        "        self._consumers[name] -= 0\n",
    ),
    # --- RPC, transactions, pool ------------------------------------------------------------------------------------
    Bug(
        "a returned request waits for its time-out",
        "protocol/calls.py",
        "            call.settle(unroutable_of(method, message.message_id))\n",
        "            pass\n",
    ),
    Bug(
        "a call whose client forbids it is sent again",
        "protocol/calls.py",
        "            if self._resend and call.attempts < _MOST_ATTEMPTS:\n",
        "            if call.attempts < _MOST_ATTEMPTS:\n",
    ),
    Bug(
        "a transaction whose link was lost commits all the same",
        "protocol/transactions.py",
        "            self._loss = error\n\n    def check_loss",
        "            pass\n\n    def check_loss",
    ),
    Bug(
        "a pool lends one channel less after each failure to open one",
        "pool.py",
        "        except BaseException:\n            self._room.release()\n            raise\n        return member\n",
        "        except BaseException:\n            raise\n        return member\n",
    ),
    # --- secrets, and what comes from outside -----------------------------------------------------------------------
    Bug(
        "an error shows a piece of the URL, and with it a password",
        "urls.py",
        '        shown = "the value" if "@" in host or ":" in host else repr(host)\n',
        "        shown = repr(host)\n",
    ),
)
