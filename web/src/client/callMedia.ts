/**
 * Sound and picture of the call this tab carries.
 *
 * `follow` is told of every call state and brings Agora in line with it: join with the first token, renew with each
 * next one, leave when the call is over or moved to another tab. Steps run one after another, so that a leave never
 * overtakes the join it undoes.
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
  /** The SDK could not be fetched, or Agora not be reached. */
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

export class CallMedia {
  readonly state = new Store<MediaState>(silent);
  #client: IAgoraRTCClient | undefined;
  #grant: AgoraGrant | undefined;
  #microphone: IMicrophoneAudioTrack | undefined;
  #camera: ICameraVideoTrack | undefined;
  #remote: IAgoraRTCRemoteUser | undefined;
  #localStage: HTMLElement | undefined;
  #remoteStage: HTMLElement | undefined;
  #steps: Promise<void> = Promise.resolve();

  constructor(private readonly hooks: MediaHooks) {}

  follow(call: CallState): void {
    if (call.phase !== "active" || !call.here) return this.#then(() => this.#leave());
    const { agora } = call;
    if (!this.hooks.configured) return this.#patch({ status: "unconfigured" });
    if (agora) this.#then(() => this.#use(agora));
  }

  /** Tries again after `unreachable`. */
  retry(): void {
    const grant = this.#grant;
    if (!grant) return;
    this.#then(async () => {
      await this.#leave();
      await this.#use((await this.hooks.needToken()) ?? grant);
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
    this.#steps = this.#steps.then(step).catch(() => this.#patch({ status: "unreachable" }));
  }

  async #use(grant: AgoraGrant): Promise<void> {
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
    this.#patch({ status: "loading" });
    const client = await createAgoraClient();
    this.#client = client;
    this.#listen(client);
    this.#patch({ status: "joining" });
    try {
      await client.join(grant.appId, grant.channel, grant.token, grant.uid);
    } catch (error) {
      client.removeAllListeners();
      this.#client = undefined;
      throw error;
    }
    this.#patch({ status: "connected" });
    await this.#publish(client);
  }

  /** A person without a camera, or who refuses it, still has a call: each device stands for itself. */
  async #publish(client: IAgoraRTCClient): Promise<void> {
    const AgoraRTC = await loadAgoraRTC();
    AgoraRTC.onAutoplayFailed = () => this.#patch({ soundBlocked: true });
    const [microphone, camera] = await Promise.allSettled([
      AgoraRTC.createMicrophoneAudioTrack({ AEC: true, ANS: true }),
      AgoraRTC.createCameraVideoTrack({ encoderConfig: "720p_2" }),
    ]);
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
    const grant = await this.hooks.needToken();
    if (grant) this.#then(() => this.#use(grant));
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

const displacing: ReadonlySet<unknown> = new Set(["UID_CONFLICT", "UID_BANNED"]);

function deviceState(created: PromiseSettledResult<unknown>): DeviceState {
  if (created.status === "fulfilled") return "on";
  const code = (created.reason as { code?: string; name?: string } | undefined)?.code;
  return code === "PERMISSION_DENIED" ? "denied" : "missing";
}

/** Someone who left between publishing and our subscribing is told of by `user-left`. */
function ignoreGoneUser(): void {}
