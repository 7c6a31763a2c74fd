import { mdiPhone } from "@mdi/js";
import type { CallState, UseCall } from "../../client";
import { Avatar } from "../Avatar";
import { Dialog } from "../Dialog";
import { rate } from "../format";
import { Icon } from "../Icon";
import { useRingtone } from "./ringtone";
import { useDialogAction } from "./useAction";

interface Props {
  call: UseCall;
  state: Extract<CallState, { phase: "incoming" }>;
}

/** Escape doesn't decline: a call is refused on purpose or not at all. */
export function IncomingCall({ call, state }: Props) {
  const { id, callerId, rateTokensPerPeriod, periodSeconds } = state.call;
  const { busy, problem, run } = useDialogAction(callerId);
  useRingtone();
  return (
    <Dialog open label={`${callerId} is calling`} role="alertdialog" className="ringing">
      <span className="pulse">
        <Avatar userId={callerId} size="huge" />
      </span>
      <h2>{callerId}</h2>
      <p className="quiet">
        is calling
        <br />
        pays {rate(rateTokensPerPeriod, periodSeconds)}
      </p>
      {problem && (
        <p className="problem" role="alert">
          {problem}
        </p>
      )}
      <div className="ring-actions">
        <button type="button" className="round end" disabled={busy} onClick={() => run(() => call.decline(id))}>
          <Icon path={mdiPhone} className="hang-up" />
          <span>Decline</span>
        </button>
        <button
          type="button"
          className="round answer"
          disabled={busy}
          data-first-focus
          onClick={() => run(() => call.accept(id))}
        >
          <Icon path={mdiPhone} />
          <span>Answer</span>
        </button>
      </div>
    </Dialog>
  );
}
