/** The hooks a page is made of. Reading is the query cache's; the socket keeps it fresh (see querySync). */
import {
  infiniteQueryOptions,
  queryOptions,
  useInfiniteQuery,
  useMutation,
  useQuery,
  useQueryClient,
  type QueryClient,
} from "@tanstack/react-query";
import { useEffect, useState } from "react";
import type { ApiService } from "../api";
import type { CallState } from "../callState";
import type { MediaState } from "../callMedia";
import { readMeter, type MeterReading } from "../meter";
import { queryKeys } from "../querySync";
import type { Connection } from "../socket";
import { newestOf } from "../versioned";
import type { Balance, Call, OpsOverview } from "../wire";
import { useCallMeter, useStore } from "./CallMeterProvider";

const minute = 60_000;

/** Pushed balances need no fetching; the rare refetch is a net under a lost push. */
const balanceFreshness = {
  staleTime: 5 * minute,
  gcTime: 10 * minute,
  retry: 3,
  retryDelay: (attempt: number) => Math.min(1_000 * 2 ** attempt, 15_000),
  refetchInterval: minute / 2,
};

export function balanceQuery(api: ApiService, queries: QueryClient) {
  return queryOptions({
    queryKey: queryKeys.tokenBalance,
    queryFn: async ({ signal }) => {
      const fetched = await api.balance(signal);
      return newestOf(queries.getQueryData<Balance>(queryKeys.tokenBalance), fetched);
    },
    ...balanceFreshness,
  });
}

export function earningsQuery(api: ApiService, queries: QueryClient) {
  return queryOptions({
    queryKey: queryKeys.earnings,
    queryFn: async ({ signal }) => {
      const fetched = await api.earnings(signal);
      return newestOf(queries.getQueryData<Balance>(queryKeys.earnings), fetched);
    },
    ...balanceFreshness,
  });
}

/** The wallet: tokens held and the version they were told with. */
export function useTokenBalance() {
  const { api } = useCallMeter();
  return useQuery(balanceQuery(api, useQueryClient()));
}

/** What one's answered calls brought. */
export function useEarnings() {
  const { api } = useCallMeter();
  return useQuery(earningsQuery(api, useQueryClient()));
}

export function useTransactions() {
  const { api } = useCallMeter();
  return useInfiniteQuery(
    infiniteQueryOptions({
      queryKey: queryKeys.transactions,
      queryFn: ({ pageParam, signal }) => api.transactions({ cursor: pageParam, signal }),
      initialPageParam: undefined as string | undefined,
      getNextPageParam: (last) => last.nextCursor ?? undefined,
    }),
  );
}

export function useCallHistory() {
  const { api } = useCallMeter();
  return useInfiniteQuery(
    infiniteQueryOptions({
      queryKey: queryKeys.calls,
      queryFn: ({ pageParam, signal }) => api.calls({ cursor: pageParam, signal }),
      initialPageParam: undefined as string | undefined,
      getNextPageParam: (last) => last.nextCursor ?? undefined,
    }),
  );
}

/** Who could be called now. Presence isn't pushed to everyone, so it is looked at every few seconds. */
export function useOnlineUsers() {
  const { api } = useCallMeter();
  return useQuery({
    queryKey: queryKeys.online,
    queryFn: ({ signal }) => api.online(100, signal),
    refetchInterval: 5_000,
  });
}

export function useMe() {
  const { api } = useCallMeter();
  return useQuery({ queryKey: queryKeys.me, queryFn: ({ signal }) => api.me(signal) });
}

/** Sets what one's own calls cost from the next call on. */
export function useSetRate() {
  const { api } = useCallMeter();
  const queries = useQueryClient();
  return useMutation({
    mutationFn: (tokensPerPeriod: number) => api.setRate(tokensPerPeriod),
    onSuccess: () => queries.invalidateQueries({ queryKey: queryKeys.me }),
  });
}

export interface UseCall {
  state: CallState;
  media: MediaState;
  start: (calleeId: string) => Promise<void>;
  accept: (callId: string) => Promise<void>;
  decline: (callId: string) => Promise<void>;
  cancel: (callId: string) => Promise<void>;
  end: (callId: string) => Promise<void>;
  /** Carries the call in this tab from now on. */
  takeOver: (callId: string) => Promise<void>;
  dismiss: () => void;
}

/** The user's call: what to show and what can be done. Every action throws CommandError where it is refused. */
export function useCall(): UseCall {
  const { calls } = useCallMeter();
  return {
    state: useStore(calls.state),
    media: useStore(calls.media.state),
    start: (calleeId) => calls.start(calleeId),
    accept: (callId) => calls.accept(callId),
    decline: (callId) => calls.decline(callId),
    cancel: (callId) => calls.cancel(callId),
    end: (callId) => calls.end(callId),
    takeOver: (callId) => calls.join(callId),
    dismiss: () => calls.dismiss(),
  };
}

/** A call's meter, read twice a second by the server's clock. `payerBalance` only where this user pays. */
export function useMeter(call: Call, payerBalance?: number): MeterReading {
  const { clock } = useCallMeter().api;
  const [now, setNow] = useState(clock.now);
  useEffect(() => {
    if (call.status !== "active") return;
    const timer = setInterval(() => setNow(clock.now()), 500);
    return () => clearInterval(timer);
  }, [clock, call.status]);
  return readMeter(call, now, payerBalance);
}

export function useConnection(): Connection {
  return useStore(useCallMeter().socket.connection);
}

export interface OpsHistory {
  latest: OpsOverview | undefined;
  /** The overviews of the last minutes, oldest first. */
  samples: readonly OpsOverview[];
  error: unknown;
}

/** The operator's overview, pushed every two seconds; role admin. */
export function useOps(keep = 150): OpsHistory {
  const { api, socket } = useCallMeter();
  const [samples, setSamples] = useState<readonly OpsOverview[]>([]);
  const first = useQuery({ queryKey: queryKeys.ops, queryFn: ({ signal }) => api.opsOverview(signal), staleTime: 0 });

  useEffect(() => {
    const add = (overview: OpsOverview) =>
      setSamples((all) => (all.at(-1)?.at === overview.at ? all : [...all, overview].slice(-keep)));
    const watch = () => void socket.command("ops:watch", {}).catch(() => undefined);
    const stops = [socket.on("ops:update", add), socket.onConnect(watch)];
    if (socket.connection.get() === "online") watch();
    return () => {
      for (const stop of stops) stop();
      if (socket.connection.get() === "online") void socket.command("ops:unwatch", {}).catch(() => undefined);
    };
  }, [socket, keep]);

  return { latest: samples.at(-1) ?? first.data, samples, error: samples.length > 0 ? undefined : first.error };
}
