import type { Call } from "../../client";

/** Whom a user talks to in a call of theirs. */
export function otherOf(call: Call, userId: string): string {
  return call.callerId === userId ? call.calleeId : call.callerId;
}
