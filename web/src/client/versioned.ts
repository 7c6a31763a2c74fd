/**
 * Balances that arrive from two sides, pushed and fetched, in any order.
 *
 * Every entry on an account raises its version by one. What is older than what is shown is dropped; a jump of more than
 * one means that something between was missed, so what was derived from the entries has to be asked for again.
 */
import type { Balance, BalanceUpdate } from "./wire";

export type Versioned = Pick<Balance, "balance" | "version">;

export type Verdict = "newer" | "gap" | "stale";

export function compareVersions(shown: Versioned | undefined, arrived: Versioned): Verdict {
  if (shown === undefined) return "newer";
  if (arrived.version <= shown.version) return "stale";
  return arrived.version === shown.version + 1 ? "newer" : "gap";
}

/** What to show after an update arrived. */
export function applyUpdate(shown: Balance | undefined, update: BalanceUpdate): Balance {
  if (shown && compareVersions(shown, update) === "stale") return shown;
  const { balance, version, queryKey } = update;
  return { unit: shown?.unit ?? "TOKEN", queryKey, balance, version };
}

/** A fetched answer may have been overtaken by a push while it travelled. */
export function newestOf<T extends Versioned>(shown: T | undefined, fetched: T): T {
  return shown && shown.version > fetched.version ? shown : fetched;
}
