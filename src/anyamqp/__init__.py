"""An AMQP 0-9-1 client for RabbitMQ, on asyncio and trio: nothing confirmed is lost, nothing hangs, anyone can see why.

    async with anyamqp.connect("amqp://guest:guest@localhost/") as connection:
        async with connection.channel() as channel:
            await channel.declare_queue("orders")
        async with connection.publisher() as publisher:         # confirms; sends again after a loss
            await publisher.publish(Message(b"tea"), routing_key="orders")
        async with connection.consumer("orders") as consumer:   # goes on over reconnects
            async for delivery in consumer:
                async with delivery:                            # ack, or what on_error says
                    print(delivery.body)

Begin with ``help(anyamqp.connect)``. A :class:`Connection` makes everything else:

    connection.channel()        declare, bind, get, transactions            :class:`Channel`
    connection.publisher()      publish with confirms                       :class:`Publisher`
    connection.consumer(queue)  deliveries, handlers side by side           :class:`Consumer`
    connection.rpc_client()     ask; :func:`serve_rpc` answers              :class:`RpcClient`
    connection.transitions()    every change, with its reason               :class:`TransitionStream`
    connection.stats            a snapshot                                  :class:`Stats`

Errors are one tree under :class:`AnyamqpError`; each says whose fault it is (``blame``) and whether a retry can help
(``cure``). :mod:`anyamqp.testing` is a broker for tests, :mod:`anyamqp.extras` has traces, metrics and codecs.
"""

from anyamqp.channel import Channel
from anyamqp.codecs import Codec, JsonCodec
from anyamqp.connecting import connect
from anyamqp.connection import Connection
from anyamqp.consumer import Consumer
from anyamqp.core.stats import Stats
from anyamqp.core.transition_stream import TransitionStream
from anyamqp.delivery import Delivery
from anyamqp.endpoint import TLS, Address, Credentials, CredentialsSource, Login
from anyamqp.entities import Entity, RecoveryMode, TopologyRecovery
from anyamqp.errors import (
    AccessRefused,
    AnyamqpError,
    Blame,
    ChannelClosed,
    ChannelError,
    ChannelLimitReached,
    CloseFacts,
    CloseFrame,
    CommandInvalid,
    CommandSyntaxError,
    ConnectionBlocked,
    ConnectionClosed,
    ConnectionForced,
    ConnectionLost,
    ConnectTimeout,
    ConsumerCancelled,
    ContentTooLarge,
    CredentialsUnavailable,
    Cure,
    DeadlineExceeded,
    FrameError,
    HeartbeatTimeout,
    InternalError,
    InvalidArgument,
    InvalidPath,
    InvalidTransition,
    InvalidUse,
    LoginRefused,
    MalformedProperties,
    Nacked,
    NoConsumers,
    NoRoute,
    NotAllowed,
    NotFound,
    NotImplementedByBroker,
    OutcomeUnknown,
    PreconditionFailed,
    PublishTimeout,
    ReadyTimeout,
    RemoteError,
    ReplyError,
    ReplyTimeout,
    RequestTimeout,
    ResourceError,
    ResourceLocked,
    SettingsError,
    Side,
    TLSError,
    TransportError,
    UndecodableBody,
    UnexpectedFailure,
    UnexpectedFrame,
    Unroutable,
)
from anyamqp.handlers import Handler
from anyamqp.hooks import DeliveryHook, Hooks, Incoming, Outgoing, PublishHook, PublishKind, Settlement
from anyamqp.message import FieldTable, FieldValue, Message, Properties
from anyamqp.net.dialer import Dial
from anyamqp.on_error import OnError
from anyamqp.options import (
    DeadLetterStrategy,
    DelayedRetry,
    LeaderLocator,
    Overflow,
    QueueOptions,
    QueueType,
    StreamOffset,
)
from anyamqp.pool import ChannelPool
from anyamqp.protocol.events import Tuning
from anyamqp.protocol.failures import Decision, Retry
from anyamqp.protocol.lifecycle import ChannelEvent, ConnectionEvent, LinkEvent, LinkState, State, Transition
from anyamqp.protocol.sasl import External, Mechanism
from anyamqp.protocol.subscribing import OnCancel
from anyamqp.publication import Publication, Receipt
from anyamqp.publisher import Publisher
from anyamqp.queue import Queue
from anyamqp.rpc import RpcClient, serve_rpc
from anyamqp.settings import VERSION, ReconnectPolicy, Settings
from anyamqp.transaction import Transaction
from anyamqp.typed import TypedConsumer, TypedDelivery, TypedPublisher, TypedRpcClient, typed_handler

__version__ = VERSION

__all__ = [
    "TLS",
    "AccessRefused",
    "Address",
    "AnyamqpError",
    "Blame",
    "Channel",
    "ChannelClosed",
    "ChannelError",
    "ChannelEvent",
    "ChannelLimitReached",
    "ChannelPool",
    "CloseFacts",
    "CloseFrame",
    "Codec",
    "CommandInvalid",
    "CommandSyntaxError",
    "ConnectTimeout",
    "Connection",
    "ConnectionBlocked",
    "ConnectionClosed",
    "ConnectionEvent",
    "ConnectionForced",
    "ConnectionLost",
    "Consumer",
    "ConsumerCancelled",
    "ContentTooLarge",
    "Credentials",
    "CredentialsSource",
    "CredentialsUnavailable",
    "Cure",
    "DeadLetterStrategy",
    "DeadlineExceeded",
    "Decision",
    "DelayedRetry",
    "Delivery",
    "DeliveryHook",
    "Dial",
    "Entity",
    "External",
    "FieldTable",
    "FieldValue",
    "FrameError",
    "Handler",
    "HeartbeatTimeout",
    "Hooks",
    "Incoming",
    "InternalError",
    "InvalidArgument",
    "InvalidPath",
    "InvalidTransition",
    "InvalidUse",
    "JsonCodec",
    "LeaderLocator",
    "LinkEvent",
    "LinkState",
    "Login",
    "LoginRefused",
    "MalformedProperties",
    "Mechanism",
    "Message",
    "Nacked",
    "NoConsumers",
    "NoRoute",
    "NotAllowed",
    "NotFound",
    "NotImplementedByBroker",
    "OnCancel",
    "OnError",
    "OutcomeUnknown",
    "Outgoing",
    "Overflow",
    "PreconditionFailed",
    "Properties",
    "Publication",
    "PublishHook",
    "PublishKind",
    "PublishTimeout",
    "Publisher",
    "Queue",
    "QueueOptions",
    "QueueType",
    "ReadyTimeout",
    "Receipt",
    "ReconnectPolicy",
    "RecoveryMode",
    "RemoteError",
    "ReplyError",
    "ReplyTimeout",
    "RequestTimeout",
    "ResourceError",
    "ResourceLocked",
    "Retry",
    "RpcClient",
    "Settings",
    "SettingsError",
    "Settlement",
    "Side",
    "State",
    "Stats",
    "StreamOffset",
    "TLSError",
    "TopologyRecovery",
    "Transaction",
    "Transition",
    "TransitionStream",
    "TransportError",
    "Tuning",
    "TypedConsumer",
    "TypedDelivery",
    "TypedPublisher",
    "TypedRpcClient",
    "UndecodableBody",
    "UnexpectedFailure",
    "UnexpectedFrame",
    "Unroutable",
    "__version__",
    "connect",
    "serve_rpc",
    "typed_handler",
]


def __dir__() -> list[str]:
    """The public names, without the modules."""
    return [*__all__]
