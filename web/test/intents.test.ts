import { beforeEach, describe, expect, test } from "vitest";
import { ApiService, deliver, IntentStore, IntentUnanswered, newTill } from "../src/client";
import { noWait, problem, scriptedServer, tabStorage, type Scripted } from "./fakes";

const body = { amountInCents: 1000, paymentMethodId: "pm_1" };

describe("an intent and its idempotency key", () => {
  let storage: Storage;
  let intents: IntentStore;

  beforeEach(() => {
    storage = tabStorage();
    intents = new IntentStore(storage);
  });

  function send(...script: Scripted[]) {
    const server = scriptedServer(...script);
    const api = new ApiService({ fetch: server.fetch });
    const done = deliver<typeof body, unknown>(
      intents,
      "purchase",
      (intent) => newTill(api).buy(intent.body, intent.key),
      { ...noWait, retryDelaysMs: [1, 1] },
    );
    return { done, keys: () => server.sent.map(({ headers }) => headers.get("Idempotency-Key")) };
  }

  test("the key is a UUID", () => {
    expect(intents.begin("purchase", body).key).toMatch(
      /^[\da-f]{8}-[\da-f]{4}-4[\da-f]{3}-[89ab][\da-f]{3}-[\da-f]{12}$/,
    );
  });

  test("meaning the same again is the same intent", () => {
    expect(intents.begin("purchase", body).key).toBe(intents.begin("purchase", { ...body }).key);
  });

  test("the same key goes with every retry of a lost answer, a 5xx and one still in progress", async () => {
    const { key } = intents.begin("purchase", body);
    await send("lost", problem(503, "unavailable"), { status: 200, body: {} }).done;
    const again = send(problem(409, "idempotency_in_progress"), { status: 200, body: {} });
    await again.done;
    expect(again.keys()).toEqual([key, key]);
  });

  test("no answer at all leaves it open, and a reload finds it with key and body", async () => {
    const { key } = intents.begin("purchase", body);
    await expect(send("lost", "lost", "lost").done).rejects.toMatchObject({ name: "NoAnswer" });
    expect(new IntentStore(storage).open("purchase")).toMatchObject({ key, body, sent: true });
  });

  test("while its outcome is unknown, another one may not begin", async () => {
    intents.begin("purchase", body);
    await expect(send("lost", "lost", "lost").done).rejects.toThrow();
    expect(() => intents.begin("purchase", { ...body, amountInCents: 500 })).toThrow(IntentUnanswered);
  });

  test("a refusal settles it, and the next is a new intent", async () => {
    const { key } = intents.begin("purchase", body);
    await expect(send(problem(402, "card_declined")).done).rejects.toMatchObject({ status: 402 });
    expect(intents.begin("purchase", body).key).not.toBe(key);
  });

  test("429 is thrown at once with its wait, and trying later uses the same key", async () => {
    const { key } = intents.begin("purchase", body);
    const first = send(problem(429, "rate_limited", { retryAfter: 9 }));
    await expect(first.done).rejects.toMatchObject({ retryAfter: 9 });
    const later = send({ status: 200, body: {} });
    await later.done;
    expect([...first.keys(), ...later.keys()]).toEqual([key, key]);
  });

  test("429 after a lost answer still counts as unknown", async () => {
    intents.begin("purchase", body);
    await expect(send("lost", problem(429, "rate_limited", { retryAfter: 9 })).done).rejects.toMatchObject({
      status: 429,
    });
    expect(intents.open("purchase")).toMatchObject({ sent: true });
  });

  test("a server that asks for patience is given it", async () => {
    intents.begin("purchase", body);
    const waits: number[] = [];
    const server = scriptedServer(problem(503, "limiter_unavailable", { retryAfter: 2 }), { status: 200, body: {} });
    const api = new ApiService({ fetch: server.fetch });
    await deliver<typeof body, unknown>(intents, "purchase", (intent) => newTill(api).buy(intent.body, intent.key), {
      retryDelaysMs: [400],
      sleep: (ms) => Promise.resolve(void waits.push(ms)),
    });
    expect(waits).toEqual([2000]);
  });
});
