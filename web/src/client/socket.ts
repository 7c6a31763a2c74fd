/** The socket side: typed events and commands, reconnecting, and the session behind the connection kept alive. */
import { io, type Socket } from "socket.io-client";
import { Store } from "./store";
import type { Commands, Events, Refused } from "./wire";

/** A command was refused, or (`no_answer`) not acknowledged in time: then whether the server acted is unknown. */
export class CommandError extends Error {
  override readonly name = "CommandError";

  constructor(
    readonly code: string,
    message: string,
    readonly retryAfter?: number,
  ) {
    super(message);
  }
}

/** `offline` means that it is being tried again; `signed_out` that it is not, until `connect` is called. */
export type Connection = "connecting" | "online" | "offline" | "signed_out";

export interface SocketOptions {
  /** Where the server is; the page's own origin unless told. */
  url?: string;
  /** A token for the handshake, for pages without a session cookie; asked for again on every reconnect. */
  token?: () => string | undefined | Promise<string | undefined>;
  /** Called when the server ended or refused the connection: may it be tried again (the session goes on)? */
  mayReconnect?: () => Promise<boolean>;
  /** Milliseconds to wait for an acknowledgement. */
  commandTimeoutMs?: number;
}

type Handler<Name extends keyof Events> = (payload: Events[Name]) => void;

export class CallSocket {
  readonly connection = new Store<Connection>("connecting");
  readonly #socket: Socket;
  readonly #options: SocketOptions;
  #reconnecting: ReturnType<typeof setTimeout> | undefined;

  constructor(options: SocketOptions = {}) {
    this.#options = options;
    const { token } = options;
    this.#socket = io(options.url ?? "", {
      autoConnect: false,
      // WebSocket at once, and polling where a proxy on the way cannot carry it.
      transports: ["websocket", "polling"],
      tryAllTransports: true,
      withCredentials: true,
      reconnectionDelay: 300,
      reconnectionDelayMax: 5_000,
      ...(token && {
        auth: (give: (auth: object) => void) => void Promise.resolve(token()).then((value) => give({ token: value })),
      }),
    });
    this.#socket.on("connect", () => this.connection.set("online"));
    this.#socket.on("connect_error", () => this.#lost());
    this.#socket.on("disconnect", (reason) => {
      if (reason !== "io client disconnect") this.#lost();
    });
    // Told once the login behind this socket has run out: a page with tokens of its own answers with a fresh one, and
    // a session's socket is dropped after a grace, then opened again if the session was renewed meanwhile.
    this.on("auth:expired", () => void this.#renew().catch(() => undefined));
  }

  /** This tab's name on the server, as in `answeredBy`. */
  get id(): string | undefined {
    return this.#socket.id;
  }

  connect(): void {
    this.connection.set("connecting");
    this.#socket.connect();
  }

  close(): void {
    clearTimeout(this.#reconnecting);
    this.#socket.disconnect();
    this.connection.set("signed_out");
  }

  /** Calls `handler` with each event of this name; the answer ends that. */
  on<Name extends keyof Events>(name: Name, handler: Handler<Name>): () => void {
    const listener = handler as (payload: unknown) => void;
    this.#socket.on(name as string, listener);
    return () => this.#socket.off(name as string, listener);
  }

  /** Calls `handler` on every connect and reconnect. */
  onConnect(handler: () => void): () => void {
    this.#socket.on("connect", handler);
    return () => this.#socket.off("connect", handler);
  }

  /** Sends a command and gives what its acknowledgement carries, or throws CommandError. */
  async command<Name extends keyof Commands>(
    name: Name,
    payload: Commands[Name]["payload"],
  ): Promise<Commands[Name]["answer"]> {
    let ack: Commands[Name]["answer"] | Refused;
    try {
      const timed = this.#socket.timeout(this.#options.commandTimeoutMs ?? 8_000);
      ack = (await timed.emitWithAck(name, payload)) as Commands[Name]["answer"] | Refused;
    } catch {
      throw new CommandError("no_answer", "The server did not answer in time.");
    }
    if (!ack.ok) throw new CommandError(ack.error.code, ack.error.message, ack.error.retryAfter);
    return ack;
  }

  /** `active` tells whether the socket tries again by itself; where it doesn't, the server said no. */
  #lost(): void {
    this.connection.set("offline");
    if (!this.#socket.active) void this.#askToReconnect();
  }

  async #askToReconnect(): Promise<void> {
    const may = await (this.#options.mayReconnect?.() ?? Promise.resolve(false)).catch(() => true);
    if (this.connection.get() === "signed_out") return; // closed while it was asked
    if (!may) return this.close();
    clearTimeout(this.#reconnecting);
    this.#reconnecting = setTimeout(() => this.#socket.connect(), 500 + Math.random() * 1_500);
  }

  async #renew(): Promise<void> {
    const token = await this.#options.token?.();
    if (token !== undefined) await this.command("auth:renew", { token });
  }
}
