import { describe, expect, test } from "vitest";
import { applyUpdate, compareVersions, newestOf } from "../src/client/versioned";
import type { Balance, BalanceUpdate } from "../src/client";

const shown: Balance = { balance: 100, version: 5, unit: "TOKEN", queryKey: ["tokenBalance"] };
const update = (version: number, balance: number): BalanceUpdate => ({
  balance,
  version,
  delta: -10,
  reason: "call_debit",
  queryKey: ["tokenBalance"],
});

describe("a versioned balance", () => {
  test.each([
    [4, "stale"],
    [5, "stale"],
    [6, "newer"],
    [7, "gap"],
    [90, "gap"],
  ])("shown at version 5, version %i is %s", (version, verdict) => {
    expect(compareVersions(shown, update(version, 1))).toBe(verdict);
  });

  test("takes anything when nothing is shown yet", () => {
    expect(compareVersions(undefined, update(42, 1))).toBe("newer");
  });

  test("shows what is newer and keeps what is older out", () => {
    expect(applyUpdate(shown, update(6, 90))).toEqual({ ...shown, balance: 90, version: 6 });
    expect(applyUpdate(shown, update(5, 999))).toBe(shown);
  });

  test("is not set back by a fetch that a push overtook", () => {
    expect(newestOf({ ...shown, version: 6, balance: 90 }, shown)).toMatchObject({ version: 6, balance: 90 });
    expect(newestOf(undefined, shown)).toBe(shown);
  });

  test("ends the same whatever order the updates arrive in", () => {
    const updates = [6, 7, 8, 9].map((version) => update(version, 100 - version));
    for (const order of permutations(updates)) {
      expect(order.reduce<Balance>(applyUpdate, shown)).toMatchObject({ version: 9, balance: 91 });
    }
  });
});

function permutations<T>(items: readonly T[]): T[][] {
  if (items.length < 2) return [[...items]];
  return items.flatMap((item, index) =>
    permutations(items.filter((_, other) => other !== index)).map((rest) => [item, ...rest]),
  );
}
