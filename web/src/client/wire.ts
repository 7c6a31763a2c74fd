/** What travels between this client and the server, generated from the server's documents, under shorter names. */
import type { components as Http } from "./generated/http";
import type { components as Socket } from "./generated/socket";
import type { Commands as DocumentedCommands, Events as DocumentedEvents } from "./generated/socket";

type HttpSchemas = Http["schemas"];
type SocketSchemas = Socket["schemas"];

export type Call = HttpSchemas["CallAnswer"];
export type AgoraGrant = SocketSchemas["AgoraAccess"];
export type Balance = HttpSchemas["Balance"];
export type BalanceUpdate = SocketSchemas["BalanceUpdate"];
export type BalanceLow = SocketSchemas["BalanceLow"];
export type Transaction = HttpSchemas["Transaction"];
export type Me = HttpSchemas["Me"];
export type PublicConfig = HttpSchemas["ClientConfig"];
export type Session = HttpSchemas["SessionState"];
export type Refused = SocketSchemas["Refused"];
export interface Page<T> {
  items: T[];
  nextCursor: string | null;
}
export interface OnlineUser {
  userId: string;
  ratePerPeriod: number;
  inCall: boolean;
}
export interface OnlineUsers {
  users: OnlineUser[];
  queryKey: string[];
}
export interface PurchaseRequest {
  amountInCents: number;
  paymentMethodId: string;
}
export interface Purchase {
  purchaseId: string;
  status: "succeeded" | "requires_action" | "processing" | "failed" | (string & {});
  tokens?: number;
  balance?: number;
  version?: number;
  clientSecret?: string | null;
}
export interface OpsOverview {
  at: string;
  instances: { id: string; tabs: number; users: number }[];
  calls: { ringing: number; active: number };
  meter: { debitsPerSecond: number; dueLagSeconds: number };
  trialBalance: { kind: string; unit: string; balance: number }[];
  purchases: { pending: number };
  jobs: { failed: number };
  cspReports: { lastHour: number };
}

/** Client to server: payload and acknowledgement. */
export type Commands = DocumentedCommands & {
  "ops:watch": { payload: Record<string, never>; answer: { ok: true } };
};

/** Server to client. */
export type Events = DocumentedEvents & { "ops:update": OpsOverview };
