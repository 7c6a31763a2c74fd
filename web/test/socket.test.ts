import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { CallSocket, type Connection } from "../src/client";

type Listener = (payload?: unknown) => void;

/** What CallSocket asks of socket.io-client's socket, with the network in the test's hands. */
class Wire {
  id = "socket-1";
  active = true;
  connects = 0;
  sent: [string, unknown][] = [];
  answer: (name: string) => Promise<unknown> = () => Promise.resolve({ ok: true });
  readonly #listeners = new Map<string, Set<Listener>>();

  on(name: string, listener: Listener) {
    this.#listeners.set(name, (this.#listeners.get(name) ?? new Set()).add(listener));
  }
  off(name: string, listener: Listener) {
    this.#listeners.get(name)?.delete(listener);
  }
  connect() {
    this.connects++;
  }
  disconnect() {
    this.happen("disconnect", "io client disconnect");
  }
  timeout() {
    return this;
  }
  emitWithAck(name: string, payload: unknown) {
    this.sent.push([name, payload]);
    return this.answer(name);
  }
  happen(name: string, payload?: unknown) {
    for (const listener of this.#listeners.get(name) ?? []) listener(payload);
  }
}

const io = vi.hoisted(() => vi.fn<(url: string, options: object) => unknown>());
vi.mock("socket.io-client", () => ({ io }));

describe("the socket", () => {
  let wire: Wire;
  beforeEach(() => {
    vi.useFakeTimers();
    wire = new Wire();
    io.mockReset().mockReturnValue(wire);
  });
  afterEach(() => {
    vi.useRealTimers();
  });

  function open(options: ConstructorParameters<typeof CallSocket>[0] = {}) {
    const socket = new CallSocket(options);
    const seen: Connection[] = [];
    socket.connection.subscribe(() => seen.push(socket.connection.get()));
    socket.connect();
    return { socket, seen };
  }

  test("tells that it is away and back while it reconnects by itself", () => {
    const { seen } = open();
    wire.happen("connect");
    wire.happen("disconnect", "transport close");
    wire.happen("connect");
    expect(seen).toEqual(["online", "offline", "online"]);
    expect(wire.connects).toBe(1);
  });

  test("put out by the server, it asks whether the session goes on, and comes back only if so", async () => {
    const mayReconnect = vi.fn(() => Promise.resolve(true));
    const { socket } = open({ mayReconnect });
    wire.happen("connect");
    wire.active = false;
    wire.happen("disconnect", "io server disconnect");
    await vi.advanceTimersByTimeAsync(2_000);
    expect(wire.connects).toBe(2);

    mayReconnect.mockResolvedValue(false);
    wire.happen("connect_error", new Error("unauthenticated"));
    await vi.advanceTimersByTimeAsync(60_000);
    expect(wire.connects).toBe(2);
    expect(socket.connection.get()).toBe("signed_out");
  });

  test("refused while the session cannot be asked about, it tries again later", async () => {
    open({ mayReconnect: () => Promise.reject(new Error("no network")) });
    wire.active = false;
    wire.happen("connect_error", new Error("refused"));
    await vi.advanceTimersByTimeAsync(2_000);
    expect(wire.connects).toBe(2);
  });

  test("closed while the session is asked about, it stays closed whatever the answer", async () => {
    let goesOn: (may: boolean) => void = () => {};
    const { socket } = open({ mayReconnect: () => new Promise((resolve) => (goesOn = resolve)) });
    wire.active = false;
    wire.happen("disconnect", "io server disconnect");
    socket.close();
    goesOn(true);
    await vi.advanceTimersByTimeAsync(60_000);
    expect(wire.connects).toBe(1);
    expect(socket.connection.get()).toBe("signed_out");
  });

  test("asks for the token anew at every handshake", async () => {
    const tokens = ["first", "second"];
    open({ token: () => tokens.shift() });
    const [, options] = io.mock.lastCall ?? [];
    const { auth } = options as { auth: (give: (auth: object) => void) => void };
    const given = [await new Promise(auth), await new Promise(auth)];
    expect(given).toEqual([{ token: "first" }, { token: "second" }]);
  });

  test("told that its login runs out, it sends a fresh token and stays", async () => {
    open({ token: () => "fresh" });
    wire.happen("connect");
    wire.happen("auth:expired", {});
    await vi.advanceTimersByTimeAsync(0);
    expect(wire.sent).toEqual([["auth:renew", { token: "fresh" }]]);
  });

  test("a command gives what its acknowledgement carries, or throws the refusal with its wait", async () => {
    const { socket } = open();
    wire.answer = () => Promise.resolve({ ok: true, balance: 5, version: 2 });
    expect(await socket.command("balance:get", {})).toMatchObject({ balance: 5 });
    wire.answer = () => Promise.resolve({ ok: false, error: { code: "rate_limited", message: "wait", retryAfter: 7 } });
    await expect(socket.command("balance:get", {})).rejects.toMatchObject({ code: "rate_limited", retryAfter: 7 });
    wire.answer = () => Promise.reject(new Error("operation has timed out"));
    await expect(socket.command("balance:get", {})).rejects.toMatchObject({ code: "no_answer" });
  });

  test("closed, it stays away", async () => {
    const { socket } = open({ mayReconnect: () => Promise.resolve(true) });
    wire.happen("connect");
    wire.active = false;
    socket.close();
    await vi.advanceTimersByTimeAsync(60_000);
    expect(wire.connects).toBe(1);
    expect(socket.connection.get()).toBe("signed_out");
  });
});
