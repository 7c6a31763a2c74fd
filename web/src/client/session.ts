/**
 * The session by cookie: no token stays within JavaScript's reach.
 *
 * `POST /bff/session` trades a token for an HttpOnly cookie; from then on the page holds only the CSRF token. An app
 * whose own backend signs people in sets the cookie there and calls `refresh` alone.
 */
import { ApiService, type ApiOptions } from "./api";
import { Store } from "./store";
import type { Session } from "./wire";

export class SessionService {
  readonly state = new Store<Session | undefined>(undefined);
  readonly api: ApiService;
  /** How often it was asked who is signed in, and which of those answers `state` is newer than. */
  #asked = 0;
  #known = 0;

  constructor(options: Omit<ApiOptions, "csrfToken" | "renewCsrf" | "onUnauthenticated"> = {}) {
    this.api = new ApiService({
      ...options,
      csrfToken: () => this.#csrf(),
      renewCsrf: async () => {
        const before = this.state.get();
        await this.refresh();
        const now = this.state.get();
        // Where somebody else has signed in, in another tab, what was asked for here is not theirs to ask.
        if (before?.authenticated && now?.authenticated && now.userId !== before.userId) return false;
        return this.#csrf() !== (before?.authenticated ? before.csrfToken : undefined);
      },
      onUnauthenticated: () => this.#forget(),
    });
  }

  /** Asks the server who is signed in, and tells everyone who watches `state`. */
  async refresh(): Promise<Session> {
    const turn = ++this.#asked;
    const { body } = await this.api.request<Session>("GET", "/bff/session");
    // An answer that was overtaken tells of who was signed in before.
    if (turn > this.#known) {
      this.#known = turn;
      this.state.set(body);
    }
    return body;
  }

  /** Signs in with a token the app got from its own backend. */
  async signIn(token: string): Promise<Session> {
    await this.api.request("POST", "/bff/session", { bearer: token, body: {} });
    return this.refresh();
  }

  /** Signs in as anyone: a development server only. */
  async signInForDevelopment(claims: { userId: string; role?: string }): Promise<Session> {
    const { body } = await this.api.request<{ token: string }>("POST", "/dev/login", { body: claims });
    return this.signIn(body.token);
  }

  async signOut(): Promise<void> {
    await this.api.request("DELETE", "/bff/session");
    await this.refresh();
  }

  #csrf(): string | undefined {
    const session = this.state.get();
    return session?.authenticated ? session.csrfToken : undefined;
  }

  #forget(): void {
    this.#known = this.#asked;
    const session = this.state.get();
    if (session?.authenticated) this.state.set({ authenticated: false, config: session.config });
  }
}
