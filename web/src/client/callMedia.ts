/**
 * Sound and picture of the call this tab carries.
 *
 * `follow` is told of every call state and brings Agora in line with it: join with the first token, renew with each
 * next one, leave when the call is over or moved to another tab. Steps run one after another, so that a leave never
 * overtakes the join it undoes; a join that is not wanted any more is called off rather than waited for, because the SDK
 * tries to reach Agora for ever.
 */
import type { IAgoraRTCClient, IAgoraRTCRemoteUser, ICameraVideoTrack, IMicrophoneAudioTrack } from "agora-rtc-sdk-ng";
import { createAgoraClient, loadAgoraRTC } from "./agoraLazyLoader";
import type { CallState } from "./callState";
import { Store } from "./store";
import type { AgoraGrant } from "./wire";

export type MediaStatus =
  | "off"
  /** The server has no Agora project: calls are metered without sound and picture. */
  | "unconfigured"
  | "loading"
  | "joining"
  | "connected"
  | "reconnecting"
  /** The SDK could not be fetched, or Agora not be reached; it may still be tried. */
  | "unreachable";

export interface MediaState {
  status: MediaStatus;
  microphone: DeviceState;
  camera: DeviceState;
  remote: { present: boolean; picture: boolean; sound: boolean };
  /** The browser held the sound back until the page is touched. */
  soundBlocked: boolean;
}

/** `denied`: the browser or the person said no; `missing`: there is none, or another program has it. */
export type DeviceState = "on" | "off" | "denied" | "missing" | "idle";

const silent: MediaState = {
  status: "off",
  microphone: "idle",
  camera: "idle",
  remote: { present: false, picture: false, sound: false },
  soundBlocked: false,
};

export interface MediaHooks {
  configured: boolean;
  /** Agora says that the token is about to run out, or has: ask the server for one while the call is paid. */
  needToken: () => Promise<AgoraGrant | undefined>;
  /** Agora put this client out for another one of the same user: the call is carried elsewhere now. */
  displaced: () => void;
}

/** How long sound and picture may take to connect before the page says that they don't. */
const patienceMs = 10_000;

export class CallMedia {
  readonly state = new Store<MediaState>(silent);
  #client: IAgoraRTCClient | undefined;
  /** What the client joined with, and the newest there is while the call is carried here. */
  #grant: AgoraGrant | undefined;
  #newest: AgoraGrant | undefined;
  /** The join under way. */
  #attempt: AbortController | undefined;
  #microphone: IMicrophoneAudioTrack | undefined;
  #camera: ICameraVideoTrack | undefined;
  #remote: IAgoraRTCRemoteUser | undefined;
  #localStage: HTMLElement | undefined;
  #remoteStage: HTMLElement | undefined;
  #steps: Promise<void> = Promise.resolve();

  constructor(private readonly hooks: MediaHooks) {}

  follow(call: CallState): void {
    if (call.phase !== "active" || !call.here) {
      this.#newest = undefined;
      this.#attempt?.abort();
      return this.#then(() => this.#leave());
    }
    if (!this.hooks.configured) return this.#patch({ status: "unconfigured" });
    if (!call.agora) return;
    this.#newest = call.agora;
    // A join that does not come through goes on with the newest token: its own may have run out meanwhile.
    if (this.state.get().status === "unreachable") this.#attempt?.abort();
    this.#then(() => this.#use(this.#newest));
  }

  /** Tries again after `unreachable`. */
  retry(): void {
    if (!this.#newest) return;
    this.#attempt?.abort();
    this.#then(async () => {
      await this.#leave();
      await this.#ask();
      await this.#use(this.#newest);
    });
  }

  /** The elements that show the pictures; undefined when they go away. */
  showLocalIn(stage: HTMLElement | undefined): void {
    this.#localStage = stage;
    if (stage) this.#camera?.play(stage, { fit: "cover", mirror: true });
  }

  showRemoteIn(stage: HTMLElement | undefined): void {
    this.#remoteStage = stage;
    if (stage) this.#remote?.videoTrack?.play(stage, { fit: "cover" });
  }

  async toggleMicrophone(): Promise<void> {
    const on = this.state.get().microphone !== "on";
    await this.#microphone?.setMuted(!on);
    if (this.#microphone) this.#patch({ microphone: on ? "on" : "off" });
  }

  async toggleCamera(): Promise<void> {
    const on = this.state.get().camera !== "on";
    await this.#camera?.setMuted(!on);
    if (this.#camera) this.#patch({ camera: on ? "on" : "off" });
  }

  /** Plays what the browser held back; call it from a click. */
  unblockSound(): void {
    this.#remote?.audioTrack?.play();
    this.#patch({ soundBlocked: false });
  }

  #then(step: () => Promise<void>): void {
    this.#steps = this.#steps.then(step).catch((error: unknown) => {
      if (!isCalledOff(error)) this.#patch({ status: "unreachable" });
    });
  }

  async #use(grant: AgoraGrant | undefined): Promise<void> {
    if (!grant) return;
    if (this.#client && this.#grant?.channel === grant.channel) {
      if (grant.token === this.#grant.token) return;
      this.#grant = grant;
      // Refused while the connection is down; the SDK then says `will-expire`, and the token is asked for again.
      return this.#client.renewToken(grant.token).catch(() => undefined);
    }
    await this.#leave();
    this.#grant = grant;
    await this.#join(grant);
  }

  async #join(grant: AgoraGrant): Promise<void> {
    const attempt = new AbortController();
    this.#attempt = attempt;
    try {
      const client = await this.#enter(grant, attempt.signal);
      await unlessCalledOff(this.#publish(client, attempt.signal), attempt.signal);
    } finally {
      this.#attempt = undefined;
    }
  }

  async #enter(grant: AgoraGrant, calledOff: AbortSignal): Promise<IAgoraRTCClient> {
    this.#patch({ status: "loading" });
    const patience = setTimeout(() => this.#patch({ status: "unreachable" }), patienceMs);
    try {
      const client = await unlessCalledOff(createAgoraClient(), calledOff);
      this.#client = client;
      this.#listen(client);
      if (this.state.get().status === "loading") this.#patch({ status: "joining" });
      await unlessCalledOff(client.join(grant.appId, grant.channel, grant.token, grant.uid), calledOff);
      this.#patch({ status: "connected" });
      return client;
    } catch (error) {
      const client = this.#client;
      this.#client = undefined;
      client?.removeAllListeners();
      // Until it is told to leave, the SDK goes on trying.
      void client?.leave().catch(() => undefined);
      throw error;
    } finally {
      clearTimeout(patience);
    }
  }

  /** A person without a camera, or who refuses it, still has a call: each device stands for itself. */
  async #publish(client: IAgoraRTCClient, calledOff: AbortSignal): Promise<void> {
    const AgoraRTC = await loadAgoraRTC();
    AgoraRTC.onAutoplayFailed = () => this.#patch({ soundBlocked: true });
    const [microphone, camera] = await Promise.allSettled([
      AgoraRTC.createMicrophoneAudioTrack({ AEC: true, ANS: true }),
      AgoraRTC.createCameraVideoTrack({ encoderConfig: "720p_2" }),
    ]);
    if (calledOff.aborted) {
      // The person answered the browser's question after the call was over.
      for (const track of [microphone, camera]) if (track.status === "fulfilled") track.value.close();
      return;
    }
    if (microphone.status === "fulfilled") this.#microphone = microphone.value;
    if (camera.status === "fulfilled") this.#camera = camera.value;
    this.#patch({ microphone: deviceState(microphone), camera: deviceState(camera) });
    if (this.#localStage) this.#camera?.play(this.#localStage, { fit: "cover", mirror: true });
    const tracks = [this.#microphone, this.#camera].filter((track) => track !== undefined);
    if (tracks.length > 0) await client.publish(tracks);
  }

  #listen(client: IAgoraRTCClient): void {
    client.on("user-published", (user, kind) => {
      if (kind === "datachannel") return;
      void client.subscribe(user, kind).then(() => {
        this.#remote = user;
        if (kind === "audio") user.audioTrack?.play();
        if (kind === "video" && this.#remoteStage) user.videoTrack?.play(this.#remoteStage, { fit: "cover" });
        this.#seeRemote();
      }, ignoreGoneUser);
    });
    client.on("user-unpublished", () => this.#seeRemote());
    client.on("user-joined", (user) => {
      this.#remote = user;
      this.#seeRemote();
    });
    client.on("user-left", () => {
      this.#remote = undefined;
      this.#seeRemote();
    });
    client.on("connection-state-change", (now, _before, reason) => {
      if (now === "RECONNECTING") this.#patch({ status: "reconnecting" });
      if (now === "CONNECTED") this.#patch({ status: "connected" });
      // Another client of the same user took over, or a kicking rule put this one out.
      if (now === "DISCONNECTED" && displacing.has(reason)) this.hooks.displaced();
    });
    client.on("token-privilege-will-expire", () => void this.#renew().catch(() => undefined));
    // Once run out, a token can't be renewed in place: the channel must be joined anew.
    client.on("token-privilege-did-expire", () => this.retry());
  }

  async #renew(): Promise<void> {
    await this.#ask();
    this.#then(() => this.#use(this.#newest));
  }

  /** Asks the server for a token. One that comes when the call is no longer carried here is of no use. */
  async #ask(): Promise<void> {
    const grant = await this.hooks.needToken();
    if (grant && grant.channel === this.#newest?.channel) this.#newest = grant;
  }

  async #leave(): Promise<void> {
    const client = this.#client;
    this.#client = undefined;
    this.#grant = undefined;
    this.#remote = undefined;
    for (const track of [this.#microphone, this.#camera]) track?.close();
    this.#microphone = undefined;
    this.#camera = undefined;
    this.state.set(silent);
    if (!client) return;
    client.removeAllListeners();
    await client.leave();
  }

  #seeRemote(): void {
    const user = this.#remote;
    this.#patch({
      remote: { present: user !== undefined, picture: user?.hasVideo ?? false, sound: user?.hasAudio ?? false },
    });
  }

  #patch(change: Partial<MediaState>): void {
    this.state.set({ ...this.state.get(), ...change });
  }
}

/** What `work` comes to, or an AbortError as soon as it is called off. */
function unlessCalledOff<T>(work: Promise<T>, calledOff: AbortSignal): Promise<T> {
  const off = new Promise<never>((_, reject) => {
    if (calledOff.aborted) reject(calledOff.reason);
    calledOff.addEventListener("abort", () => reject(calledOff.reason), { once: true });
  });
  return Promise.race([work, off]);
}

function isCalledOff(error: unknown): boolean {
  return error instanceof DOMException && error.name === "AbortError";
}

const displacing: ReadonlySet<unknown> = new Set(["UID_CONFLICT", "UID_BANNED"]);

function deviceState(created: PromiseSettledResult<unknown>): DeviceState {
  if (created.status === "fulfilled") return "on";
  const code = (created.reason as { code?: string; name?: string } | undefined)?.code;
  return code === "PERMISSION_DENIED" ? "denied" : "missing";
}

/** Someone who left between publishing and our subscribing is told of by `user-left`. */
function ignoreGoneUser(): void {}
