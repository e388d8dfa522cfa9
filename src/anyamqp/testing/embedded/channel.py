"""A channel of the embedded broker, without I/O: the requests of a client, and its publishes.

Follows RabbitMQ where AMQP leaves a choice: confirms in bulk, returns before confirms, basic.qos for each consumer, the
wording of errors.
"""

from __future__ import annotations

from collections.abc import Callable

from anyamqp.errors import (
    AccessRefused,
    CommandInvalid,
    NotFound,
    NotImplementedByBroker,
    PreconditionFailed,
)
from anyamqp.testing.embedded.assembly import Command
from anyamqp.testing.embedded.copies import addressed
from anyamqp.testing.embedded.decoding import check_properties, delivery_mode
from anyamqp.testing.embedded.deliveries import Deliveries, Owner
from anyamqp.testing.embedded.exchanges import Exchange
from anyamqp.testing.embedded.model import NO_LINE_ENDS, Fate, Routed
from anyamqp.testing.embedded.normal_form import normal_form
from anyamqp.testing.embedded.queues import Declaration, Outcome, Queue
from anyamqp.testing.embedded.ready import Entry
from anyamqp.testing.embedded.reply_to import REPLY_TO, Replies, is_reply_address
from anyamqp.testing.embedded.transactions import Transaction
from anyamqp.wire import methods
from anyamqp.wire.basic import Received
from anyamqp.wire.frames import build
from anyamqp.wire.methods import Method


class Channel:
    """A channel of a connection.

    Args:
        peer: the connection.
        number: the channel's number.

    Attributes:
        is_closing: channel.close was sent; all but its answer is to be discarded.
        deliveries: its consumers and their unsettled deliveries.
    """

    def __init__(self, peer: Owner, number: int) -> None:
        self.peer = peer
        self.number = number
        self.is_closing = False
        self.deliveries: Deliveries = Deliveries(peer, number)
        self._last_queue = ""
        self._replies = Replies(peer.model.replies, self._deliver_reply)
        self._transaction = Transaction(peer.model, self.deliveries, self._deliver)
        self._confirms = False
        self._published = 0
        self._confirmed = 0

    # --- methods of the client --------------------------------------------------------------------------------------

    def receive(self, command: Command) -> None:
        """Take a method, with its content.

        Raises:
            ReplyError: the client is at fault.
            Violation: the message's properties cannot be read.
        """
        method, content, size = command
        if isinstance(method, methods.Basic.Publish) and content is not None:
            self._publish(method, content, size)
        else:
            self._call(method)

    def send_confirms(self) -> None:
        """Confirm all gathered publishes, in one frame."""
        if self._confirmed < self._published:
            multiple = self._published - self._confirmed > 1
            self._confirmed = self._published
            self._reply(methods.Basic.Ack(self._published, multiple))

    def leave(self) -> None:
        """End the consumers of a closed channel, and requeue its unsettled deliveries."""
        self._replies.cancel()
        self.deliveries.leave()

    def _check_publish(self, method: methods.Basic.Publish, message: Received, size: int) -> None:
        rules, model = self.peer.model.rules, self.peer.model
        if method.immediate:
            raise NotImplementedByBroker("NOT_IMPLEMENTED - immediate=true")
        if size > rules.message_size:
            raise PreconditionFailed(
                f"PRECONDITION_FAILED - message size {size} is larger than configured max size {rules.message_size}"
            )
        self.peer.access.check_publish(method)
        if method.exchange and model.exchange(method.exchange).internal:
            raise AccessRefused(
                f"ACCESS_REFUSED - cannot publish to internal exchange '{method.exchange}' in vhost '{model.name}'"
            )
        check_properties(message.encoded)
        if rules.checks_delivery_mode and (mode := delivery_mode(message.encoded)) not in (None, 1, 2):
            raise PreconditionFailed(f"PRECONDITION_FAILED - invalid message: {{delivery_mode_unknown,{mode}}}")

    def _publish(self, method: methods.Basic.Publish, message: Received, size: int) -> None:
        self._check_publish(method, message, size)
        if self.peer.model.rules.rewrites_properties:
            message = normal_form(message)
        message = self._replies.addressed(message)
        self.peer.access.check_user_id(message)
        message, routing_keys = addressed(message, method.routing_key)
        self.peer.has_published = True
        routed = self.peer.model.routed(message, method.exchange, routing_keys)
        if self._transaction.is_selected:
            self._transaction.publish(routed, mandatory=method.mandatory)
            return
        fate = self._deliver(routed, method.mandatory)
        if self._confirms:
            if fate is Fate.REFUSED:
                self.send_confirms()  # of those before it
            self._published += 1
            if fate is Fate.REFUSED:
                self._confirmed = self._published
                self._reply(build(methods.Basic.Nack, self._published, multiple=True))

    def _deliver(self, routed: Routed, mandatory: bool) -> Fate:
        """Put a message into its queues, and return it if it has to reach one and reaches none."""
        fate = self.peer.model.deliver(routed)
        if fate is Fate.UNROUTABLE and mandatory:
            message, routing_key = routed.message, routed.routing_keys[0]
            returned = build(methods.Basic.Return, 312, "NO_ROUTE", routed.exchange, routing_key)
            self.peer.write_content(self.number, returned, Entry(message, routed.exchange, routing_key, 0))
        return fate

    def _deliver_reply(self, tag: str, entry: Entry) -> None:
        method = build(methods.Basic.Deliver, tag, self.deliveries.tag_of_reply(), False, "", entry.routing_key)
        self.peer.write_content(self.number, method, entry)

    def _call(self, method: Method) -> None:
        handler = _HANDLERS.get(type(method))
        if handler is None:
            raise CommandInvalid("COMMAND_INVALID - unimplemented method")
        self.peer.access.check(method, self._last_queue)
        handler(self, method)

    def _reply(self, method: Method, *, nowait: bool = False) -> None:
        if not nowait:
            self.peer.write(self.number, method)

    def _queue(self, name: str) -> Queue:
        """The queue of that name, or the one declared last if it is empty."""
        return self.peer.model.queue(self._named(name), self.peer)

    def _named(self, name: str) -> str:
        if name or self._last_queue:
            return name or self._last_queue
        raise NotFound("NOT_FOUND - no previously declared queue")

    # --- requests ---------------------------------------------------------------------------------------------------

    def on_exchange_declare(self, method: methods.Exchange.Declare) -> None:
        model = self.peer.model
        if method.passive:
            model.exchange(method.exchange.translate(NO_LINE_ENDS))
        else:
            model.declare_exchange(
                Exchange(
                    method.exchange,
                    method.exchange_type,
                    durable=method.durable,
                    auto_delete=method.auto_delete,
                    internal=method.internal,
                    arguments=method.arguments,
                )
            )
        self._reply(methods.Exchange.DeclareOk(), nowait=method.nowait)

    def on_exchange_delete(self, method: methods.Exchange.Delete) -> None:
        self.peer.model.delete_exchange(method.exchange, if_unused=method.if_unused)
        self._reply(methods.Exchange.DeleteOk(), nowait=method.nowait)

    def on_exchange_bind(self, method: methods.Exchange.Bind) -> None:
        self.peer.model.bind(method.source, "exchange", method.destination, method.routing_key, method.arguments)
        self._reply(methods.Exchange.BindOk(), nowait=method.nowait)

    def on_exchange_unbind(self, method: methods.Exchange.Unbind) -> None:
        self.peer.model.unbind(method.source, "exchange", method.destination, method.routing_key, method.arguments)
        self._reply(methods.Exchange.UnbindOk(), nowait=method.nowait)

    def on_queue_declare(self, method: methods.Queue.Declare) -> None:
        model = self.peer.model
        if is_reply_address(method.queue):
            self._declare_replies(method)
            return
        if method.passive:
            queue = model.queue(method.queue, self.peer)
            queue.renew()
        else:
            owner = self.peer if method.exclusive else None
            wanted = Declaration(method.queue, method.durable, owner, method.auto_delete, method.arguments)
            queue = model.declare_queue(wanted, self.peer)
        self._last_queue = queue.name
        self._reply(build(methods.Queue.DeclareOk, queue.name, *queue.counts), nowait=method.nowait)

    def _declare_replies(self, method: methods.Queue.Declare) -> None:
        if not self.peer.model.replies.is_served(method.queue):
            raise NotFound(f"NOT_FOUND - no queue '{method.queue}' in vhost '{self.peer.model.name}'")
        self._reply(build(methods.Queue.DeclareOk, method.queue, 0, 1), nowait=method.nowait)

    def on_queue_bind(self, method: methods.Queue.Bind) -> None:
        name = self._named(method.queue)
        routing_key = method.routing_key if method.queue else method.routing_key or name
        self.peer.model.bind(method.exchange, "queue", name, routing_key, method.arguments, self.peer)
        self._reply(methods.Queue.BindOk(), nowait=method.nowait)

    def on_queue_unbind(self, method: methods.Queue.Unbind) -> None:
        name = self._named(method.queue)
        routing_key = method.routing_key if method.queue else method.routing_key or name
        self.peer.model.unbind(method.exchange, "queue", name, routing_key, method.arguments, self.peer)
        self._reply(methods.Queue.UnbindOk())

    def on_queue_purge(self, method: methods.Queue.Purge) -> None:
        queue = self._queue(method.queue)
        self._reply(methods.Queue.PurgeOk(queue.purge()), nowait=method.nowait)

    def on_queue_delete(self, method: methods.Queue.Delete) -> None:
        name = self._named(method.queue)
        if name not in self.peer.model.queues:
            self._reply(methods.Queue.DeleteOk(0), nowait=method.nowait)
            return
        queue = self._queue(name)
        queue.check_deletable(if_unused=method.if_unused, if_empty=method.if_empty)
        # The answer goes first: RabbitMQ, too, cancels the queue's consumers afterwards.
        self._reply(methods.Queue.DeleteOk(queue.deletion_count), nowait=method.nowait)
        self.peer.model.delete_queue(queue)

    def on_qos(self, method: methods.Basic.Qos) -> None:
        if method.prefetch_size:
            raise NotImplementedByBroker(f"NOT_IMPLEMENTED - prefetch_size!=0 ({method.prefetch_size})")
        self.deliveries.set_prefetch(method.prefetch_count, shared=method.global_)
        self._reply(methods.Basic.QosOk())
        self.deliveries.pump()

    def on_consume(self, method: methods.Basic.Consume) -> None:
        tag = method.consumer_tag or self.peer.model.new_name("amq.ctag")
        if method.queue == REPLY_TO:
            self.deliveries.check_tag(tag)
            self._replies.consume(tag, no_ack=method.no_ack)
            self._reply(methods.Basic.ConsumeOk(tag), nowait=method.nowait)
            return
        queue = self._queue(method.queue)
        self.deliveries.add(queue, tag, no_ack=method.no_ack, exclusive=method.exclusive, arguments=method.arguments)
        self._reply(methods.Basic.ConsumeOk(tag), nowait=method.nowait)
        queue.pump()

    def on_cancel(self, method: methods.Basic.Cancel) -> None:
        if method.consumer_tag == self._replies.tag:
            self._replies.cancel()
        queue = self.deliveries.remove(method.consumer_tag)
        self._reply(methods.Basic.CancelOk(method.consumer_tag), nowait=method.nowait)
        if queue is not None:
            queue.pump()

    def on_get(self, method: methods.Basic.Get) -> None:
        queue = self._queue(method.queue)
        entry = queue.take()
        if entry is None:
            self._reply(methods.Basic.GetEmpty())
            return
        tag = self.deliveries.hand_out(queue, entry, None, no_ack=method.no_ack)
        entry = queue.outgoing(entry, is_get=True)
        reply = build(methods.Basic.GetOk, tag, entry.redelivered, entry.exchange, entry.routing_key, len(queue.ready))
        self.peer.write_content(self.number, reply, entry)

    def on_ack(self, method: methods.Basic.Ack) -> None:
        self._settle(method.delivery_tag, Outcome.ACKED, multiple=method.multiple)

    def on_nack(self, method: methods.Basic.Nack) -> None:
        outcome = Outcome.NACKED if method.requeue else Outcome.DISCARDED
        self._settle(method.delivery_tag, outcome, multiple=method.multiple)

    def on_reject(self, method: methods.Basic.Reject) -> None:
        outcome = Outcome.REQUEUED if method.requeue else Outcome.REJECTED
        self._settle(method.delivery_tag, outcome, multiple=False)

    def on_recover(self, method: methods.Basic.Recover | methods.Basic.RecoverAsync) -> None:
        if not method.requeue:
            raise NotImplementedByBroker("NOT_IMPLEMENTED - requeue=false")
        self.deliveries.recover(is_answered=isinstance(method, methods.Basic.Recover))

    def _settle(self, tag: int, outcome: Outcome, *, multiple: bool) -> None:
        settle = self._transaction.settle if self._transaction.is_selected else self.deliveries.settle
        settle(tag, outcome, multiple=multiple)

    def on_tx_select(self, _: methods.Tx.Select) -> None:
        if self._confirms:
            raise PreconditionFailed("PRECONDITION_FAILED - cannot switch from confirm to tx mode")
        self._transaction.is_selected = True
        self._reply(methods.Tx.SelectOk())

    def on_tx_commit(self, _: methods.Tx.Commit) -> None:
        self._transaction.commit(lambda: self._reply(methods.Tx.CommitOk()))

    def on_tx_rollback(self, _: methods.Tx.Rollback) -> None:
        self._transaction.roll_back()
        self._reply(methods.Tx.RollbackOk())

    def on_select(self, method: methods.Confirm.Select) -> None:
        if self._transaction.is_selected:
            raise PreconditionFailed("PRECONDITION_FAILED - cannot switch from tx to confirm mode")
        self._confirms = True
        self._reply(methods.Confirm.SelectOk(), nowait=method.nowait)

    def on_flow(self, method: methods.Channel.Flow) -> None:
        if not method.active:
            raise NotImplementedByBroker("NOT_IMPLEMENTED - active=false")
        self._reply(methods.Channel.FlowOk(active=True))


_HANDLERS: dict[type[Method], Callable[..., None]] = {
    methods.Exchange.Declare: Channel.on_exchange_declare,
    methods.Exchange.Delete: Channel.on_exchange_delete,
    methods.Exchange.Bind: Channel.on_exchange_bind,
    methods.Exchange.Unbind: Channel.on_exchange_unbind,
    methods.Queue.Declare: Channel.on_queue_declare,
    methods.Queue.Bind: Channel.on_queue_bind,
    methods.Queue.Unbind: Channel.on_queue_unbind,
    methods.Queue.Purge: Channel.on_queue_purge,
    methods.Queue.Delete: Channel.on_queue_delete,
    methods.Basic.Qos: Channel.on_qos,
    methods.Basic.Consume: Channel.on_consume,
    methods.Basic.Cancel: Channel.on_cancel,
    methods.Basic.Get: Channel.on_get,
    methods.Basic.Ack: Channel.on_ack,
    methods.Basic.Nack: Channel.on_nack,
    methods.Basic.Reject: Channel.on_reject,
    methods.Basic.Recover: Channel.on_recover,
    methods.Basic.RecoverAsync: Channel.on_recover,
    methods.Confirm.Select: Channel.on_select,
    methods.Tx.Select: Channel.on_tx_select,
    methods.Tx.Commit: Channel.on_tx_commit,
    methods.Tx.Rollback: Channel.on_tx_rollback,
    methods.Channel.Flow: Channel.on_flow,
}
