import { useCallMeter, type CallState, type UseCall } from "../../client";
import { otherOf } from "./otherOf";
import { useAction } from "./useAction";

interface Props {
  call: UseCall;
  state: Extract<CallState, { phase: "active" }>;
}

/** The call runs in another tab or on another device; it can be moved here, or ended from here. */
export function Elsewhere({ call, state }: Props) {
  const { session } = useCallMeter();
  const other = otherOf(state.call, session.userId);
  const { busy, run } = useAction(other);
  return (
    <section className="elsewhere" aria-label="Call elsewhere">
      <p role="status">
        You’re in a call with <strong>{other}</strong>, in another tab or on another device.
      </p>
      <div className="elsewhere-actions">
        <button
          type="button"
          className="button primary"
          disabled={busy}
          onClick={() => run(() => call.takeOver(state.call.id))}
        >
          Continue here
        </button>
        <button type="button" className="button" disabled={busy} onClick={() => run(() => call.end(state.call.id))}>
          End call
        </button>
      </div>
    </section>
  );
}
