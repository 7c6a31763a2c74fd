// Generated from web/asyncapi.json by scripts/generate-types.mjs. Change the server, not this file.

export type paths = Record<string, never>;
export type webhooks = Record<string, never>;
export interface components {
    schemas: {
        Acknowledged: {
            /** @constant */
            ok: true;
        };
        /** @description One side's way into the call's channel. */
        AgoraAccess: {
            appId: string;
            channel: string;
            expiresAt: string;
            token: string;
            uid: number;
        };
        AgoraAcknowledged: {
            agora: components["schemas"]["AgoraAccess"];
            /** @constant */
            ok: true;
        };
        AuthExpired: {
            graceSeconds: number;
        };
        BalanceAcknowledged: {
            balance: number;
            /** @constant */
            ok: true;
            version: number;
        };
        BalanceLow: {
            balance: number;
            callId: string;
            periodsLeft: number;
        };
        /** @description Where an account stands after an entry; `version` grows by one with each. */
        BalanceUpdate: {
            balance: number;
            /** @default null */
            callId?: string | null;
            delta: number;
            /** @default null */
            purchaseId?: string | null;
            queryKey: string[];
            reason: string;
            version: number;
        };
        CallAccepted: {
            answeredBy: string | null;
            call: components["schemas"]["CallAnswer"];
        };
        CallAcknowledged: {
            call: components["schemas"]["CallAnswer"];
            /** @constant */
            ok: true;
        };
        CallAnswer: {
            calleeId: string;
            callerId: string;
            channel: string;
            endedAt: string | null;
            endReason: ("hangup" | "declined" | "cancelled" | "missed" | "insufficient_funds" | "disconnected" | "failed") | null;
            id: string;
            paidThrough: string | null;
            periodsBilled: number;
            periodSeconds: number;
            rateTokensPerPeriod: number;
            startedAt: string | null;
            /** @enum {string} */
            status: "ringing" | "active" | "ended";
            tokensSpent: number;
        };
        CallPush: {
            call: components["schemas"]["CallAnswer"];
        };
        CallToken: {
            agora: components["schemas"]["AgoraAccess"];
            callId: string;
        };
        Failed: {
            failed: number;
        };
        InCallAcknowledged: {
            agora: components["schemas"]["AgoraAccess"];
            call: components["schemas"]["CallAnswer"];
            /** @constant */
            ok: true;
        };
        Instance: {
            id: string;
            tabs: number;
            users: number;
        };
        Invalidated: {
            queryKeys: string[][];
        };
        /** @description What all accounts of a kind hold, on their normal side. A unit's two sides come to the same. */
        KindBalance: {
            balance: number;
            kind: string;
            /** @enum {string} */
            side: "debit" | "credit";
            /** @enum {string} */
            unit: "TOKEN" | "USD_CENT";
        };
        LastHour: {
            lastHour: number;
        };
        LiveCalls: {
            active: number;
            ringing: number;
        };
        MeterState: {
            debitsPerSecond: number;
            dueLagSeconds: number;
        };
        Nothing: Record<string, never>;
        OfCall: {
            /** Format: uuid */
            callId: string;
        };
        OpsOverview: {
            at: string;
            calls: components["schemas"]["LiveCalls"];
            cspReports: components["schemas"]["LastHour"];
            instances: components["schemas"]["Instance"][];
            jobs: components["schemas"]["Failed"];
            meter: components["schemas"]["MeterState"];
            purchases: components["schemas"]["Pending"];
            trialBalance: components["schemas"]["KindBalance"][];
        };
        Pending: {
            pending: number;
        };
        Refused: {
            error: {
                /** @enum {string} */
                code: "busy" | "call_already_answered" | "call_ended" | "callee_unavailable" | "forbidden" | "insufficient_funds" | "invalid_payload" | "limiter_unavailable" | "not_found" | "origin_not_allowed" | "payment_declined" | "payment_method_invalid" | "payments_unavailable" | "purchase_not_refundable" | "rate_limited" | "refund_refused" | "self_call" | "signature_invalid" | "unauthenticated" | "unavailable";
                message: string;
                /** @description Seconds, with `rate_limited`. */
                retryAfter?: number;
            };
            /** @constant */
            ok: false;
        };
        RenewAuth: {
            token: string;
        };
        RenewedAcknowledged: {
            expiresAt: string;
            /** @constant */
            ok: true;
        };
        StartCall: {
            calleeId: string;
            requestId: string;
        };
    };
    responses: never;
    parameters: never;
    requestBodies: never;
    headers: never;
    pathItems: never;
}
export type $defs = Record<string, never>;
export type operations = Record<string, never>;
type Schemas = components["schemas"];
/** Client to server: each payload, and what its acknowledgement carries when all is well. */
export interface Commands {
    "auth:renew": { payload: Schemas["RenewAuth"]; answer: Schemas["RenewedAcknowledged"] };
    "balance:get": { payload: Schemas["Nothing"]; answer: Schemas["BalanceAcknowledged"] };
    "call:accept": { payload: Schemas["OfCall"]; answer: Schemas["InCallAcknowledged"] };
    "call:cancel": { payload: Schemas["OfCall"]; answer: Schemas["CallAcknowledged"] };
    "call:decline": { payload: Schemas["OfCall"]; answer: Schemas["CallAcknowledged"] };
    "call:end": { payload: Schemas["OfCall"]; answer: Schemas["CallAcknowledged"] };
    "call:join": { payload: Schemas["OfCall"]; answer: Schemas["InCallAcknowledged"] };
    "call:renew": { payload: Schemas["OfCall"]; answer: Schemas["AgoraAcknowledged"] };
    "call:start": { payload: Schemas["StartCall"]; answer: Schemas["CallAcknowledged"] };
    "ops:unwatch": { payload: Schemas["Nothing"]; answer: Schemas["Acknowledged"] };
    "ops:watch": { payload: Schemas["Nothing"]; answer: Schemas["Acknowledged"] };
}
/** Server to client. */
export interface Events {
    "auth:expired": Schemas["AuthExpired"];
    "balance:low": Schemas["BalanceLow"];
    "balance:update": Schemas["BalanceUpdate"];
    "call:accepted": Schemas["CallAccepted"];
    "call:ended": Schemas["CallPush"];
    "call:incoming": Schemas["CallPush"];
    "call:token": Schemas["CallToken"];
    "earnings:update": Schemas["BalanceUpdate"];
    "ops:update": Schemas["OpsOverview"];
    "query:invalidate": Schemas["Invalidated"];
}
