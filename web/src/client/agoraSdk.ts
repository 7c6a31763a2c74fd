/** The SDK's own chunk: nothing but the dynamic import in agoraLazyLoader may name this module. */
export { default } from "agora-rtc-sdk-ng";
