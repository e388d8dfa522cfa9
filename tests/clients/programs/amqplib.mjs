// The common exercise with Node's amqplib.
import assert from "node:assert/strict";
import { createRequire } from "node:module";

const amqplib = createRequire(`${process.argv[3]}/`)("amqplib");
const headers = { number: 1, text: "ü", flag: true, list: [1, "2"], table: { inner: -5 }, big: 2 ** 40 };
const big = Buffer.alloc(2 ** 20, "x");

const connection = await amqplib.connect(process.argv[2]);
const channel = await connection.createConfirmChannel();
await channel.assertExchange("market", "topic", { durable: false });
await channel.assertQueue("orders", { durable: true, maxLength: 100 });
await channel.bindQueue("orders", "market", "trade.*");

const returned = [];
channel.on("return", (message) => returned.push(message));
channel.publish("market", "trade.btc", Buffer.from("first"), { headers, persistent: true, correlationId: "c" });
channel.publish("market", "trade.btc", big);
channel.publish("market", "book.btc", Buffer.from("unroutable"), { mandatory: true });
await channel.waitForConfirms();
assert.equal(returned[0].fields.replyCode, 312);

await channel.prefetch(1);
const received = [];
await new Promise((resolve) => {
  channel.consume("orders", (message) => {
    received.push(message);
    if (received.length === 1) channel.nack(message);
    else channel.ack(message);
    if (received.length === 3) resolve();
  }, { consumerTag: "mine" });
});
await channel.cancel("mine");
assert.deepEqual(received[0].properties.headers, headers);
assert.equal(received[0].properties.deliveryMode, 2);
assert.deepEqual(received.map((message) => message.fields.redelivered), [false, true, false]);
assert.ok(received[2].content.equals(big));

assert.equal(await channel.get("orders"), false);
channel.sendToQueue("orders", Buffer.from("again"));
await channel.waitForConfirms();
channel.ack(await channel.get("orders"));
assert.equal((await channel.checkQueue("orders")).messageCount, 0);

const other = await connection.createChannel();
const failed = new Promise((resolve) => other.on("error", resolve));
await assert.rejects(other.checkQueue("missing"), /404/);
assert.equal((await failed).code, 404);

await channel.unbindQueue("orders", "market", "trade.*");
await channel.deleteQueue("orders");
await channel.deleteExchange("market");
await channel.close();
await connection.close();
