/** Everything a signed-in page needs, built once for each session and taken down with it. */
import { useQueryClient } from "@tanstack/react-query";
import { createContext, use, useEffect, useMemo, useSyncExternalStore, type ReactNode } from "react";
import type { ApiService } from "../api";
import { CallService } from "../calls";
import { IntentStore } from "../intents";
import { PurchaseService } from "../purchases";
import { syncQueries } from "../querySync";
import type { SessionService } from "../session";
import { CallSocket } from "../socket";
import type { Store } from "../store";
import { newTill, oldTill, tillOf } from "../till";
import type { PublicConfig, Session } from "../wire";

type SignedIn = Extract<Session, { authenticated: true }>;

export interface CallMeter {
  session: SignedIn;
  config: PublicConfig;
  sessions: SessionService;
  api: ApiService;
  socket: CallSocket;
  calls: CallService;
  purchases: PurchaseService;
}

const Context = createContext<CallMeter | undefined>(undefined);

export interface CallMeterProviderProps {
  sessions: SessionService;
  session: SignedIn;
  children: ReactNode;
}

/** Mount it with `key={session.userId}`, so that another user gets everything anew. */
export function CallMeterProvider({ sessions, session, children }: CallMeterProviderProps) {
  const queries = useQueryClient();
  const { userId } = session;
  const { agoraConfigured, enhancedFeatures } = session.config;

  const services = useMemo(() => {
    const { api } = sessions;
    const till = tillOf(userId, sessions, enhancedFeatures ? newTill(api) : oldTill(api));
    const socket = new CallSocket({ mayReconnect: async () => (await sessions.refresh()).authenticated });
    return {
      api,
      socket,
      calls: new CallService(socket, api, { userId, agoraConfigured }),
      purchases: new PurchaseService(till, new IntentStore(sessionStorage, `callmeter.intent.${userId}.`)),
    };
  }, [sessions, userId, agoraConfigured, enhancedFeatures]);

  useEffect(() => {
    const { socket, calls } = services;
    const stopSync = syncQueries(socket, queries);
    calls.open();
    socket.connect();
    return () => {
      stopSync();
      calls.close();
      socket.close();
    };
  }, [services, queries]);

  const value = useMemo(
    () => ({ session, config: session.config, sessions, ...services }),
    [session, sessions, services],
  );
  return <Context value={value}>{children}</Context>;
}

export function useCallMeter(): CallMeter {
  const value = use(Context);
  if (!value) throw new Error("useCallMeter needs a CallMeterProvider above it");
  return value;
}

/** What a store holds, the component rendered again whenever it changes. */
export function useStore<T>(store: Store<T>): T {
  return useSyncExternalStore(store.subscribe, store.get);
}
