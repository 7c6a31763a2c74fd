import { describe, expect, test, vi } from "vitest";
import { ApiError, ApiService, NoAnswer, SessionService } from "../src/client";
import { problem, scriptedServer } from "./fakes";

const config = {
  environment: "development",
  agoraConfigured: false,
  stripePublishableKey: null,
  stripeApiBase: null,
  tokensPerUsd: 100,
  periodSeconds: 60,
  devLogin: true,
  enhancedFeatures: true,
};
const signedIn = (csrfToken: string) => ({
  status: 200,
  body: { authenticated: true, userId: "alice", trust: "basic", role: "user", csrfToken, expiresAt: "", config },
});

describe("the API service", () => {
  test("throws a problem document's code, sentence and members", async () => {
    const server = scriptedServer(problem(403, "daily_limit_exceeded", { limitCents: 10000, spentCents: 9500 }));
    const error = await new ApiService({ fetch: server.fetch }).balance().catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(ApiError);
    expect(error).toMatchObject({ status: 403, code: "daily_limit_exceeded", message: "because daily_limit_exceeded" });
    expect((error as ApiError).problem).toMatchObject({ limitCents: 10000, spentCents: 9500 });
  });

  test("tells on 429 how long to wait, from the body or else from the header", async () => {
    const server = scriptedServer(problem(429, "rate_limited", { retryAfter: 17 }), {
      status: 429,
      headers: { "Retry-After": "23" },
    });
    const api = new ApiService({ fetch: server.fetch });
    await expect(api.balance()).rejects.toMatchObject({ retryAfter: 17, code: "rate_limited" });
    await expect(api.balance()).rejects.toMatchObject({ retryAfter: 23, code: "http_429" });
  });

  test("tells a refusal from no answer at all", async () => {
    const server = scriptedServer("lost");
    await expect(new ApiService({ fetch: server.fetch }).balance()).rejects.toBeInstanceOf(NoAnswer);
  });

  test("copes with a proxy's page in place of a problem document", async () => {
    const fetch = () => Promise.resolve(new Response("<html>Bad gateway</html>", { status: 502 }));
    await expect(new ApiService({ fetch }).balance()).rejects.toMatchObject({ status: 502, code: "http_502" });
  });

  test("takes a success that cannot be read for no answer, for what the server did is as unknown", async () => {
    const fetch = () => Promise.resolve(new Response("<html>Welcome to our network</html>", { status: 200 }));
    await expect(new ApiService({ fetch }).balance()).rejects.toBeInstanceOf(NoAnswer);
  });

  test("sends a bearer token where the app holds one", async () => {
    const server = scriptedServer({ status: 200, body: {} });
    await new ApiService({ fetch: server.fetch, token: () => "abc" }).balance();
    expect(server.sent[0]?.headers.get("Authorization")).toBe("Bearer abc");
  });

  test("leaves out what a page request doesn't say and escapes what it says", async () => {
    const server = scriptedServer({ status: 200, body: {} }, { status: 200, body: {} });
    const api = new ApiService({ fetch: server.fetch });
    await api.transactions();
    await api.transactions({ cursor: "a b&c", limit: 5 });
    expect(server.sent.map(({ path }) => path)).toEqual([
      "/api/v1/transactions?limit=25",
      "/api/v1/transactions?cursor=a+b%26c&limit=5",
    ]);
  });
});

describe("the session by cookie", () => {
  test("sends its CSRF token with unsafe methods only", async () => {
    const server = scriptedServer(signedIn("csrf-1"), { status: 200, body: {} }, { status: 200, body: {} });
    const sessions = new SessionService({ fetch: server.fetch });
    await sessions.refresh();
    await sessions.api.balance();
    await sessions.api.setRate(20);
    expect(server.sent[1]?.headers.has("X-CSRF-Token")).toBe(false);
    expect(server.sent[2]?.headers.get("X-CSRF-Token")).toBe("csrf-1");
  });

  test("fetches the new CSRF token when another tab signed in anew, and asks once more", async () => {
    const server = scriptedServer(signedIn("csrf-1"), problem(403, "csrf_token_invalid"), signedIn("csrf-2"), {
      status: 200,
      body: {},
    });
    const sessions = new SessionService({ fetch: server.fetch });
    await sessions.refresh();
    await sessions.api.setRate(20);
    expect(server.sent[3]?.headers.get("X-CSRF-Token")).toBe("csrf-2");
  });

  test("does not ask again when its CSRF token is the newest there is", async () => {
    const server = scriptedServer(signedIn("csrf-1"), problem(403, "csrf_token_invalid"), signedIn("csrf-1"));
    const sessions = new SessionService({ fetch: server.fetch });
    await sessions.refresh();
    await expect(sessions.api.setRate(20)).rejects.toMatchObject({ code: "csrf_token_invalid" });
    expect(server.left()).toBe(0);
  });

  test("is over for everyone who watches when the server says 401", async () => {
    const server = scriptedServer(signedIn("csrf-1"), problem(401, "unauthenticated"));
    const sessions = new SessionService({ fetch: server.fetch });
    await sessions.refresh();
    const told = vi.fn<() => void>();
    sessions.state.subscribe(told);
    await expect(sessions.api.balance()).rejects.toMatchObject({ status: 401 });
    expect(sessions.state.get()).toMatchObject({ authenticated: false });
    expect(told).toHaveBeenCalledOnce();
  });

  test("trades a token for the cookie and keeps none", async () => {
    const server = scriptedServer({ status: 200, body: { token: "jwt" } }, { status: 200, body: {} }, signedIn("c"));
    const sessions = new SessionService({ fetch: server.fetch });
    await sessions.signInForDevelopment({ userId: "alice" });
    expect(server.sent[1]).toMatchObject({ method: "POST", path: "/bff/session" });
    expect(server.sent[1]?.headers.get("Authorization")).toBe("Bearer jwt");
    expect(server.sent[2]?.headers.has("Authorization")).toBe(false);
    expect(JSON.stringify(sessions.state.get())).not.toContain("jwt");
  });
});
