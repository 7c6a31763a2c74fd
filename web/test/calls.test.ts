import { afterEach, describe, expect, test } from "vitest";
import { CallService } from "../src/client/calls";
import { ApiError, CommandError, NoAnswer, type ApiService, type Call, type CallSocket } from "../src/client";
import { aCall, aGrant, aRingingCall, tabStorage } from "./fakes";

/** A line on which the answers to commands, and the events, come in the order a test lets them. */
class Line {
  readonly #handlers = new Map<string, (payload: unknown) => void>();
  readonly asked: {
    name: string;
    payload: { requestId?: string };
    answer: (ack: object) => void;
    refuse: (error: CommandError) => void;
  }[] = [];
  on = (name: string, handler: (payload: never) => void) => {
    this.#handlers.set(name, handler as (payload: unknown) => void);
    return () => this.#handlers.delete(name);
  };
  onConnect = (handler: () => void) => this.on("connect", handler);
  command = (name: string, payload: object) =>
    new Promise((answer, refuse) => this.asked.push({ name, payload, answer, refuse }));
  push(name: string, payload?: unknown) {
    this.#handlers.get(name)?.(payload);
  }
  answer(number: number, ack: object) {
    this.asked[number]?.answer(ack);
  }
  refuse(number: number, code: string) {
    this.asked[number]?.refuse(new CommandError(code, ""));
  }
  /** What the server sends after every connect, and where pushes may have been missed. */
  snapshot() {
    this.push("balance:update", { balance: 0, version: 1, delta: 0, reason: "snapshot", queryKey: ["tokenBalance"] });
  }
}

describe("a call in one tab, whatever comes late", () => {
  const opened: CallService[] = [];
  const service = (line: Line, read: () => Promise<Call> = () => Promise.reject(new Error("not asked"))) => {
    const api = { call: read } as unknown as ApiService;
    const options = { userId: "alice", agoraConfigured: false, storage: tabStorage(), readAgainMs: 1 };
    const calls = new CallService(line as unknown as CallSocket, api, options);
    calls.open();
    opened.push(calls);
    return calls;
  };
  afterEach(() => {
    for (const calls of opened.splice(0)) calls.close();
  });

  test("answered before its start was acknowledged, it is carried by the tab that started it", async () => {
    const line = new Line();
    const calls = service(line);
    const starting = calls.start("bob");
    line.push("call:accepted", { call: aCall() });
    expect(calls.state.get()).toMatchObject({ phase: "active", here: false });
    line.answer(0, { call: aRingingCall() });
    await starting;
    line.answer(1, { call: aCall(), agora: aGrant(70) });
    await expect.poll(() => calls.state.get()).toMatchObject({ phase: "active", here: true });
    expect(line.asked.map(({ name }) => name)).toEqual(["call:start", "call:join"]);
  });

  describe("a start whose answer was lost, tried again", () => {
    const triedAgain = async () => {
      const line = new Line();
      const calls = service(line);
      const lost = calls.start("bob");
      line.refuse(0, "no_answer");
      await expect(lost).rejects.toMatchObject({ code: "no_answer" });
      return { line, calls, starting: calls.start("bob") };
    };
    const requests = (line: Line) => line.asked.map(({ payload }) => payload.requestId);

    test("shows the call that rings since", async () => {
      const { line, calls, starting } = await triedAgain();
      line.answer(1, { call: aRingingCall() });
      await starting;
      expect(calls.state.get()).toMatchObject({ phase: "outgoing", here: true });
      expect(new Set(requests(line)).size).toBe(1);
    });

    test("starts another call where the one before has ended meanwhile", async () => {
      const { line, calls, starting } = await triedAgain();
      line.answer(1, { call: aCall({ status: "ended", endReason: "missed" }) });
      await expect.poll(() => line.asked.length).toBe(3);
      line.answer(2, { call: aRingingCall({ id: "22222222-2222-4222-8222-222222222222" }) });
      await starting;
      expect(calls.state.get()).toMatchObject({
        phase: "outgoing",
        call: { id: "22222222-2222-4222-8222-222222222222" },
        here: true,
      });
      expect(line.asked[2]?.name).toBe("call:start");
      expect(requests(line)[2]).not.toBe(requests(line)[1]);
    });

    test("carries the call before where it was answered meanwhile", async () => {
      const { line, calls, starting } = await triedAgain();
      line.answer(1, { call: aCall() });
      await starting;
      expect(line.asked[2]?.name).toBe("call:join");
      line.answer(2, { call: aCall(), agora: aGrant(70) });
      await expect.poll(() => calls.state.get()).toMatchObject({ phase: "active", here: true });
    });
  });

  test("what is read of a call after a reconnect does not take the place of the next one", async () => {
    const line = new Line();
    let tell: (call: Call) => void = () => undefined;
    const calls = service(line, () => new Promise((resolve) => (tell = resolve)));
    line.push("call:accepted", { call: aCall() });
    line.push("connect");
    line.snapshot();
    line.push("call:ended", { call: aCall({ status: "ended" }) });
    line.push("call:accepted", { call: aCall({ id: "22222222-2222-4222-8222-222222222222" }) });
    tell(aCall());
    await new Promise((resolve) => setTimeout(resolve));
    expect(calls.state.get()).toMatchObject({ call: { id: "22222222-2222-4222-8222-222222222222" } });
  });

  test("a call that ended meanwhile is told of by the first answer there is after a reconnect", async () => {
    const line = new Line();
    const answers = [
      () => Promise.reject(new NoAnswer("gone")),
      () => Promise.reject(new ApiError(503, "unavailable", "", {})),
    ];
    const calls = service(line, () => (answers.shift() ?? (() => Promise.resolve(aCall({ status: "ended" }))))());
    line.push("call:accepted", { call: aCall() });
    line.push("connect");
    line.snapshot();
    await expect.poll(() => calls.state.get()).toMatchObject({ phase: "ended" });
    expect(answers).toEqual([]);
  });

  test.each([
    ["ringing here", "call:incoming", aRingingCall({ callerId: "bob", calleeId: "alice" })],
    ["ringing at the other’s", "call:incoming", aRingingCall()],
    ["going on", "call:accepted", aCall()],
  ])("a call %s is over with the next snapshot where its end was missed", async (_, name, call) => {
    const line = new Line();
    const calls = service(line, () => Promise.resolve({ ...call, status: "ended" as const }));
    line.push(name, { call });
    line.snapshot();
    await expect.poll(() => calls.state.get()).toMatchObject({ phase: "ended" });
  });

  test("a balance that changes has no call read", async () => {
    const line = new Line();
    let reads = 0;
    const calls = service(line, () => Promise.resolve(aCall({ periodsBilled: ++reads })));
    line.push("call:accepted", { call: aCall() });
    line.push("balance:update", { balance: 0, version: 1, delta: 0, reason: "grant", queryKey: ["tokenBalance"] });
    await new Promise((resolve) => setTimeout(resolve));
    expect(reads).toBe(0);
    expect(calls.state.get()).toMatchObject({ phase: "active" });
  });

  test("a call that is refused as ended when it is answered rings no longer", async () => {
    const line = new Line();
    const ringing = aRingingCall({ callerId: "bob", calleeId: "alice" });
    const calls = service(line, () => Promise.resolve({ ...ringing, status: "ended" as const }));
    line.push("call:incoming", { call: ringing });
    const accepting = calls.accept(ringing.id);
    line.refuse(0, "call_ended");
    await expect(accepting).rejects.toMatchObject({ code: "call_ended" });
    await expect.poll(() => calls.state.get()).toMatchObject({ phase: "ended" });
  });

  test("a call that is refused as ended when it is taken over is over here", async () => {
    const line = new Line();
    const calls = service(line, () => Promise.resolve(aCall({ status: "ended" })));
    line.push("call:accepted", { call: aCall() });
    const joining = calls.join(aCall().id);
    line.refuse(0, "call_ended");
    await expect(joining).rejects.toMatchObject({ code: "call_ended" });
    await expect.poll(() => calls.state.get()).toMatchObject({ phase: "ended" });
  });
});
