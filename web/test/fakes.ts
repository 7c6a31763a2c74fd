/** What the tests stand on: a server of scripted answers, a storage that survives a "reload", calls and grants. */
import type { AgoraGrant, Call } from "../src/client";

export type Scripted = { status: number; body?: unknown; headers?: Record<string, string> } | "lost";

export interface Sent {
  method: string;
  path: string;
  headers: Headers;
  body: unknown;
}

/** Answers requests one after another from a script; asked for more than that, it fails the test. */
export function scriptedServer(...script: Scripted[]) {
  const sent: Sent[] = [];
  const answers = [...script];
  const fetch = async (url: RequestInfo | URL, init: RequestInit = {}): Promise<Response> => {
    sent.push({
      method: init.method ?? "GET",
      path: String(url),
      headers: new Headers(init.headers),
      body: typeof init.body === "string" ? JSON.parse(init.body) : undefined,
    });
    const next = answers.shift();
    if (next === undefined) throw new Error(`unexpected request ${init.method} ${String(url)}`);
    if (next === "lost") throw new TypeError("network connection was lost");
    return new Response(next.body === undefined ? null : JSON.stringify(next.body), {
      status: next.status,
      headers: { "Content-Type": "application/json", ...next.headers },
    });
  };
  return { fetch: fetch as typeof globalThis.fetch, sent, left: () => answers.length };
}

export function problem(status: number, code: string, more: Record<string, unknown> = {}): Scripted {
  return { status, body: { type: "about:blank", title: code, status, code, detail: `because ${code}`, ...more } };
}

/** What a tab's session storage is: gone with the tab, there after a reload. */
export function tabStorage(): Storage {
  const values = new Map<string, string>();
  return {
    getItem: (name: string) => values.get(name) ?? null,
    setItem: (name: string, value: string) => void values.set(name, value),
    removeItem: (name: string) => void values.delete(name),
  } as Storage;
}

export const noWait = { sleep: () => Promise.resolve() };

export const T0 = Date.parse("2030-01-01T12:00:00.000Z");

export function at(seconds: number): string {
  return new Date(T0 + seconds * 1000).toISOString();
}

export function aCall(change: Partial<Call> = {}): Call {
  return {
    id: "11111111-1111-4111-8111-111111111111",
    channel: "c1",
    callerId: "alice",
    calleeId: "bob",
    status: "active",
    rateTokensPerPeriod: 10,
    periodSeconds: 60,
    startedAt: at(0),
    paidThrough: at(60),
    endedAt: null,
    endReason: null,
    periodsBilled: 1,
    tokensSpent: 10,
    ...change,
  };
}

export const aRingingCall = (change: Partial<Call> = {}) =>
  aCall({ status: "ringing", startedAt: null, paidThrough: null, periodsBilled: 0, tokensSpent: 0, ...change });

export function aGrant(expiresAfterS: number, token = `token-${expiresAfterS}`): AgoraGrant {
  return { appId: "app", channel: "c1", uid: 1, token, expiresAt: at(expiresAfterS) };
}
