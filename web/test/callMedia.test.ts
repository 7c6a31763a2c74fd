import { beforeEach, describe, expect, test, vi } from "vitest";
import { CallMedia, type CallState } from "../src/client";
import { aCall, aGrant } from "./fakes";

/** The Agora SDK as far as a call needs it: what it was asked is written down. */
const sdk = vi.hoisted(() => {
  const said: unknown[][] = [];
  const listeners = new Map<string, (...details: unknown[]) => void>();
  const track = (kind: string) => ({
    play: () => undefined,
    close: () => said.push(["close", kind]),
    setMuted: () => Promise.resolve(),
  });
  const client = {
    on: (event: string, listener: (...details: unknown[]) => void) => listeners.set(event, listener),
    removeAllListeners: () => listeners.clear(),
    join: (...details: unknown[]) => Promise.resolve(void said.push(["join", ...details])),
    publish: () => Promise.resolve(void said.push(["publish"])),
    renewToken: (token: string) => Promise.resolve(void said.push(["renewToken", token])),
    leave: () => Promise.resolve(void said.push(["leave"])),
  };
  const AgoraRTC = {
    createMicrophoneAudioTrack: () => Promise.resolve(track("audio")),
    createCameraVideoTrack: () => Promise.resolve(track("video")),
  };
  return { said, listeners, client, AgoraRTC };
});
vi.mock("../src/client/agoraLazyLoader", () => ({
  createAgoraClient: () => Promise.resolve(sdk.client),
  loadAgoraRTC: () => Promise.resolve(sdk.AgoraRTC),
  preloadAgoraSDKs: () => undefined,
}));

const carried = (agora = aGrant(70)): CallState => ({
  phase: "active",
  call: aCall(),
  here: true,
  agora,
  graceMs: 10_000,
});

describe("sound and picture of a call", () => {
  const needToken = vi.fn(() => Promise.resolve(aGrant(190)));
  const displaced = vi.fn<() => void>();
  let media: CallMedia;
  beforeEach(() => {
    sdk.said.length = 0;
    sdk.listeners.clear();
    displaced.mockReset();
    media = new CallMedia({ configured: true, needToken, displaced });
  });

  const settled = (said: unknown[][]) => vi.waitFor(() => expect(sdk.said).toEqual(said));
  const joined = [["join", "app", "c1", "token-70", 1], ["publish"]];

  test("joins once, renews with each new token and leaves when the call is over", async () => {
    media.follow(carried());
    media.follow(carried());
    media.follow(carried(aGrant(130)));
    media.follow(carried(aGrant(190)));
    media.follow({ phase: "ended", call: aCall({ status: "ended" }), here: true });
    await settled([
      ...joined,
      ["renewToken", "token-130"],
      ["renewToken", "token-190"],
      ["close", "audio"],
      ["close", "video"],
      ["leave"],
    ]);
    expect(media.state.get().status).toBe("off");
  });

  test("a call that ends while the SDK still loads is left all the same", async () => {
    media.follow(carried());
    media.follow({ phase: "ended", call: aCall({ status: "ended" }), here: true });
    await vi.waitFor(() => expect(sdk.said.at(-1)).toEqual(["leave"]));
  });

  test("a call that is carried elsewhere is not joined, until it is moved here", async () => {
    media.follow({ phase: "active", call: aCall(), here: false, agora: undefined, graceMs: 0 });
    media.follow(carried());
    await settled(joined);
  });

  test("a token that is about to run out is renewed from the server", async () => {
    media.follow(carried());
    await settled(joined);
    sdk.listeners.get("token-privilege-will-expire")?.();
    await settled([...joined, ["renewToken", "token-190"]]);
  });

  test("put out for another tab of the same user, it says so", async () => {
    media.follow(carried());
    await settled(joined);
    sdk.listeners.get("connection-state-change")?.("DISCONNECTED", "CONNECTED", "UID_CONFLICT");
    expect(displaced).toHaveBeenCalledOnce();
  });

  test("where the server has no Agora project nothing is loaded, and that is said", () => {
    media = new CallMedia({ configured: false, needToken, displaced });
    media.follow(carried());
    expect(media.state.get().status).toBe("unconfigured");
    expect(sdk.said).toEqual([]);
  });
});
