/** The user's call over whatever page they are on: it rings, it runs, it is summed up. */
import { useEffect, type ReactNode } from "react";
import { useCall, type CallState } from "../../client";
import { CallScreen } from "./CallScreen";
import { CallSummary } from "./CallSummary";
import { Elsewhere } from "./Elsewhere";
import { IncomingCall } from "./IncomingCall";
import { OutgoingCall } from "./OutgoingCall";

export function CallLayer({ children }: { children: ReactNode }) {
  const call = useCall();
  const { state } = call;
  const takesTheScreen = state.phase === "active" && state.here;
  useCallTitle(state);

  return (
    <>
      {takesTheScreen ? <CallScreen call={call} state={state} /> : children}
      {state.phase === "active" && !state.here && <Elsewhere call={call} state={state} />}
      {state.phase === "incoming" && <IncomingCall call={call} state={state} />}
      {state.phase === "outgoing" && <OutgoingCall call={call} state={state} />}
      {state.phase === "ended" && <CallSummary call={call} state={state} />}
    </>
  );
}

/** A ringing tab must be found among many. */
function useCallTitle(state: CallState): void {
  const title =
    state.phase === "incoming"
      ? `☎ ${state.call.callerId} is calling`
      : state.phase === "active" && state.here
        ? "In a call · CallMeter"
        : undefined;
  useEffect(() => {
    if (title === undefined) return;
    const before = document.title;
    document.title = title;
    return () => {
      document.title = before;
    };
  }, [title]);
}
