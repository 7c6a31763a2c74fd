import { describe, expect, test } from "vitest";
import { SessionService } from "../src/client";
import type { Session } from "../src/client";

const config = { environment: "test" };
const signedIn = { authenticated: true, userId: "alice", csrfToken: "c", config } as unknown as Session;
const signedOut = { authenticated: false, config } as unknown as Session;

/** A server whose answers come when, and in the order, a test lets them. */
function heldServer() {
  const held: ((session: Session) => void)[] = [];
  const fetch = () =>
    new Promise<Response>((resolve) => {
      held.push((session) => resolve(Response.json(session)));
    });
  return {
    fetch: fetch as unknown as typeof globalThis.fetch,
    answer: (n: number, with_: Session) => held[n]?.(with_),
  };
}

describe("who is signed in", () => {
  test("an answer that was overtaken by a newer one changes nothing", async () => {
    const { fetch, answer } = heldServer();
    const sessions = new SessionService({ fetch });
    const [before, after] = [sessions.refresh(), sessions.refresh()];
    answer(1, signedOut);
    await after;
    answer(0, signedIn);
    await before;
    expect(sessions.state.get()).toEqual(signedOut);
  });

  test("where the newer one comes to nothing, the older one counts", async () => {
    const held: ((outcome: Response | undefined) => void)[] = [];
    const fetch = () =>
      new Promise<Response>((resolve, reject) => {
        held.push((outcome) => (outcome ? resolve(outcome) : reject(new TypeError("lost"))));
      });
    const sessions = new SessionService({ fetch: fetch as unknown as typeof globalThis.fetch });
    const [before, after] = [sessions.refresh(), sessions.refresh()];
    held[1]?.(undefined);
    await expect(after).rejects.toThrow();
    held[0]?.(Response.json(signedIn));
    await before;
    expect(sessions.state.get()).toEqual(signedIn);
  });

  test("a stale CSRF token is renewed for the same person, and nothing is repeated in another's name", async () => {
    for (const [userId, repeated] of [
      ["alice", true],
      ["bob", false],
    ] as const) {
      const sent: (string | null)[] = [];
      const stale = { status: 403, code: "csrf_invalid", detail: "stale" };
      const fetch = (path: string, init: RequestInit) => {
        if (path.includes("/bff/session"))
          return Promise.resolve(Response.json({ ...signedIn, userId, csrfToken: "d" }));
        sent.push(new Headers(init.headers).get("X-CSRF-Token"));
        return Promise.resolve(sent.length === 1 ? Response.json(stale, { status: 403 }) : Response.json({}));
      };
      const sessions = new SessionService({ fetch: fetch as unknown as typeof globalThis.fetch });
      sessions.state.set(signedIn);
      const asked = sessions.api.endCall("c1");
      if (repeated) await asked;
      else await expect(asked).rejects.toMatchObject({ code: "csrf_invalid" });
      expect(sent).toEqual(repeated ? ["c", "d"] : ["c"]);
    }
  });
});
