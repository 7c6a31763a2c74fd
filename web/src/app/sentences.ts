/** What went wrong, said to the person it happened to. */
import { ApiError, CommandError, NoAnswer } from "../client";
import { spokenDuration } from "./format";

const refusals: Record<string, (who: string) => string> = {
  callee_unavailable: (who) => `${who} isn’t connected right now.`,
  busy: () => "One of you is in another call.",
  insufficient_funds: () => "Your balance doesn’t cover the first period. Top up and try again.",
  call_already_answered: () => "This call was answered in another tab.",
  call_ended: () => "This call is over.",
  self_call: () => "You can’t call yourself.",
  not_found: () => "This call no longer exists.",
  unavailable: () => "The server can’t do this right now. Try again in a moment.",
  no_answer: () => "The server didn’t answer. Check your connection and try again.",
  unauthenticated: () => "Your session has ended. Sign in again.",
};

/** A sentence for any error; `who` is the other person, where there is one. */
export function sentence(error: unknown, who = "That person"): string {
  if (error instanceof NoAnswer) return "The server can’t be reached. Check your connection and try again.";
  if (!(error instanceof CommandError) && !(error instanceof ApiError)) return "Something went wrong on this page.";
  if (error.code === "rate_limited") {
    const wait = error.retryAfter === undefined ? "a moment" : spokenDuration(error.retryAfter);
    return `That was too often in a short time. Try again in ${wait}.`;
  }
  return refusals[error.code]?.(who) ?? error.message;
}

export const endReasons: Record<string, string> = {
  hangup: "Hung up",
  declined: "Declined",
  cancelled: "Cancelled",
  missed: "Missed",
  insufficient_funds: "Balance ran out",
  disconnected: "Connection lost",
  failed: "Failed",
};

export const transactionNames: Record<string, string> = {
  purchase: "Tokens bought",
  call_debit: "Call",
  grant: "Granted",
  refund: "Refund",
  dispute: "Disputed payment",
  adjustment: "Adjustment",
};
