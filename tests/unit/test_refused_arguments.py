"""Arguments that anyamqp refuses before anything is sent, and what its objects show of themselves."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import anyamqp
from anyamqp import TLS, Credentials, FrameError, InvalidArgument, Message, Properties, SettingsError
from anyamqp.declarations import exchange_arguments, queue_declaration
from anyamqp.net.tls import client_context
from anyamqp.wire.basic import ACK_SIZE, Routes, encode_properties
from anyamqp.wire.decoder import Decoder
from anyamqp.wire.fields import Malformed
from anyamqp.wire.receiving import decode_ack, decode_nack


def nested(kind: type[Any], depth: int) -> Any:
    """Lists or tables within each other."""
    value: Any = "innermost"
    for _ in range(depth):
        value = [value] if kind is list else {"in": value}
    return value


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (nested(dict, 200), "tables nested deeper than"),
        (nested(list, 200), "arrays nested deeper than"),
        (math.inf, "inf is no number that RabbitMQ can carry"),
        (math.nan, "nan is no number that RabbitMQ can carry"),
        (Decimal("NaN"), "AMQP's decimals cannot carry NaN"),
        (Decimal("1e-256"), "does not fit AMQP's decimals"),
        (Decimal("3e9"), "does not fit AMQP's decimals"),
        (2**63, "does not fit AMQP's 64 bits"),
    ],
)
def test_header_that_amqp_cannot_carry_is_refused_by_name(value: Any, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        encode_properties(Properties(headers={"h": value}))


def test_decimal_with_an_exponent_is_carried_as_a_whole_number() -> None:
    assert encode_properties(Properties(headers={"h": Decimal("2e3")})) == encode_properties(
        Properties(headers={"h": Decimal(2000)})
    )


def test_message_cannot_be_changed() -> None:
    message = Message(b"x")
    with pytest.raises(FrozenInstanceError, match="cannot assign to 'body'"):
        message.body = b"y"
    with pytest.raises(FrozenInstanceError, match="cannot delete 'body'"):
        del message.body


def test_message_is_equal_to_one_with_the_same_body_and_properties() -> None:
    message = Message(b"x", message_id="1")
    assert message == Message(b"x", message_id="1")
    assert message != Message(b"x", message_id="2")
    assert message != b"x"
    assert hash(message) == hash(Message(b"x", message_id="1"))


def test_message_shows_its_body_and_the_properties_that_are_set() -> None:
    assert repr(Message(b"x", message_id="1", priority=3)) == "Message(b'x', priority=3, message_id='1')"


def test_module_shows_its_public_names() -> None:
    assert dir(anyamqp) == sorted(anyamqp.__all__)


@pytest.mark.parametrize(("username", "password"), [("a\0b", "secret"), ("a", "\ud800")])
def test_credentials_that_sasl_plain_cannot_carry_are_refused_unseen(username: str, password: str) -> None:
    with pytest.raises(SettingsError, match="holds a character that SASL PLAIN cannot carry") as caught:
        Credentials(username, password)
    assert "secret" not in str(caught.value)


def test_key_password_that_is_not_text_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"TLS.key_password .*: is not text"):
        TLS(certificate_file="client.pem", key_password="\ud800")


def test_path_that_no_system_can_open_is_named() -> None:
    with pytest.raises(SettingsError, match=r"TLS.ca_file .*: 'ca.x00.pem'"):
        client_context(TLS(ca_file=Path("ca\0.pem")))


@pytest.mark.parametrize("queue_type", ["quorum", "stream"])
@pytest.mark.parametrize("changes", [{"durable": False}, {"exclusive": True}, {"auto_delete": True}])
def test_replicated_queue_is_durable_and_for_everybody(queue_type: Any, changes: dict[str, bool]) -> None:
    given = {"passive": False, "durable": True, "exclusive": False, "auto_delete": False} | changes
    with pytest.raises(InvalidArgument, match=f"a {queue_type} queue is durable, never exclusive, never auto_delete"):
        queue_declaration("q", None, {"queue_type": queue_type}, **given)


def test_alternate_exchange_becomes_an_argument_and_is_given_once() -> None:
    assert exchange_arguments(None, "other") == {"alternate-exchange": "other"}
    with pytest.raises(InvalidArgument, match="alternate_exchange: given as a keyword and in arguments"):
        exchange_arguments({"alternate-exchange": "other"}, "other")


def test_alert_of_a_tls_port_is_recognised() -> None:
    decoder = Decoder(8192)
    decoder.feed(b"\x15\x03\x03\x00\x02\x02\x28")
    with pytest.raises(FrameError, match="this is a port for TLS: its URL begins with amqps://"):
        list(decoder.frames())


def test_routes_are_made_again_when_too_many_were_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Routes, "_MOST", 2)
    routes = Routes()
    first = routes.get("", "1", mandatory=True)
    assert routes.get("", "1", mandatory=True) is first
    for key in ("2", "3"):
        routes.get("", key, mandatory=True)
    again = routes.get("", "1", mandatory=True)
    assert (again is first, again.routing_key) == (False, "1")


@pytest.mark.parametrize(("change", "says"), [(-1, "a value runs over the end"), (1, "1 bytes too many")])
@pytest.mark.parametrize("decode", [decode_ack, decode_nack])
def test_confirm_of_a_wrong_size_is_malformed(decode: Callable[[bytes], object], change: int, says: str) -> None:
    with pytest.raises(Malformed, match=says):
        decode(bytes(ACK_SIZE + change))
