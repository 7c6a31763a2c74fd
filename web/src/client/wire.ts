/** What travels between this client and the server, by the names the rest of the client uses. */

export type CallStatus = "ringing" | "active" | "ended";
export type EndReason =
  "hangup" | "declined" | "cancelled" | "missed" | "insufficient_funds" | "disconnected" | "failed";

export interface Call {
  id: string;
  channel: string;
  callerId: string;
  calleeId: string;
  status: CallStatus;
  rateTokensPerPeriod: number;
  periodSeconds: number;
  /** ISO 8601 UTC, as are the other times. */
  startedAt: string | null;
  paidThrough: string | null;
  endedAt: string | null;
  endReason: EndReason | null;
  periodsBilled: number;
  tokensSpent: number;
}

export interface AgoraGrant {
  appId: string;
  channel: string;
  uid: number;
  token: string;
  expiresAt: string;
}

export interface Balance {
  balance: number;
  version: number;
  unit: string;
  queryKey: string[];
}

export interface BalanceUpdate {
  balance: number;
  version: number;
  delta: number;
  reason: string;
  callId?: string | null;
  queryKey: string[];
}

export interface BalanceLow {
  balance: number;
  periodsLeft: number;
  callId: string;
}

export interface Transaction {
  id: string;
  type: string;
  amount: number;
  balanceAfter: number;
  version: number;
  at: string;
  callId?: string | null;
  purchaseId?: string | null;
  reason?: string | null;
}

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

export interface Me {
  userId: string;
  tokensPerPeriod: number;
  trust: string;
  role: string;
}

export interface PublicConfig {
  environment: string;
  agoraConfigured: boolean;
  stripePublishableKey: string | null;
  /** Set when the embedded Stripe stand-in takes the payments. */
  stripeApiBase: string | null;
  tokensPerUsd: number;
  periodSeconds: number;
  devLogin: boolean;
}

export type Session =
  | {
      authenticated: true;
      userId: string;
      trust: string;
      role: string;
      csrfToken: string;
      expiresAt: string;
      config: PublicConfig;
    }
  | { authenticated: false; config: PublicConfig };

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

export interface AckError {
  code: string;
  message: string;
  retryAfter?: number;
}

export type Ack<T> = ({ ok: true } & T) | { ok: false; error: AckError };

/** Client → server: payload and what the acknowledgement carries. */
export interface Commands {
  "call:start": { payload: { calleeId: string; requestId: string }; answer: { call: Call } };
  "call:accept": { payload: { callId: string }; answer: { call: Call; agora: AgoraGrant } };
  "call:join": { payload: { callId: string }; answer: { call: Call; agora: AgoraGrant } };
  "call:decline": { payload: { callId: string }; answer: { call: Call } };
  "call:cancel": { payload: { callId: string }; answer: { call: Call } };
  "call:end": { payload: { callId: string }; answer: { call: Call } };
  "call:renew": { payload: { callId: string }; answer: { agora: AgoraGrant } };
  "balance:get": { payload: Record<string, never>; answer: { balance: number; version: number } };
  "ops:watch": { payload: Record<string, never>; answer: object };
}

/** Server → client. */
export interface Events {
  "call:incoming": { call: Call };
  "call:accepted": { call: Call; answeredBy?: string | null };
  "call:ended": { call: Call };
  "call:token": { callId: string; agora: AgoraGrant };
  "balance:update": BalanceUpdate;
  "earnings:update": BalanceUpdate;
  "balance:low": BalanceLow;
  "query:invalidate": { queryKeys: string[][] };
  "ops:update": OpsOverview;
}
