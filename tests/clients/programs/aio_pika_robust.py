"""The common exercise with aio-pika: robust connections and ``patterns.RPC``."""

import asyncio
import sys

import aio_pika
from aio_pika import DeliveryMode, ExchangeType, Message
from aio_pika.exceptions import ChannelNotFoundEntity, DeliveryError
from aio_pika.patterns import RPC

HEADERS = {"number": 1, "text": "ü", "flag": True, "list": [1, "2"], "table": {"inner": -5}, "big": 2**40}
BIG = bytes(range(256)) * 4096


async def square(*, number: int) -> int:
    return number * number


async def fail() -> None:
    raise ValueError("no such thing")


async def exercise(url: str) -> None:
    connection = await aio_pika.connect_robust(url)
    async with connection:
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        await channel.set_qos(prefetch_count=1)
        exchange = await channel.declare_exchange("market", ExchangeType.TOPIC)
        queue = await channel.declare_queue("orders", durable=True, arguments={"x-max-length": 100})
        await queue.bind(exchange, "trade.*")

        first = Message(
            b"first", headers=HEADERS, delivery_mode=DeliveryMode.PERSISTENT, correlation_id="c", expiration=60
        )
        await exchange.publish(first, "trade.btc")
        await exchange.publish(Message(BIG), "trade.btc")
        try:
            await exchange.publish(Message(b"unroutable"), "book.btc", mandatory=True)
        except DeliveryError as error:
            assert error.message.body == b"unroutable"
        else:
            raise AssertionError("not returned")

        async with queue.iterator() as messages:
            async for message in messages:
                async with message.process():
                    if message.body == b"first":
                        assert dict(message.headers) == HEADERS, message.headers
                        assert (message.delivery_mode, message.correlation_id) == (DeliveryMode.PERSISTENT, "c")
                        assert message.expiration == 60, message.expiration
                        continue
                    assert message.body == BIG
                    break

        assert await queue.get(fail=False) is None
        await channel.default_exchange.publish(Message(b"again"), "orders")
        await (await queue.get()).nack(requeue=True)
        message = await queue.get()
        assert message.redelivered
        await message.ack()

        other = await connection.channel()
        try:
            await other.get_queue("missing", ensure=True)
        except ChannelNotFoundEntity:
            pass
        else:
            raise AssertionError("not refused")

        async with connection.channel() as rpc_channel:
            rpc = await RPC.create(rpc_channel)
            await rpc.register("square", square, auto_delete=True)
            await rpc.register("fail", fail, auto_delete=True)
            assert await asyncio.gather(*(rpc.proxy.square(number=number) for number in range(20))) == [
                number * number for number in range(20)
            ]
            try:
                await rpc.proxy.fail()
            except ValueError as error:
                assert error.args == ("no such thing",)
            else:
                raise AssertionError("no error")
            await rpc.close()

        await queue.unbind(exchange, "trade.*")
        await queue.delete()
        await exchange.delete()


asyncio.run(asyncio.wait_for(exercise(sys.argv[1]), 30))
