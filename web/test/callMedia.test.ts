import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { CallMedia, type AgoraGrant, type CallState } from "../src/client";
import { aCall, aGrant } from "./fakes";

/** The Agora SDK as far as a call needs it: what it was asked is written down. */
const sdk = vi.hoisted(() => {
  const said: unknown[][] = [];
  const reach: Record<"sdk" | "agora" | "devices", Promise<void>> = {
    sdk: Promise.resolve(),
    agora: Promise.resolve(),
    devices: Promise.resolve(),
  };
  const listeners = new Map<string, (...details: unknown[]) => void>();
  const track = (kind: string) => ({
    play: () => undefined,
    close: () => said.push(["close", kind]),
    setMuted: () => Promise.resolve(),
  });
  const client = {
    on: (event: string, listener: (...details: unknown[]) => void) => listeners.set(event, listener),
    removeAllListeners: () => listeners.clear(),
    join: (...details: unknown[]) => {
      said.push(["join", ...details]);
      return reach.agora;
    },
    publish: () => Promise.resolve(void said.push(["publish"])),
    renewToken: (token: string) => Promise.resolve(void said.push(["renewToken", token])),
    leave: () => Promise.resolve(void said.push(["leave"])),
  };
  const AgoraRTC = {
    createMicrophoneAudioTrack: () => reach.devices.then(() => track("audio")),
    createCameraVideoTrack: () => reach.devices.then(() => track("video")),
  };
  return { said, reach, listeners, client, AgoraRTC };
});
vi.mock("../src/client/agoraLazyLoader", () => ({
  createAgoraClient: () => sdk.reach.sdk.then(() => sdk.client),
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
    sdk.reach.sdk = Promise.resolve();
    sdk.reach.agora = Promise.resolve();
    sdk.reach.devices = Promise.resolve();
    displaced.mockReset();
    media = new CallMedia({ configured: true, needToken, displaced });
  });

  const settled = (said: unknown[][]) => vi.waitFor(() => expect(sdk.said).toEqual(said));
  const join = ["join", "app", "c1", "token-70", 1];
  const joined = [join, ["publish"]];

  test("joins once, renews with each new token and leaves when the call is over", async () => {
    media.follow(carried());
    media.follow(carried());
    await settled(joined);
    media.follow(carried(aGrant(130)));
    await settled([...joined, ["renewToken", "token-130"]]);
    media.follow(carried(aGrant(190)));
    await settled([...joined, ["renewToken", "token-130"], ["renewToken", "token-190"]]);
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

  test("a call that ends while the SDK still loads is never joined", async () => {
    let arrive = () => {};
    sdk.reach.sdk = new Promise((resolve) => (arrive = resolve));
    media.follow(carried());
    await vi.waitFor(() => expect(media.state.get().status).toBe("loading"));
    media.follow({ phase: "ended", call: aCall({ status: "ended" }), here: true });
    await vi.waitFor(() => expect(media.state.get().status).toBe("off"));
    arrive();
    // Another call's join comes after whatever the first one still had to do.
    media.follow(carried(aGrant(130)));
    await settled([["join", "app", "c1", "token-130", 1], ["publish"]]);
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

  test("a token that comes only after the call is over is not joined with", async () => {
    let grant: (late: AgoraGrant) => void = () => {};
    needToken.mockImplementationOnce(() => new Promise((resolve) => (grant = resolve)));
    media.follow(carried());
    await settled(joined);
    sdk.listeners.get("token-privilege-will-expire")?.();
    media.follow({ phase: "ended", call: aCall({ status: "ended" }), here: true });
    const left = [...joined, ["close", "audio"], ["close", "video"], ["leave"]];
    await settled(left);
    grant(aGrant(190));
    await new Promise((resolve) => setTimeout(resolve));
    expect(sdk.said).toEqual(left);
    expect(media.state.get().status).toBe("off");
  });

  test("can be tried again where the server had no token to give the time before", async () => {
    needToken.mockImplementationOnce(() => Promise.reject(new Error("no answer")));
    media.follow(carried());
    await settled(joined);
    sdk.listeners.get("token-privilege-did-expire")?.();
    await vi.waitFor(() => expect(media.state.get().status).toBe("unreachable"));
    media.retry();
    await vi.waitFor(() => expect(sdk.said).toContainEqual(["join", "app", "c1", "token-190", 1]));
  });

  test("put out for another tab of the same user, it says so", async () => {
    media.follow(carried());
    await settled(joined);
    sdk.listeners.get("connection-state-change")?.("DISCONNECTED", "CONNECTED", "UID_CONFLICT");
    expect(displaced).toHaveBeenCalledOnce();
  });

  describe("that cannot be reached", () => {
    let arrive: () => void;
    beforeEach(() => {
      vi.useFakeTimers();
      sdk.reach.agora = new Promise((resolve) => (arrive = resolve));
    });
    afterEach(() => {
      vi.useRealTimers();
    });
    const status = () => media.state.get().status;
    const over = aCall({ status: "ended" });

    test("is said after ten seconds, though the SDK tries for ever, and taken back when it comes after all", async () => {
      media.follow(carried());
      await vi.advanceTimersByTimeAsync(9_999);
      expect(status()).toBe("joining");
      await vi.advanceTimersByTimeAsync(1);
      expect(status()).toBe("unreachable");
      arrive();
      await vi.advanceTimersByTimeAsync(0);
      expect(status()).toBe("connected");
      expect(sdk.said).toEqual(joined);
    });

    test("is left at once when the call ends", async () => {
      media.follow(carried());
      await vi.advanceTimersByTimeAsync(60_000);
      media.follow({ phase: "ended", call: over, here: true });
      await vi.advanceTimersByTimeAsync(0);
      expect(sdk.said).toEqual([join, ["leave"]]);
      expect(status()).toBe("off");
    });

    test("is tried with the newest token, for that of a join may run out while it is waited for", async () => {
      media.follow(carried());
      await vi.advanceTimersByTimeAsync(5_000);
      media.follow(carried(aGrant(130)));
      await vi.advanceTimersByTimeAsync(55_000);
      media.follow(carried(aGrant(190)));
      await vi.advanceTimersByTimeAsync(0);
      expect(sdk.said).toEqual([join, ["leave"], ["join", "app", "c1", "token-190", 1]]);
      media.follow({ phase: "ended", call: over, here: true });
      await vi.advanceTimersByTimeAsync(0);
    });
  });

  test("devices that the browser hands over only after the call is over are let go", async () => {
    let allow = () => {};
    sdk.reach.devices = new Promise((resolve) => (allow = resolve));
    media.follow(carried());
    await settled([join]);
    await vi.waitFor(() => expect(media.state.get().status).toBe("connected"));
    media.follow({ phase: "ended", call: aCall({ status: "ended" }), here: true });
    await settled([join, ["leave"]]);
    allow();
    await settled([join, ["leave"], ["close", "audio"], ["close", "video"]]);
  });

  test("where the server has no Agora project nothing is loaded, and that is said", () => {
    media = new CallMedia({ configured: false, needToken, displaced });
    media.follow(carried());
    expect(media.state.get().status).toBe("unconfigured");
    expect(sdk.said).toEqual([]);
  });
});
