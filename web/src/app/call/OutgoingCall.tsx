import { mdiPhone } from "@mdi/js";
import type { CallState, UseCall } from "../../client";
import { Avatar } from "../Avatar";
import { Dialog } from "../Dialog";
import { rate } from "../format";
import { Icon } from "../Icon";
import { useDialogAction } from "./useAction";

interface Props {
  call: UseCall;
  state: Extract<CallState, { phase: "outgoing" }>;
}

export function OutgoingCall({ call, state }: Props) {
  const { id, calleeId, rateTokensPerPeriod, periodSeconds } = state.call;
  const { busy, problem, run } = useDialogAction(calleeId);
  return (
    <Dialog open label={`Calling ${calleeId}`} className="ringing">
      <span className="pulse">
        <Avatar userId={calleeId} size="huge" />
      </span>
      <h2>{calleeId}</h2>
      <p className="quiet">
        <span role="status">{state.here ? "Ringing…" : "Ringing from another tab…"}</span>
        <br />
        {rate(rateTokensPerPeriod, periodSeconds)} once answered
      </p>
      {problem && (
        <p className="problem" role="alert">
          {problem}
        </p>
      )}
      <div className="ring-actions">
        <button
          type="button"
          className="round end"
          disabled={busy}
          data-first-focus
          onClick={() => run(() => call.cancel(id))}
        >
          <Icon path={mdiPhone} className="hang-up" />
          <span>Cancel</span>
        </button>
      </div>
    </Dialog>
  );
}
