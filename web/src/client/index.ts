/** What an app builds on: the services, and the React hooks over them. */
export { ApiError, ApiService, NoAnswer, type ApiOptions } from "./api";
export { createAgoraClient, loadAgoraRTC, preloadAgoraSDKs } from "./agoraLazyLoader";
export { CallMedia, type MediaState } from "./callMedia";
export { CallService } from "./calls";
export { nextCallState, type CallEvent, type CallState } from "./callState";
export { ServerClock } from "./clock";
export { deliver, IntentStore, IntentUnanswered, type Intent } from "./intents";
export { readMeter, type MeterReading } from "./meter";
export { PaymentFormError, type PaymentForm, type PaymentProvider } from "./payments/provider";
export { PurchaseService, type PurchaseOutcome, type PurchaseStep } from "./purchases";
export { newTill, oldTill, tillOf, type Till } from "./till";
export { queryKeys, syncQueries } from "./querySync";
export { CallMeterProvider, useCallMeter, useStore } from "./react/CallMeterProvider";
export * from "./react/hooks";
export { SessionService } from "./session";
export { CallSocket, CommandError, type Connection } from "./socket";
export type * from "./wire";
