/**
 * The Agora SDK (430 KB gzipped), fetched when a call is near and never by a page without one.
 *
 * `preloadAgoraSDKs` is for the moment a phone rings: the SDK travels while people decide.
 */
import type { ClientConfig, IAgoraRTC, IAgoraRTCClient } from "agora-rtc-sdk-ng";

let loading: Promise<IAgoraRTC> | undefined;

/** The SDK, loaded once; after a failure the next call tries again. */
export function loadAgoraRTC(): Promise<IAgoraRTC> {
  loading ??= import("./agoraSdk")
    .then(({ default: AgoraRTC }) => {
      AgoraRTC.setLogLevel(import.meta.env.DEV ? 2 : 3);
      return AgoraRTC;
    })
    .catch((error: unknown) => {
      loading = undefined;
      throw error;
    });
  return loading;
}

export async function createAgoraClient(
  config: ClientConfig = { mode: "rtc", codec: "vp8" },
): Promise<IAgoraRTCClient> {
  return (await loadAgoraRTC()).createClient(config);
}

/** Starts loading without waiting; a failure shows when the SDK is needed. */
export function preloadAgoraSDKs(): void {
  void loadAgoraRTC().catch(() => undefined);
}
