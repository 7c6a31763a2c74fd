/** What travels between this client and the server, generated from the server's documents, under shorter names. */
import type { components as Http } from "./generated/http";
import type { components as Socket } from "./generated/socket";
export type { Commands, Events } from "./generated/socket";

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
export type OnlineUser = HttpSchemas["OnlineUser"];
export type OnlineUsers = HttpSchemas["OnlineUsers"];
export type OpsOverview = HttpSchemas["OpsOverview"];
export type PurchaseRequest = HttpSchemas["PurchaseTokens"];
/** What buying answers at once. */
export type Purchased = HttpSchemas["Purchased"];
/** How a purchase stands. */
export type Purchase = HttpSchemas["PurchaseAnswer"];
export type Refused = SocketSchemas["Refused"];

export interface Page<T> {
  items: T[];
  nextCursor: string | null;
}
