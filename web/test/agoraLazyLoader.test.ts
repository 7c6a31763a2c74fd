import { beforeEach, describe, expect, test, vi } from "vitest";

const sdk = vi.hoisted(() => ({
  loads: 0,
  AgoraRTC: { setLogLevel: vi.fn<() => void>(), createClient: (config: object) => ({ config }) },
}));

vi.mock("../src/client/agoraSdk", () => {
  sdk.loads++;
  return { default: sdk.AgoraRTC };
});

describe("the Agora SDK", () => {
  beforeEach(() => {
    vi.resetModules();
    sdk.loads = 0;
  });

  test("is not loaded by importing the client", async () => {
    await import("../src/client");
    expect(sdk.loads).toBe(0);
  });

  test("is loaded once, however often it is asked for", async () => {
    const { createAgoraClient, loadAgoraRTC, preloadAgoraSDKs } = await import("../src/client");
    preloadAgoraSDKs();
    const [first, second] = await Promise.all([loadAgoraRTC(), loadAgoraRTC()]);
    expect(first).toBe(second);
    expect(await createAgoraClient()).toEqual({ config: { mode: "rtc", codec: "vp8" } });
    expect(sdk.loads).toBe(1);
  });

  test("that failed to load is tried again the next time", async () => {
    const { loadAgoraRTC } = await import("../src/client");
    sdk.AgoraRTC.setLogLevel.mockImplementationOnce(() => {
      throw new Error("this browser is not supported");
    });
    await expect(loadAgoraRTC()).rejects.toThrow("not supported");
    await expect(loadAgoraRTC()).resolves.toBe(sdk.AgoraRTC);
  });
});
