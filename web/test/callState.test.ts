import { describe, expect, test } from "vitest";
import { nextCallState, type CallEvent, type CallState } from "../src/client";
import { idle } from "../src/client/callState";
import { aCall, aGrant, aRingingCall, at } from "./fakes";

const ringing = aRingingCall();
const active = aCall();
const ended = aCall({ status: "ended", endedAt: at(90), endReason: "hangup", periodsBilled: 2, tokensSpent: 20 });

const after = (...events: CallEvent[]): CallState => events.reduce(nextCallState, idle);

const ringsFor = (userId: string, here = false): CallEvent => ({ type: "ringing", call: ringing, userId, here });
const joined: CallEvent = { type: "joined", call: active, agora: aGrant(70) };
const over: CallEvent = { type: "ended", call: ended };

describe("what a tab shows of a call", () => {
  test("it rings for the callee and is going out for the caller", () => {
    expect(after(ringsFor("bob"))).toMatchObject({ phase: "incoming" });
    expect(after(ringsFor("alice", true))).toMatchObject({ phase: "outgoing", here: true });
    expect(after(ringsFor("alice"))).toMatchObject({ phase: "outgoing", here: false });
  });

  test("answered elsewhere, it stops ringing and is carried elsewhere", () => {
    expect(after(ringsFor("bob"), { type: "accepted", call: active })).toMatchObject({
      phase: "active",
      here: false,
      agora: undefined,
    });
  });

  test("joined, this tab carries it, whichever of the answer and the event comes first", () => {
    const accepted: CallEvent = { type: "accepted", call: active };
    for (const order of [
      [accepted, joined],
      [joined, accepted],
    ]) {
      expect(after(ringsFor("bob"), ...order)).toMatchObject({ phase: "active", here: true, agora: aGrant(70) });
    }
  });

  test("taken over by another tab, it gives its grant up", () => {
    expect(after(joined, { type: "taken", callId: active.id })).toMatchObject({ here: false, agora: undefined });
  });

  test("each new token moves the paid time, the periods and what was spent on", () => {
    const state = after(joined, { type: "token", callId: active.id, agora: aGrant(130) });
    expect(state).toMatchObject({
      call: { paidThrough: at(120), periodsBilled: 2, tokensSpent: 20 },
      agora: aGrant(130),
    });
  });

  test("an answer to joining that was overtaken by the next period's token turns nothing back", () => {
    const accepted: CallEvent = { type: "accepted", call: active };
    const further = aCall({ paidThrough: at(120), periodsBilled: 2, tokensSpent: 20 });
    const state = after(accepted, { type: "accepted", call: further }, joined);
    expect(state).toMatchObject({ here: true, agora: aGrant(70), call: { periodsBilled: 2, tokensSpent: 20 } });
    const third: CallEvent = { type: "token", callId: active.id, agora: aGrant(190) };
    expect(nextCallState(state, third)).toMatchObject({ call: { periodsBilled: 3, paidThrough: at(180) } });
  });

  test("a token seen twice, or one missed between, counts right", () => {
    const second: CallEvent = { type: "token", callId: active.id, agora: aGrant(130) };
    const fourth: CallEvent = { type: "token", callId: active.id, agora: aGrant(250) };
    expect(after(joined, second, second)).toMatchObject({ call: { periodsBilled: 2, tokensSpent: 20 } });
    expect(after(joined, fourth)).toMatchObject({ call: { periodsBilled: 4, tokensSpent: 40, paidThrough: at(240) } });
  });

  test("a snapshot that is older than the last token changes nothing", () => {
    const state = after(joined, { type: "token", callId: active.id, agora: aGrant(130) });
    expect(nextCallState(state, { type: "accepted", call: active })).toMatchObject({ call: { periodsBilled: 2 } });
  });

  test("nothing brings an ended call back", () => {
    const seen = after(joined, over);
    const putAway = nextCallState(seen, { type: "dismissed" });
    const late: CallEvent[] = [ringsFor("bob"), { type: "accepted", call: active }, joined, over];
    for (const event of late) {
      expect(nextCallState(seen, event)).toEqual(seen);
      expect(nextCallState(putAway, event)).toEqual(putAway);
    }
  });

  test("an end that arrives before its call leaves nothing ringing", () => {
    expect(after(over, ringsFor("alice", true))).toMatchObject({ phase: "idle" });
  });

  test("events of another call leave this one alone", () => {
    const state = after(joined);
    const other = "22222222-2222-4222-8222-222222222222";
    const foreign: CallEvent[] = [
      { type: "ended", call: { ...ended, id: other } },
      { type: "token", callId: other, agora: aGrant(500) },
      { type: "taken", callId: other },
    ];
    for (const event of foreign) expect(nextCallState(state, event)).toBe(state);
  });

  test("after one call is over the next one rings", () => {
    const next = { ...ringing, id: "33333333-3333-4333-8333-333333333333" };
    expect(
      nextCallState(after(joined, over), { type: "ringing", call: next, userId: "bob", here: false }),
    ).toMatchObject({ phase: "incoming", call: { id: next.id } });
  });
});
