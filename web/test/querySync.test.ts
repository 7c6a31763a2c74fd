import { QueryClient, QueryObserver } from "@tanstack/react-query";
import { beforeEach, describe, expect, test } from "vitest";
import { queryKeys, syncQueries } from "../src/client";
import type { CallSocket } from "../src/client";
import type { Balance, Events } from "../src/client";

/** The two things syncQueries asks of a socket. */
class Line {
  readonly #handlers = new Map<string, (payload: never) => void>();
  on = (name: string, handler: (payload: never) => void) => {
    this.#handlers.set(name, handler);
    return () => this.#handlers.delete(name);
  };
  onConnect = (handler: () => void) => this.on("connect", handler);
  push<Name extends keyof Events>(name: Name, payload: Events[Name]) {
    this.#handlers.get(name)?.(payload as never);
  }
  connect() {
    this.#handlers.get("connect")?.(undefined as never);
  }
}

describe("what the socket pushes, in the query cache", () => {
  let queries: QueryClient;
  let line: Line;
  const balance = () => queries.getQueryData<Balance>(queryKeys.tokenBalance);
  const stale = (queryKey: readonly string[]) => queries.getQueryState(queryKey)?.isInvalidated;
  const push = (version: number, amount: number, reason = "grant") =>
    line.push("balance:update", {
      balance: amount,
      version,
      delta: 0,
      reason,
      queryKey: ["tokenBalance"],
    });

  beforeEach(() => {
    queries = new QueryClient();
    line = new Line();
    syncQueries(line as unknown as CallSocket, queries);
    queries.setQueryData(queryKeys.tokenBalance, { balance: 100, version: 5, unit: "TOKEN", queryKey: [] });
    queries.setQueryData(queryKeys.transactions, { pages: [], pageParams: [] });
    queries.setQueryData(queryKeys.calls, { pages: [], pageParams: [] });
  });

  test("the next version is written straight in, and nothing is fetched", () => {
    push(6, 90);
    expect(balance()).toMatchObject({ balance: 90, version: 6 });
    expect(stale(queryKeys.tokenBalance)).toBe(false);
    expect(stale(queryKeys.transactions)).toBe(false);
  });

  test("an older version changes nothing", () => {
    push(4, 999);
    expect(balance()).toMatchObject({ balance: 100, version: 5 });
  });

  test("a gap shows the newer balance, and has it and the transactions fetched again", () => {
    push(9, 60);
    expect(balance()).toMatchObject({ balance: 60, version: 9 });
    expect(stale(queryKeys.tokenBalance)).toBe(true);
    expect(stale(queryKeys.transactions)).toBe(true);
    expect(stale(queryKeys.calls)).toBe(false);
  });

  test("a snapshot one version ahead tells of an entry that was missed, and has it fetched", () => {
    push(6, 90, "snapshot");
    expect(balance()).toMatchObject({ balance: 90, version: 6 });
    expect(stale(queryKeys.tokenBalance)).toBe(true);
    expect(stale(queryKeys.transactions)).toBe(true);
    expect(stale(queryKeys.calls)).toBe(false);
  });

  test("a snapshot of what is shown already has nothing fetched", () => {
    push(5, 100, "snapshot");
    expect(stale(queryKeys.tokenBalance)).toBe(false);
    expect(stale(queryKeys.transactions)).toBe(false);
  });

  test.each(["grant", "snapshot"])("the first balance ever seen is no gap, be it a %s", (reason) => {
    queries.removeQueries({ queryKey: queryKeys.tokenBalance });
    push(17, 3, reason);
    expect(balance()).toMatchObject({ balance: 3, version: 17, unit: "TOKEN" });
    expect(stale(queryKeys.transactions)).toBe(false);
  });

  test("earnings are kept apart from the wallet", () => {
    line.push("earnings:update", { balance: 8, version: 1, delta: 8, reason: "call_debit", queryKey: ["earnings"] });
    expect(queries.getQueryData(queryKeys.earnings)).toMatchObject({ balance: 8 });
    expect(balance()).toMatchObject({ balance: 100 });
  });

  test("query:invalidate names what is to be fetched again", () => {
    line.push("query:invalidate", { queryKeys: [["calls"]] });
    expect(stale(queryKeys.calls)).toBe(true);
    expect(stale(queryKeys.transactions)).toBe(false);
  });

  test("an answer that was on its way when the news came is not shown, be it the first", async () => {
    const answers: ((page: string) => void)[] = [];
    const reads = () => new Promise<string>((resolve) => answers.push(resolve));
    const watched = new QueryObserver(queries, { queryKey: ["transactions", "of a page"], queryFn: reads });
    const stop = watched.subscribe(() => undefined);
    line.push("query:invalidate", { queryKeys: [["transactions"]] });
    answers[1]?.("after");
    answers[0]?.("before");
    await expect.poll(() => watched.getCurrentResult().data).toBe("after");
    await Promise.resolve();
    expect(watched.getCurrentResult()).toMatchObject({ data: "after", isError: false });
    stop();
  });

  test("a reconnect has everything fetched again, the first connect nothing", () => {
    line.connect();
    expect(stale(queryKeys.calls)).toBe(false);
    line.connect();
    expect(stale(queryKeys.calls)).toBe(true);
  });
});
