// Reports usage to tollgate. Copy report() into your application: it needs only Node (18 or newer), no package.
// Usage: node usage.mjs DIMENSION QUANTITY [ID]
import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { request } from "node:http";
import { text } from "node:stream/consumers";
import { setTimeout as sleep } from "node:timers/promises";

const address = process.env.TOLLGATE_APP_ADDR ?? "127.0.0.1:19181";

// Resolves when tollgate has the event on disk, and retries until then. Rejects for an event that tollgate rejects.
export async function report(dimension, quantity, id = randomUUID()) {
  // The id is made once and kept: tollgate knows a repeat by it, and counts the event once. `tags` and `customer` belong
  // here, too.
  const event = JSON.stringify({ id, dimension, quantity: quantity.toFixed(6) });
  for (;;) {
    // Away, or the answer was lost: perhaps the event counts already.
    const { status, wait, said } = await post(event).catch((error) => ({ status: 503, wait: 1, said: error.message }));
    if (status === 202 && JSON.parse(said).results[0].status !== "rejected") return;
    if (status !== 408 && status !== 503) throw new Error(`tollgate does not take the event ${event}: ${status} ${said}`);
    console.error(`tollgate: ${said}; trying again in ${wait} s`);
    await sleep(wait * 1000);
  }
}

// One attempt: the status, the seconds to wait before another, and the body. tollgate answers within 30 seconds.
async function post(event) {
  const socketPath = address.startsWith("unix:") ? address.slice("unix:".length) : undefined;
  const call = request(`http://${socketPath ? "localhost" : address}/v1/usage`, {
    socketPath,
    method: "POST",
    headers: { "content-type": "application/json" },
    signal: AbortSignal.timeout(35_000),
  });
  // An error after the head of the answer: the reader of the body has it, too.
  call.on("error", () => {});
  call.end(event);
  const [answer] = await once(call, "response");
  return { status: answer.statusCode, wait: Number(answer.headers["retry-after"] ?? 1), said: await text(answer) };
}

const [dimension, quantity, id] = process.argv.slice(2);
await report(dimension, Number(quantity), id);
