import { beforeEach, describe, expect, test, vi } from "vitest";
import {
  ApiService,
  IntentStore,
  newTill,
  oldTill,
  PaymentFormError,
  PurchaseService,
  SessionService,
  tillOf,
  type Session,
} from "../src/client";
import { noWait, problem, scriptedServer, tabStorage, type Scripted } from "./fakes";

const succeeded: Scripted = {
  status: 200,
  body: { purchaseId: "p1", status: "succeeded", tokens: 1000, balance: 1000, version: 1 },
};
const needsAction: Scripted = {
  status: 202,
  body: { purchaseId: "p1", status: "requires_action", tokens: 1000, clientSecret: "pi_1_secret_x" },
};
const purchaseIs = (status: string): Scripted => ({ status: 200, body: { purchaseId: "p1", status, tokens: 1000 } });

describe("buying tokens", () => {
  let storage: Storage;
  beforeEach(() => {
    storage = tabStorage();
  });

  const shop = (...script: Scripted[]) => shopWith(newTill, ...script);
  const oldShop = (...script: Scripted[]) => shopWith(oldTill, ...script);

  function shopWith(till: typeof newTill, ...script: Scripted[]) {
    const server = scriptedServer(...script);
    const service = new PurchaseService(till(new ApiService({ fetch: server.fetch })), new IntentStore(storage), {
      ...noWait,
      retryDelaysMs: [1],
      confirmDelaysMs: [1, 1, 1],
    });
    const keys = () =>
      server.sent.filter(({ method }) => method === "POST").map(({ headers }) => headers.get("Idempotency-Key"));
    return { server, service, keys };
  }

  const tools = (authenticates = true) => ({
    createPaymentMethod: vi.fn(() => Promise.resolve("pm_1")),
    authenticate: vi.fn(() => Promise.resolve(authenticates)),
  });

  test("a double click is one payment method, one request, one purchase", async () => {
    const { service, server } = shop(succeeded);
    const clicks = tools();
    const [first, second] = await Promise.all([service.buy(1000, clicks), service.buy(1000, clicks)]);
    expect(first).toEqual(second);
    expect(first).toMatchObject({ kind: "succeeded", tokens: 1000 });
    expect(clicks.createPaymentMethod).toHaveBeenCalledOnce();
    expect(server.sent).toHaveLength(1);
    expect(service.pending()).toBeUndefined();
  });

  test("a lost answer is asked for again with the same key, also after a reload", async () => {
    const before = shop("lost", "lost");
    expect(await before.service.buy(1000, tools())).toEqual({ kind: "unanswered" });

    const after = shop(succeeded);
    expect(after.service.pending()?.body).toEqual({ amountInCents: 1000, paymentMethodId: "pm_1" });
    expect(await after.service.resume(tools())).toMatchObject({ kind: "succeeded" });
    expect(new Set([...before.keys(), ...after.keys()]).size).toBe(1);
    expect(after.service.pending()).toBeUndefined();
  });

  test("buying again while an answer is missing finishes the first purchase rather than making another", async () => {
    await shop("lost", "lost").service.buy(1000, tools());
    const { service, server } = shop(succeeded);
    const clicks = tools();
    await service.buy(5000, clicks);
    expect(clicks.createPaymentMethod).not.toHaveBeenCalled();
    expect(server.sent[0]?.body).toMatchObject({ amountInCents: 1000 });
  });

  test("two purchases one after the other are two intents", async () => {
    const { service, keys } = shop(succeeded, succeeded);
    await service.buy(1000, tools());
    await service.buy(1000, tools());
    expect(new Set(keys()).size).toBe(2);
  });

  test("3-D Secure is asked for, then the purchase is watched until its webhook came", async () => {
    const { service, server } = shop(
      needsAction,
      purchaseIs("requires_action"),
      purchaseIs("requires_action"),
      purchaseIs("succeeded"),
    );
    const steps: string[] = [];
    const bank = tools();
    service.step.subscribe(() => steps.push(service.step.get() ?? "over"));
    const outcome = await service.buy(1000, bank);
    expect(outcome).toMatchObject({ kind: "succeeded" });
    expect(bank.authenticate).toHaveBeenCalledExactlyOnceWith("pi_1_secret_x");
    expect(steps).toEqual(["preparing", "charging", "authenticating", "confirming", "over"]);
    expect(server.left()).toBe(0);
    expect(service.pending()).toBeUndefined();
  });

  test("a reload in the middle of 3-D Secure goes on where the purchase is, not where the answer was", async () => {
    const before = shop(needsAction, purchaseIs("requires_action"));
    const never = { ...tools(), authenticate: () => Promise.reject(new Error("the page was closed")) };
    expect(await before.service.buy(1000, never)).toEqual({ kind: "unanswered" });

    const after = shop(needsAction, purchaseIs("succeeded"));
    const bank = tools();
    expect(await after.service.resume(bank)).toMatchObject({ kind: "succeeded" });
    expect(bank.authenticate).not.toHaveBeenCalled();
    expect(after.keys()).toEqual(before.keys());
  });

  test("giving up at the bank charges nothing and ends the intent", async () => {
    const { service } = shop(needsAction, purchaseIs("requires_action"));
    expect(await service.buy(1000, tools(false))).toEqual({ kind: "not_authenticated" });
    expect(service.pending()).toBeUndefined();
  });

  test("a bank that takes its time leaves the purchase processing", async () => {
    const open = purchaseIs("requires_action");
    const { service } = shop(needsAction, open, open, open, open);
    expect(await service.buy(1000, tools())).toEqual({ kind: "processing" });
  });

  test("a decline that the bank tells later is told too", async () => {
    const { service } = shop(needsAction, purchaseIs("requires_action"), purchaseIs("failed"));
    expect(await service.buy(1000, tools())).toMatchObject({ kind: "declined" });
    expect(service.pending()).toBeUndefined();
  });

  test("one that the bank works on is watched without asking the cardholder", async () => {
    const processing: Scripted = { status: 202, body: { purchaseId: "p1", status: "processing", tokens: 1000 } };
    const { service } = shop(processing, purchaseIs("processing"), purchaseIs("succeeded"));
    const bank = tools();
    expect(await service.buy(1000, bank)).toMatchObject({ kind: "succeeded" });
    expect(bank.authenticate).not.toHaveBeenCalled();
  });

  test("one that the bank works on asks the cardholder once when the bank comes to want it", async () => {
    const processing: Scripted = { status: 202, body: { purchaseId: "p1", status: "processing", tokens: 1000 } };
    const wanted: Scripted = {
      status: 200,
      body: { purchaseId: "p1", status: "requires_action", tokens: 1000, clientSecret: "pi_1_secret_x" },
    };
    // The bank comes late, and then takes as long as it would have from the start.
    const { service, server } = shop(
      processing,
      purchaseIs("processing"),
      purchaseIs("processing"),
      wanted,
      wanted,
      wanted,
      purchaseIs("succeeded"),
    );
    const bank = tools();
    expect(await service.buy(1000, bank)).toMatchObject({ kind: "succeeded" });
    expect(bank.authenticate).toHaveBeenCalledExactlyOnceWith("pi_1_secret_x");
    expect(server.left()).toBe(0);
  });

  test("a repeat that would leave in somebody else's session is not sent, and waits for its buyer", async () => {
    const server = scriptedServer("lost", succeeded);
    const sessions = new SessionService({ fetch: server.fetch });
    const signedIn = (userId: string) => sessions.state.set({ authenticated: true, userId } as unknown as Session);
    const service = new PurchaseService(tillOf("ann", sessions, newTill(sessions.api)), new IntentStore(storage), {
      retryDelaysMs: [1],
      sleep: () => Promise.resolve(signedIn("bob")),
    });
    signedIn("ann");
    expect(await service.buy(1000, tools())).toEqual({ kind: "unanswered" });
    expect(server.sent).toHaveLength(1);
    signedIn("ann");
    expect(await service.resume(tools())).toMatchObject({ kind: "succeeded" });
    expect(new Set(server.sent.map(({ headers }) => headers.get("Idempotency-Key"))).size).toBe(1);
  });

  test("429 says how long to wait", async () => {
    const { service } = shop(problem(429, "rate_limited", { retryAfter: 42 }));
    expect(await service.buy(1000, tools())).toEqual({ kind: "rate_limited", retryAfterS: 42 });
    expect(service.pending()).toBeUndefined();
  });

  test("what is refused on the way to an outcome leaves the purchase to be finished, not another to be made", async () => {
    const tooOften = problem(429, "rate_limited", { retryAfter: 5 });
    for (const script of [
      [needsAction, tooOften],
      [needsAction, purchaseIs("requires_action"), problem(404, "not_found")],
    ]) {
      storage = tabStorage();
      const { service } = shop(...script);
      expect(await service.buy(1000, tools())).toEqual({ kind: "unanswered" });
      expect(service.pending()?.body).toMatchObject({ amountInCents: 1000 });
    }
    await shop("lost", "lost").service.buy(1000, tools());
    expect(await shop(tooOften).service.resume(tools())).toEqual({ kind: "unanswered" });
  });

  test("a bank's page that cannot be shown leaves the purchase to be finished", async () => {
    const { service } = shop(needsAction, purchaseIs("requires_action"));
    const broken = { ...tools(), authenticate: () => Promise.reject(new Error("no script")) };
    expect(await service.buy(1000, broken)).toEqual({ kind: "unanswered" });
    expect(service.pending()).toBeDefined();
  });

  test("the daily limit says what is left of it", async () => {
    const { service } = shop(
      problem(403, "daily_limit_exceeded", { limitCents: 10000, spentCents: 9500, resetsAt: "2030-01-02T00:00:00Z" }),
    );
    expect(await service.buy(1000, tools())).toEqual({
      kind: "over_daily_limit",
      limitCents: 10000,
      spentCents: 9500,
      resetsAt: "2030-01-02T00:00:00Z",
    });
  });

  test("a decline is the bank's, and another card is another intent", async () => {
    const { service, keys } = shop(problem(402, "card_declined"), succeeded);
    expect(await service.buy(1000, tools())).toMatchObject({ kind: "declined" });
    expect(await service.buy(1000, tools())).toMatchObject({ kind: "succeeded" });
    expect(new Set(keys()).size).toBe(2);
  });

  test("what is wrong in the card form never reaches the server", async () => {
    const { service, server } = shop();
    const typo = { ...tools(), createPaymentMethod: () => Promise.reject(new PaymentFormError("16 digits")) };
    await expect(service.buy(1000, typo)).rejects.toThrow("16 digits");
    expect(server.sent).toHaveLength(0);
    expect(service.pending()).toBeUndefined();
  });

  describe("by the old route alone", () => {
    const history = (...items: object[]): Scripted => ({ status: 200, body: { items, nextCursor: null } });
    const paid = { type: "purchase", purchaseId: "p1", amount: 1000 };

    test("asks nothing of the new routes, and repeats a lost answer with its key", async () => {
      const before = oldShop("lost", "lost");
      expect(await before.service.buy(1000, tools())).toEqual({ kind: "unanswered" });
      const after = oldShop(succeeded);
      expect(await after.service.resume(tools())).toMatchObject({ kind: "succeeded", tokens: 1000 });
      expect(new Set([...before.keys(), ...after.keys()]).size).toBe(1);
      expect(after.server.sent[0]?.path).toContain("/api/payments/tokens/purchase");
    });

    test("watches the wallet's history for the purchase that the bank was asked about", async () => {
      const refunded = { type: "refund", purchaseId: "p1", amount: -1000 };
      const { service, server } = oldShop(
        needsAction,
        history(),
        history(refunded, { ...paid, purchaseId: "another" }),
        history(paid),
      );
      const bank = tools();
      expect(await service.buy(1000, bank)).toEqual({ kind: "succeeded", tokens: 1000 });
      expect(bank.authenticate).toHaveBeenCalledExactlyOnceWith("pi_1_secret_x");
      expect(server.left()).toBe(0);
      expect(server.sent.filter(({ path }) => path.includes("/api/v1/payments/"))).toEqual([]);
    });

    test("a reload after the bank agreed asks nobody again", async () => {
      const { service } = oldShop(needsAction, history(paid));
      const bank = tools();
      expect(await service.buy(1000, bank)).toMatchObject({ kind: "succeeded" });
      expect(bank.authenticate).not.toHaveBeenCalled();
    });

    test("one that stays away from the history is processing, and says so", async () => {
      const { service } = oldShop(needsAction, history(), history(), history(), history());
      expect(await service.buy(1000, tools())).toEqual({ kind: "processing" });
      expect(service.pending()).toBeUndefined();
    });
  });
});
