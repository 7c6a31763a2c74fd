/**
 * A user's call as one tab lives it: commands out, events in, one state to show.
 *
 * Which tab carries a call is the tab's own knowledge: it marks the call in its session storage, so that a reload joins
 * again, and tells the browser's other tabs when it takes a call over.
 */
import { ApiError, type ApiService } from "./api";
import { preloadAgoraSDKs } from "./agoraLazyLoader";
import { CallMedia } from "./callMedia";
import { callOf, idle, nextCallState, type CallEvent, type CallState } from "./callState";
import { CommandError, type CallSocket } from "./socket";
import { Store } from "./store";
import type { AgoraGrant, Call } from "./wire";

const mark = "callmeter.call";

export interface CallServiceOptions {
  userId: string;
  /** Whether the server has an Agora project: without one calls are metered, and have no sound and picture. */
  agoraConfigured?: boolean;
  storage?: Pick<Storage, "getItem" | "setItem" | "removeItem">;
  /** Milliseconds after which a call that could not be asked about is asked about again. */
  readAgainMs?: number;
}

export class CallService {
  readonly state = new Store<CallState>(idle);
  readonly media: CallMedia;
  readonly #storage: Pick<Storage, "getItem" | "setItem" | "removeItem">;
  #tabs: BroadcastChannel | undefined;
  readonly #stops: (() => void)[] = [];
  /** One request id for each call this tab means to start, so that asking twice starts one. */
  #starting: { calleeId: string; requestId: string } | undefined;
  #joining: string | undefined;
  #reading: ReturnType<typeof setTimeout> | undefined;

  constructor(
    private readonly socket: CallSocket,
    private readonly api: ApiService,
    private readonly options: CallServiceOptions,
  ) {
    this.#storage = options.storage ?? sessionStorage;
    this.media = new CallMedia({
      configured: this.#hasAgora,
      needToken: () => this.#freshGrant(),
      displaced: () => this.#giveUp(),
    });
  }

  /** Starts listening to the socket and to the browser's other tabs. */
  open(): void {
    const { socket } = this;
    const { userId } = this.options;
    this.#stops.push(
      socket.on("call:incoming", ({ call }) => {
        this.#preload();
        this.#happened({ type: "ringing", call, userId, here: this.#isMarked(call.id) });
      }),
      socket.on("call:accepted", ({ call }) => {
        this.#happened({ type: "accepted", call });
        this.#carryOn(call.id);
      }),
      socket.on("call:ended", ({ call }) => this.#happened({ type: "ended", call })),
      socket.on("balance:update", ({ reason }) => {
        if (reason === "snapshot") this.#readShown();
      }),
      socket.on("call:token", ({ callId, agora }) => this.#happened({ type: "token", callId, agora })),
      socket.onConnect(() => this.#comeBack()),
    );
    this.#tabs = new BroadcastChannel(`callmeter.calls.${userId}`);
    this.#tabs.onmessage = ({ data }: MessageEvent<{ taken: string }>) => {
      this.#unmark(data.taken);
      this.#happened({ type: "taken", callId: data.taken });
    };
  }

  /** Rings someone. The same again, while unanswered, is the same call. */
  async start(calleeId: string): Promise<void> {
    this.#preload();
    let call = await this.#ring(calleeId);
    // What an earlier click started without hearing of it is over by now; this click means another call.
    if (call.status === "ended") call = await this.#ring(calleeId);
    this.#storage.setItem(mark, call.id);
    if (call.status === "ringing") this.#happened({ type: "ringing", call, userId: this.options.userId, here: true });
    else this.#stands(call);
    // Answered before this answer came, it was not yet known to be this tab's call.
    this.#carryOn(call.id);
  }

  async accept(callId: string): Promise<void> {
    this.#joining = callId;
    try {
      const { call, agora } = await this.#ask("call:accept", callId);
      this.#carry(call, agora);
    } finally {
      this.#joining = undefined;
    }
  }

  /** Makes this tab the one that carries the call: the caller's after accept, after a reload, or from another tab. */
  async join(callId: string): Promise<void> {
    if (this.#joining === callId) return;
    this.#joining = callId;
    try {
      const { call, agora } = await this.#ask("call:join", callId);
      this.#carry(call, agora);
    } finally {
      this.#joining = undefined;
    }
  }

  async decline(callId: string): Promise<void> {
    this.#happened({ type: "ended", call: (await this.socket.command("call:decline", { callId })).call });
  }

  async cancel(callId: string): Promise<void> {
    this.#happened({ type: "ended", call: (await this.socket.command("call:cancel", { callId })).call });
  }

  /** Ends the call, over HTTP where the socket gives no answer: hanging up must work while the meter runs. */
  async end(callId: string): Promise<void> {
    try {
      this.#happened({ type: "ended", call: (await this.socket.command("call:end", { callId })).call });
    } catch (error) {
      if (!(error instanceof CommandError) || error.code !== "no_answer") throw error;
      await this.api.endCall(callId);
      this.#happened({ type: "ended", call: await this.api.call(callId) });
    }
  }

  /** Puts the summary of an ended call away. */
  dismiss(): void {
    this.#happened({ type: "dismissed" });
  }

  /** Stops listening, and carries the call no longer. The server's grace runs until another tab joins. */
  close(): void {
    for (const stop of this.#stops.splice(0)) stop();
    clearTimeout(this.#reading);
    this.#tabs?.close();
    this.media.follow(idle);
  }

  get #hasAgora(): boolean {
    return this.options.agoraConfigured ?? true;
  }

  #preload(): void {
    if (this.#hasAgora) preloadAgoraSDKs();
  }

  #happened(event: CallEvent): void {
    const before = this.state.get();
    const after = nextCallState(before, event);
    if (after === before) return;
    if (after.phase === "ended") this.#unmark(after.call.id);
    this.state.set(after);
    this.media.follow(after);
  }

  /** Brings the state in line with an answered or ended call that was asked about; ringing says nothing new. */
  #stands(call: Call): void {
    if (call.status === "ended") this.#happened({ type: "ended", call });
    if (call.status === "active") this.#happened({ type: "accepted", call });
  }

  /** Starts a call, and gives the one started before where no answer told of it. */
  async #ring(calleeId: string): Promise<Call> {
    if (this.#starting?.calleeId !== calleeId) this.#starting = { calleeId, requestId: crypto.randomUUID() };
    try {
      const { call } = await this.socket.command("call:start", this.#starting);
      this.#starting = undefined;
      return call;
    } catch (error) {
      if (!(error instanceof CommandError) || error.code !== "no_answer") this.#starting = undefined;
      throw error;
    }
  }

  /** Joins an answered call that the mark says is this tab's, where the state does not know it yet. */
  #carryOn(callId: string): void {
    const state = this.state.get();
    if (state.phase !== "active" || state.here || state.call.id !== callId || !this.#isMarked(callId)) return;
    void this.#rejoin(callId);
  }

  #carry(call: Call, agora: AgoraGrant): void {
    this.#storage.setItem(mark, call.id);
    this.#tabs?.postMessage({ taken: call.id });
    this.#happened({ type: "joined", call, agora });
  }

  async #rejoin(callId: string): Promise<void> {
    try {
      await this.join(callId);
    } catch {
      // The call ended meanwhile, or the connection is gone: the next connect tries again or learns of the end.
    }
  }

  /** Asks for a way into a call. Refused as ended, the call is read: this tab missed its end, and still shows it. */
  async #ask<Name extends "call:accept" | "call:join" | "call:renew">(name: Name, callId: string) {
    try {
      return await this.socket.command(name, { callId });
    } catch (error) {
      if (error instanceof CommandError && error.code === "call_ended") void this.#read(callId);
      throw error;
    }
  }

  /** After a reconnect the server does not know that this socket carries the call. */
  #comeBack(): void {
    const state = this.state.get();
    if (state.phase === "active" && state.here) void this.#rejoin(state.call.id);
  }

  /**
   * A snapshot comes after every connect, and where pushes may have been missed without one. It tells of a call that
   * goes on, and is silent about the end of the one shown here.
   */
  #readShown(): void {
    const state = this.state.get();
    if (state.phase !== "idle" && state.phase !== "ended") void this.#read(state.call.id);
  }

  /** How a call stands, asked until somebody says: one that has ended must not be shown as going on. */
  async #read(callId: string): Promise<void> {
    clearTimeout(this.#reading);
    let call: Call;
    try {
      call = await this.api.call(callId);
    } catch (error) {
      if (error instanceof ApiError && error.status < 500) return;
      if (this.#stops.length > 0 && callOf(this.state.get())?.id === callId) {
        this.#reading = setTimeout(() => void this.#read(callId), this.options.readAgainMs ?? 3_000);
      }
      return;
    }
    if (callOf(this.state.get())?.id !== callId) return; // another call is shown by now
    this.#stands(call);
  }

  async #freshGrant(): Promise<AgoraGrant | undefined> {
    const call = callOf(this.state.get());
    return call ? (await this.#ask("call:renew", call.id)).agora : undefined;
  }

  #giveUp(): void {
    const call = callOf(this.state.get());
    if (!call) return;
    this.#unmark(call.id);
    this.#happened({ type: "taken", callId: call.id });
  }

  #isMarked(callId: string): boolean {
    return this.#storage.getItem(mark) === callId;
  }

  #unmark(callId: string): void {
    if (this.#isMarked(callId)) this.#storage.removeItem(mark);
  }
}
