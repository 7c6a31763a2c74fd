/** What the server pushes, brought into TanStack Query's cache; hooks and pages only ever read the cache. */
import type { QueryClient } from "@tanstack/react-query";
import type { CallSocket } from "./socket";
import { applyUpdate, compareVersions } from "./versioned";
import type { Balance, BalanceUpdate } from "./wire";

export const queryKeys = {
  tokenBalance: ["tokenBalance"],
  earnings: ["earnings"],
  transactions: ["transactions"],
  calls: ["calls"],
  online: ["online"],
  me: ["me"],
  ops: ["ops"],
} as const;

/** Follows the socket until the answer is called. */
export function syncQueries(socket: CallSocket, queries: QueryClient): () => void {
  let seenBefore = false;
  const stops = [
    socket.on("balance:update", (update) => takeBalance(queries, update)),
    socket.on("earnings:update", (update) => takeBalance(queries, update)),
    socket.on("query:invalidate", ({ queryKeys: keys }) => {
      for (const queryKey of keys) askAgain(queries, { queryKey });
    }),
    socket.onConnect(() => {
      // What was pushed while this tab was away is lost; the balance comes as a snapshot, the rest is asked for.
      if (seenBefore) askAgain(queries);
      seenBefore = true;
    }),
  ];
  return () => {
    for (const stop of stops) stop();
  };
}

/** An answer that is on its way may be older than what made it old: it is not waited for, the first one included. */
function askAgain(queries: QueryClient, which: { queryKey?: readonly unknown[] } = {}): void {
  void queries.cancelQueries(which);
  void queries.invalidateQueries(which);
}

/**
 * Newer is shown at once; a gap is shown too, and everything derived from the missed entries fetched again. A snapshot
 * is no entry’s own push: the entries by which it is ahead of what was shown were missed.
 */
function takeBalance(queries: QueryClient, update: BalanceUpdate): void {
  const { queryKey } = update;
  const shown = queries.getQueryData<Balance>(queryKey);
  const verdict = compareVersions(shown, update);
  if (verdict === "stale") return;
  const missed = verdict === "gap" || (shown !== undefined && update.reason === "snapshot");
  queries.setQueryData<Balance>(queryKey, (current) => applyUpdate(current, update));
  if (!missed) return;
  void queries.invalidateQueries({ queryKey });
  askAgain(queries, { queryKey: queryKeys.transactions });
}
