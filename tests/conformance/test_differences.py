"""The differences on purpose: where the embedded broker and RabbitMQ answer otherwise, with the answers of both."""

from __future__ import annotations

from decimal import Decimal

import pytest

from support.conformance import Refusal, Target
from support.queues import unique
from support.routes import declare_exchange, routes

pytestmark = pytest.mark.anyio


async def test_a_modulus_hash_exchange_is_not_supported(target: Target) -> None:
    """It would have to hash routing keys as Erlang does, to send each message to the same queue as RabbitMQ."""
    if not target.rules.has_modulus_hash_exchange:
        pytest.skip("this version has no such exchange")
    if target.is_embedded:
        refusal = await target.refusal(declare_exchange(unique("x"), "x-modulus-hash"))
        assert refusal == Refusal("connection", 540, "NOT_IMPLEMENTED - exchange type 'x-modulus-hash'")
    else:
        async with routes(target) as route:
            assert await route.exists(await route.exchange("x-modulus-hash"))


async def test_a_type_that_is_an_atom_of_erlang_is_unknown(target: Target) -> None:
    """RabbitMQ tells unknown types that happen to be atoms from others, in the wording only."""
    refusal = await target.refusal(declare_exchange(unique("x"), "queue"))
    word = "unknown" if target.is_embedded else "invalid"
    assert refusal.text.partition(" - ")[2] == f"{word} exchange type 'queue'"


async def test_a_decimal_as_another_alternate_exchange_is_refused(target: Target) -> None:
    """RabbitMQ fails while it writes the error text, and closes the connection."""
    async with routes(target) as route:
        name = await route.exchange(alternate="first")
        refusal = await target.refusal(declare_exchange(name, arguments={"alternate-exchange": Decimal("1.5")}))
    if target.is_embedded:
        assert refusal.text.endswith("received '{1,15}' but current is 'first'")
    else:
        assert refusal == Refusal("connection", 541, "INTERNAL_ERROR")
