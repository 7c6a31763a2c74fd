import { useCallMeter, type CallState, type UseCall } from "../../client";
import { Avatar } from "../Avatar";
import { Dialog } from "../Dialog";
import { count, duration, worth } from "../format";
import { useNotify } from "../Notices";
import { useBuyTokens } from "../wallet/BuyTokens";
import { otherOf } from "./otherOf";
import { useEffect } from "react";

interface Props {
  call: UseCall;
  state: Extract<CallState, { phase: "ended" }>;
}

/** What a call came to. One that was never answered, or ran elsewhere, is told in passing. */
export function CallSummary({ call, state }: Props) {
  const { session } = useCallMeter();
  const { startedAt } = state.call;
  const inPassing = startedAt === null || !state.here;
  const notify = useNotify();
  const { dismiss } = call;

  useEffect(() => {
    if (!inPassing) return;
    const text = passingNote(state, session.userId);
    if (text) notify(text);
    dismiss();
    // Only once for each call that ended.
    // eslint-disable-next-line react-hooks/exhaustive-deps
  }, [state.call.id]);

  return inPassing ? null : <Summary call={call} state={state} />;
}

function Summary({ call, state }: Props) {
  const { session, config } = useCallMeter();
  const buy = useBuyTokens();
  const { callerId, endReason, tokensSpent, startedAt, endedAt } = state.call;
  const other = otherOf(state.call, session.userId);
  const payer = callerId === session.userId;
  const seconds = startedAt && endedAt ? (Date.parse(endedAt) - Date.parse(startedAt)) / 1000 : 0;
  const ranOut = endReason === "insufficient_funds";

  return (
    <Dialog open label="Call ended" onClose={call.dismiss} className="summary">
      <Avatar userId={other} size="large" />
      <h2>{reasonHeading(endReason, payer)}</h2>
      <p className="quiet">{other}</p>
      <dl className="figures">
        <div>
          <dt>Time</dt>
          <dd>{duration(seconds)}</dd>
        </div>
        <div>
          <dt>{payer ? "Spent" : "Caller paid"}</dt>
          <dd data-testid="summary-spent">{count(tokensSpent)}</dd>
          <dd className="quiet small">{worth(tokensSpent, config.tokensPerUsd)}</dd>
        </div>
      </dl>
      {payer && ranOut && (
        <button
          type="button"
          className="button wide"
          onClick={() => {
            call.dismiss();
            buy();
          }}
        >
          Buy tokens
        </button>
      )}
      <button type="button" className="button primary wide" data-first-focus onClick={call.dismiss}>
        Done
      </button>
    </Dialog>
  );
}

function reasonHeading(reason: string | null, payer: boolean): string {
  if (reason === "insufficient_funds") return payer ? "Your balance ran out" : "The caller’s balance ran out";
  if (reason === "disconnected") return "The connection was lost";
  return "Call ended";
}

function passingNote({ call }: Props["state"], userId: string): string | undefined {
  const mine = call.callerId === userId;
  const other = otherOf(call, userId);
  switch (call.endReason) {
    case "declined":
      return mine ? `${other} declined.` : undefined;
    case "missed":
      return mine ? `${other} didn’t answer.` : `You missed a call from ${other}.`;
    case "cancelled":
      return mine ? undefined : `${other} stopped calling.`;
    case "failed":
      return "The call failed.";
    default:
      return `The call with ${other} ended.`;
  }
}
