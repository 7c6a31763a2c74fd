import { QueryClient, QueryObserver } from "@tanstack/react-query";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { ApiService, balanceQuery, queryKeys, type Balance } from "../src/client";
import { problem, scriptedServer, type Scripted } from "./fakes";

const held = (balance: number, version: number): Scripted => ({
  status: 200,
  body: { balance, version, unit: "TOKEN", queryKey: ["tokenBalance"] },
});

describe("the token balance", () => {
  let queries: QueryClient;
  beforeEach(() => {
    vi.useFakeTimers();
    queries = new QueryClient();
  });
  afterEach(() => {
    queries.clear();
    vi.useRealTimers();
  });

  function wallet(...script: Scripted[]) {
    const server = scriptedServer(...script);
    return { server, query: balanceQuery(new ApiService({ fetch: server.fetch }), queries) };
  }

  test("is fresh for five minutes, kept for ten, and looked after every half a minute", () => {
    expect(wallet().query).toMatchObject({
      queryKey: ["tokenBalance"],
      staleTime: 5 * 60_000,
      gcTime: 10 * 60_000,
      refetchInterval: 30_000,
    });
  });

  test("is asked for three times more, at growing intervals, before it counts as failed", async () => {
    const down = problem(503, "unavailable");
    const { server, query } = wallet(down, down, down, down);
    const asked = queries.fetchQuery(query).catch((error: unknown) => error);
    const after: number[] = [];
    for (const waitMs of [0, 1_000, 2_000, 4_000]) {
      await vi.advanceTimersByTimeAsync(waitMs);
      after.push(server.sent.length);
    }
    expect(after).toEqual([1, 2, 3, 4]);
    expect(await asked).toMatchObject({ status: 503 });
  });

  test("is asked for again after half a minute while someone looks, as a net under a lost push", async () => {
    const { server, query } = wallet(held(100, 5), held(90, 6));
    const stop = new QueryObserver(queries, query).subscribe(() => undefined);
    await vi.advanceTimersByTimeAsync(29_000);
    expect(server.sent).toHaveLength(1);
    await vi.advanceTimersByTimeAsync(1_000);
    expect(queries.getQueryData<Balance>(queryKeys.tokenBalance)).toMatchObject({ balance: 90, version: 6 });
    stop();
  });

  test("is not set back by an answer that a push overtook on its way", async () => {
    const { query } = wallet(held(100, 5));
    queries.setQueryData(queryKeys.tokenBalance, { balance: 80, version: 7, unit: "TOKEN", queryKey: [] });
    await queries.fetchQuery({ ...query, staleTime: 0 });
    expect(queries.getQueryData<Balance>(queryKeys.tokenBalance)).toMatchObject({ balance: 80, version: 7 });
  });
});
