/**
 * What one tab shows of its user's call: a pure function from what was shown and what happened.
 *
 * A user has one call at a time but many tabs. Every tab hears of it; the one that carries its sound and picture is
 * `here`. Events may come twice, late, or again after a reconnect, so each is taken for what it says of a call's
 * absolute state, and nothing brings an ended call back.
 */
import { graceOf, paidUntil } from "./meter";
import type { AgoraGrant, Call } from "./wire";

export type CallState =
  | { phase: "idle"; endedId?: string | undefined }
  | { phase: "incoming"; call: Call }
  | { phase: "outgoing"; call: Call; here: boolean }
  | {
      phase: "active";
      call: Call;
      here: boolean;
      /** This side's way into the channel, where this tab carries the call. */
      agora: AgoraGrant | undefined;
      graceMs: number;
    }
  | { phase: "ended"; call: Call; here: boolean };

export type CallEvent =
  | { type: "ringing"; call: Call; userId: string; here: boolean }
  | { type: "accepted"; call: Call }
  | { type: "joined"; call: Call; agora: AgoraGrant }
  | { type: "taken"; callId: string }
  | { type: "token"; callId: string; agora: AgoraGrant }
  | { type: "ended"; call: Call }
  | { type: "dismissed" };

export const idle: CallState = { phase: "idle" };

export function nextCallState(state: CallState, event: CallEvent): CallState {
  switch (event.type) {
    case "ringing":
      if (isOver(state, event.call.id) || (isShown(state, event.call.id) && state.phase === "active")) return state;
      if (event.call.callerId !== event.userId) return { phase: "incoming", call: event.call };
      return { phase: "outgoing", call: event.call, here: event.here || isHere(state, event.call.id) };
    case "accepted":
      if (isOver(state, event.call.id)) return state;
      if (state.phase === "active" && state.call.id === event.call.id) {
        return { ...state, call: furthest(state.call, event.call) };
      }
      return active(event.call, false);
    case "joined":
      if (isOver(state, event.call.id)) return state;
      // Asked before the last period began, an answer may arrive after what was told of that period.
      return {
        ...active(event.call, true, event.agora),
        ...(state.phase === "active" && isShown(state, event.call.id) && { call: furthest(state.call, event.call) }),
      };
    case "taken":
      if (state.phase !== "active" || state.call.id !== event.callId) return state;
      return { ...state, here: false, agora: undefined };
    case "token":
      if (state.phase !== "active" || state.call.id !== event.callId) return state;
      return {
        ...state,
        call: paidUntil(state.call, event.agora, state.graceMs),
        agora: state.here ? event.agora : undefined,
      };
    case "ended":
      if (state.phase === "idle") return { phase: "idle", endedId: event.call.id };
      if (!isShown(state, event.call.id)) return state;
      return { phase: "ended", call: event.call, here: isHere(state, event.call.id) };
    case "dismissed":
      return state.phase === "ended" ? { phase: "idle", endedId: state.call.id } : state;
  }
}

/** The call a state is about, if any. */
export function callOf(state: CallState): Call | undefined {
  return state.phase === "idle" ? undefined : state.call;
}

function active(call: Call, here: boolean, agora?: AgoraGrant): CallState {
  // Without a grant the grace stays unknown, and the call's own figures are what is shown.
  const graceMs = agora ? (graceOf(call, agora) ?? 0) : 0;
  return { phase: "active", call, here, agora, graceMs };
}

function furthest(shown: Call, arrived: Call): Call {
  return arrived.periodsBilled >= shown.periodsBilled ? arrived : shown;
}

function isShown(state: CallState, callId: string): boolean {
  return state.phase !== "idle" && state.call.id === callId;
}

function isHere(state: CallState, callId: string): boolean {
  return isShown(state, callId) && "here" in state && state.here;
}

function isOver(state: CallState, callId: string): boolean {
  return state.phase === "ended" ? state.call.id === callId : state.phase === "idle" && state.endedId === callId;
}
