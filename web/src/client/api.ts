/** The HTTP side: one method for each route, one error for every refusal. */
import { ServerClock } from "./clock";
import type { Balance, Call, Me, OnlineUsers, OpsOverview, Page, Purchase, Transaction } from "./wire";

/** The server answered, and the answer is no: an RFC 9457 problem with its stable `code`. */
export class ApiError extends Error {
  override readonly name = "ApiError";

  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
    /** Everything else the problem document said (`limitCents`, `declineCode`, …). */
    readonly problem: Readonly<Record<string, unknown>> = {},
  ) {
    super(message);
  }

  /** Seconds until asking again makes sense; set on 429 and some 503. */
  get retryAfter(): number | undefined {
    const value = this.problem["retryAfter"];
    return typeof value === "number" ? value : undefined;
  }
}

/** No answer came: whether the server acted is unknown. */
export class NoAnswer extends Error {
  override readonly name = "NoAnswer";
}

export interface ApiOptions {
  /** Where the server is; the page's own origin unless told. */
  baseUrl?: string;
  /** A bearer token instead of the session cookie, for pages that hold their own. */
  token?: () => string | undefined;
  /** The session's CSRF token, sent with every unsafe method. */
  csrfToken?: () => string | undefined;
  /** Called when the server refused a request's CSRF token; answers whether there is a new one to try. */
  renewCsrf?: () => Promise<boolean>;
  onUnauthenticated?: () => void;
  clock?: ServerClock;
  fetch?: typeof fetch;
}

export interface RequestOptions {
  query?: Record<string, string | number | undefined>;
  body?: unknown;
  idempotencyKey?: string;
  bearer?: string;
  signal?: AbortSignal | undefined;
}

export interface Answer<T> {
  status: number;
  body: T;
  /** True where the server replayed what an earlier request with the same key had done. */
  replayed: boolean;
}

export class ApiService {
  readonly clock: ServerClock;

  constructor(private readonly options: ApiOptions = {}) {
    this.clock = options.clock ?? new ServerClock();
  }

  async balance(signal?: AbortSignal): Promise<Balance> {
    return (await this.request<Balance>("GET", "/api/v1/balance", { signal })).body;
  }

  async earnings(signal?: AbortSignal): Promise<Balance> {
    return (await this.request<Balance>("GET", "/api/v1/earnings", { signal })).body;
  }

  async transactions(page: PageRequest = {}): Promise<Page<Transaction>> {
    return (await this.request<Page<Transaction>>("GET", "/api/v1/transactions", paged(page))).body;
  }

  async calls(page: PageRequest = {}): Promise<Page<Call>> {
    return (await this.request<Page<Call>>("GET", "/api/v1/calls", paged(page))).body;
  }

  async call(callId: string, signal?: AbortSignal): Promise<Call> {
    const path = `/api/v1/calls/${encodeURIComponent(callId)}`;
    return (await this.request<{ call: Call }>("GET", path, { signal })).body.call;
  }

  async endCall(callId: string): Promise<void> {
    await this.request("POST", `/api/v1/calls/${encodeURIComponent(callId)}/end`);
  }

  async online(limit = 50, signal?: AbortSignal): Promise<OnlineUsers> {
    return (await this.request<OnlineUsers>("GET", "/api/v1/users/online", { query: { limit }, signal })).body;
  }

  async me(signal?: AbortSignal): Promise<Me> {
    return (await this.request<Me>("GET", "/api/v1/me", { signal })).body;
  }

  async setRate(tokensPerPeriod: number): Promise<void> {
    await this.request("PUT", "/api/v1/me/rate", { body: { tokensPerPeriod } });
  }

  async purchase(purchaseId: string, signal?: AbortSignal): Promise<Purchase> {
    const path = `/api/v1/payments/purchases/${encodeURIComponent(purchaseId)}`;
    return (await this.request<Purchase>("GET", path, { signal })).body;
  }

  async opsOverview(signal?: AbortSignal): Promise<OpsOverview> {
    return (await this.request<OpsOverview>("GET", "/api/v1/ops/overview", { signal })).body;
  }

  /** Any route of the server. Throws ApiError for a refusal and NoAnswer where none came. */
  async request<T>(method: string, path: string, options: RequestOptions = {}): Promise<Answer<T>> {
    try {
      return await this.#once<T>(method, path, options);
    } catch (error) {
      // Another tab may have signed in anew: its session has another CSRF token, and this one may simply fetch it.
      const stale = error instanceof ApiError && error.status === 403 && error.code.includes("csrf");
      if (stale && (await this.options.renewCsrf?.())) return this.#once<T>(method, path, options);
      throw error;
    }
  }

  async #once<T>(method: string, path: string, options: RequestOptions): Promise<Answer<T>> {
    const { fetch: send = fetch, baseUrl = "" } = this.options;
    const sentAt = this.clock.localNow();
    let response: Response;
    let text: string;
    try {
      response = await send(baseUrl + path + queryString(options.query), {
        method,
        headers: this.#headers(method, options),
        credentials: baseUrl === "" ? "same-origin" : "include",
        ...(options.body === undefined ? {} : { body: JSON.stringify(options.body) }),
        ...(options.signal === undefined ? {} : { signal: options.signal }),
      });
      this.clock.observe(response.headers.get("Date"), sentAt, this.clock.localNow());
      text = await response.text();
    } catch (error) {
      if (options.signal?.aborted) throw error;
      throw new NoAnswer("The server could not be reached.", { cause: error });
    }
    if (!response.ok) throw this.#refusal(response, text);
    const body = bodyIn(text) as T;
    return { status: response.status, body, replayed: response.headers.get("Idempotency-Replayed") === "true" };
  }

  #headers(method: string, { body, idempotencyKey, bearer }: RequestOptions): Record<string, string> {
    const token = bearer ?? this.options.token?.();
    const csrf = method === "GET" ? undefined : this.options.csrfToken?.();
    return {
      Accept: "application/json, application/problem+json",
      ...(body === undefined ? {} : { "Content-Type": "application/json" }),
      ...(idempotencyKey === undefined ? {} : { "Idempotency-Key": idempotencyKey }),
      ...(token === undefined ? {} : { Authorization: `Bearer ${token}` }),
      ...(csrf === undefined ? {} : { "X-CSRF-Token": csrf }),
    };
  }

  #refusal(response: Response, text: string): ApiError {
    if (response.status === 401) this.options.onUnauthenticated?.();
    const problem = problemIn(text);
    const header = Number(response.headers.get("Retry-After"));
    if (typeof problem["retryAfter"] !== "number" && header > 0) problem["retryAfter"] = header;
    const code = typeof problem["code"] === "string" ? problem["code"] : `http_${response.status}`;
    const message = [problem["detail"], problem["title"]].find((part) => typeof part === "string" && part !== "");
    return new ApiError(response.status, code, String(message ?? `The server answered ${response.status}.`), problem);
  }
}

export interface PageRequest {
  cursor?: string | undefined;
  limit?: number;
  signal?: AbortSignal | undefined;
}

function paged({ cursor, limit = 25, signal }: PageRequest): RequestOptions {
  return { query: { cursor, limit }, signal };
}

function queryString(query: RequestOptions["query"] = {}): string {
  const given = Object.entries(query).filter(([, value]) => value !== undefined);
  return given.length === 0 ? "" : `?${new URLSearchParams(given.map(([name, value]) => [name, String(value)]))}`;
}

/** A success that cannot be read is not our server's (a captive portal's page, say), which may have acted or not. */
function bodyIn(text: string): unknown {
  if (text === "") return undefined;
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new NoAnswer("The server's answer could not be read.", { cause: error });
  }
}

function problemIn(text: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" && value !== null ? (value as Record<string, unknown>) : {};
  } catch {
    return {}; // a proxy's HTML page, say
  }
}
