// The common exercise with Node's rabbitmq-client: publisher, consumer, and RPC over direct reply-to.
import assert from "node:assert/strict";
import { createRequire } from "node:module";

const { Connection } = createRequire(`${process.argv[3]}/`)("rabbitmq-client");
const headers = { number: 1, text: "ü", flag: true, list: [1, "2"], table: { inner: -5 }, big: 2 ** 40 };
const big = Buffer.alloc(2 ** 20, "x");

const connection = new Connection(process.argv[2]);
const exchanges = [{ exchange: "market", type: "topic" }];
const queueBindings = [{ exchange: "market", queue: "orders", routingKey: "trade.*" }];
const publisher = connection.createPublisher({ confirm: true, maxAttempts: 2, exchanges });
const returned = new Promise((resolve) => publisher.on("basic.return", resolve));

const received = [];
let consumer;
await new Promise((resolve, reject) => {
  const options = { queue: "orders", queueOptions: { durable: true }, qos: { prefetchCount: 1 }, exchanges, queueBindings };
  consumer = connection.createConsumer(options, async (message) => {
    received.push(message);
    if (received.length === 3) resolve();
    return received.length === 1 ? 1 : 0; // requeue, then ack
  });
  consumer.on("error", reject);
  consumer.on("ready", async () => {
    await publisher.send({ exchange: "market", routingKey: "trade.btc", headers, durable: true }, { first: 1 });
    await publisher.send({ exchange: "market", routingKey: "trade.btc" }, big);
    await publisher.send({ exchange: "market", routingKey: "book.btc", mandatory: true }, "unroutable");
  });
});
assert.equal((await returned).replyText, "NO_ROUTE");
assert.deepEqual(received[0].headers, headers);
assert.deepEqual(received[0].body, { first: 1 });
assert.deepEqual(received.map((message) => message.redelivered), [false, true, false]);
assert.ok(received[2].body.equals(big));
await consumer.close();

const server = connection.createConsumer({ queue: "square", queueOptions: { exclusive: true } }, async (request, reply) => {
  await reply(request.body * request.body);
});
await new Promise((resolve) => server.on("ready", resolve));
const client = connection.createRPCClient({ confirm: true, timeout: 10000 });
assert.equal((await client.send("square", 12)).body, 144);
await client.close();
await server.close();

await assert.rejects(connection.queueDeclare({ queue: "missing", passive: true }), /NOT_FOUND/);
await connection.queueDelete("orders");
await connection.exchangeDelete({ exchange: "market" });
await publisher.close();
await connection.close();
