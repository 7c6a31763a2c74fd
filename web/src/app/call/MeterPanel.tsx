/** The money side of a call, always in sight: what was spent, how long it is paid for, how much is left. */
import { mdiAlertOutline } from "@mdi/js";
import { useCallMeter, useEarnings, useMeter, useTokenBalance, type CallState } from "../../client";
import { count, duration, period, spokenDuration, worth } from "../format";
import { Icon } from "../Icon";
import { useBuyTokens } from "../wallet/BuyTokens";
import { MeterDial } from "./MeterDial";

interface Props {
  state: Extract<CallState, { phase: "active" }>;
  payer: boolean;
}

export function MeterPanel({ state, payer }: Props) {
  const { call } = state;
  const { config } = useCallMeter();
  const wallet = useTokenBalance();
  const earnings = useEarnings();
  const meter = useMeter(call, payer ? wallet.data?.balance : undefined);

  return (
    <aside className="meter" aria-label="Meter">
      <MeterDial left={meter.periodLeft} low={meter.low}>
        <span className="dial-time" data-testid="elapsed">
          {duration(meter.elapsedS)}
        </span>
        <span className="dial-note">
          {meter.paidLeftS > 0 ? `paid for ${duration(Math.ceil(meter.paidLeftS))}` : "renewing…"}
        </span>
      </MeterDial>
      <dl className="figures">
        <div>
          <dt>{payer ? "Spent" : "Caller paid"}</dt>
          <dd data-testid="spent">{count(meter.tokensSpent)}</dd>
          <dd className="quiet small">{worth(meter.tokensSpent, config.tokensPerUsd)}</dd>
        </div>
        {payer ? (
          <div>
            <dt>Balance</dt>
            <dd data-testid="call-balance">{wallet.data ? count(wallet.data.balance) : "–"}</dd>
            <dd className="quiet small">{timeLeft(meter.periodsAffordable, call.periodSeconds, meter.paidLeftS)}</dd>
          </div>
        ) : (
          <div>
            <dt>Earnings</dt>
            <dd data-testid="call-earnings">{earnings.data ? count(earnings.data.balance) : "–"}</dd>
            <dd className="quiet small">in all</dd>
          </div>
        )}
        <div>
          <dt>Rate</dt>
          <dd>{count(call.rateTokensPerPeriod)}</dd>
          <dd className="quiet small">tokens / {period(call.periodSeconds)}</dd>
        </div>
      </dl>
      {meter.low && <LowBalance periodsLeft={meter.periodsAffordable ?? 0} periodSeconds={call.periodSeconds} />}
    </aside>
  );
}

function LowBalance({ periodsLeft, periodSeconds }: { periodsLeft: number; periodSeconds: number }) {
  const buy = useBuyTokens();
  return (
    <div className="low" role="alert">
      <Icon path={mdiAlertOutline} size={20} />
      <p>
        {periodsLeft === 0
          ? "Your balance can’t pay for more. The call ends when the paid time does."
          : `Your balance pays for ${spokenDuration(periodsLeft * periodSeconds)} more.`}
      </p>
      <button type="button" className="button primary" onClick={() => buy()}>
        Top up
      </button>
    </div>
  );
}

function timeLeft(periods: number | undefined, periodSeconds: number, paidLeftS: number): string {
  if (periods === undefined) return "";
  const seconds = periods * periodSeconds + paidLeftS;
  return seconds >= 90 ? `≈ ${count(Math.floor(seconds / 60))} min left` : `≈ ${spokenDuration(seconds)} left`;
}
