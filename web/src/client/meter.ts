/** What a call costs and how long it is paid for, at one moment: pure, all times in the server's milliseconds. */
import type { AgoraGrant, Call } from "./wire";

/** The payer is warned when the balance buys fewer than this many periods more. */
const lowBalancePeriods = 2;

export interface MeterReading {
  elapsedS: number;
  /** Seconds of paid time left. */
  paidLeftS: number;
  /** How much of the current period is left, 1 at its start, 0 at its end. */
  periodLeft: number;
  tokensSpent: number;
  periodsBilled: number;
  /** Whole periods the payer's balance still buys after the current one. */
  periodsAffordable: number | undefined;
  /** True when those are fewer than two, as the server's `balance:low` says at each debit. */
  low: boolean;
}

export function readMeter(call: Call, nowMs: number, payerBalance?: number): MeterReading {
  const startedAt = call.startedAt === null ? nowMs : Date.parse(call.startedAt);
  const end = call.endedAt === null ? nowMs : Math.min(nowMs, Date.parse(call.endedAt));
  const paidThrough = call.paidThrough === null ? startedAt : Date.parse(call.paidThrough);
  // A period is paid when it begins, so never is more than one left: what seems more is the clocks' difference.
  const paidLeftS =
    call.status === "active" ? Math.min(call.periodSeconds, Math.max(0, (paidThrough - nowMs) / 1000)) : 0;
  const periodsAffordable =
    payerBalance === undefined ? undefined : Math.floor(payerBalance / Math.max(1, call.rateTokensPerPeriod));
  return {
    elapsedS: Math.max(0, (end - startedAt) / 1000),
    paidLeftS,
    periodLeft: paidLeftS / call.periodSeconds,
    tokensSpent: call.tokensSpent,
    periodsBilled: call.periodsBilled,
    periodsAffordable,
    low: periodsAffordable !== undefined && periodsAffordable < lowBalancePeriods,
  };
}

/** Milliseconds by which a token outlives the time paid, seen when both are known. */
export function graceOf(call: Call, agora: AgoraGrant): number | undefined {
  if (call.paidThrough === null) return undefined;
  return Math.max(0, Date.parse(agora.expiresAt) - Date.parse(call.paidThrough));
}

/**
 * The call after its next period was paid, told by nothing but the new token's expiry.
 *
 * Computed from absolute times, so that an event lost or seen twice changes nothing.
 */
export function paidUntil(call: Call, agora: AgoraGrant, graceMs: number): Call {
  if (call.startedAt === null || call.paidThrough === null || call.status !== "active") return call;
  const paidThrough = Date.parse(agora.expiresAt) - graceMs;
  const more = Math.round((paidThrough - Date.parse(call.paidThrough)) / (call.periodSeconds * 1000));
  if (more <= 0) return call;
  return {
    ...call,
    paidThrough: new Date(Date.parse(call.paidThrough) + more * call.periodSeconds * 1000).toISOString(),
    periodsBilled: call.periodsBilled + more,
    tokensSpent: call.tokensSpent + more * call.rateTokensPerPeriod,
  };
}
