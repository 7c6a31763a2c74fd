/** For those who are called: what it brought, and what one's time costs. */
import { useState, type FormEvent } from "react";
import { useCallHistory, useCallMeter, useEarnings, useMe, useSetRate } from "../client";
import { count, rate, worth } from "./format";
import { CallRow, Listing } from "./History";
import { useNotify } from "./Notices";
import { PageHead } from "./PageHead";
import { sentence } from "./sentences";

export function Earnings() {
  const { session, config } = useCallMeter();
  const earnings = useEarnings();
  const calls = useCallHistory();
  const answered = (calls.data?.pages ?? [])
    .flatMap((page) => page.items)
    .filter((call) => call.calleeId === session.userId && call.startedAt !== null);

  return (
    <div className="page">
      <PageHead title="Earnings" />
      <div className="earning-cards">
        <section className="card" aria-labelledby="earned">
          <h2 id="earned">Earned</h2>
          <p className="balance">
            <span className="figure" data-testid="earnings">
              {earnings.data ? count(earnings.data.balance) : "–"}
            </span>
            <span className="quiet">
              tokens
              {earnings.data && <> · worth {worth(earnings.data.balance, config.tokensPerUsd)}</>}
            </span>
          </p>
          <p className="quiet small">
            Your share of what callers paid, after the platform’s fee. Kept apart from your wallet.
          </p>
        </section>
        <RateCard />
      </div>
      <h2 className="day">Answered calls</h2>
      <Listing query={calls} empty="Calls that you answer show here." count={answered.length}>
        <ul className="rows card">
          {answered.map((call) => (
            <CallRow key={call.id} call={call} userId={session.userId} />
          ))}
        </ul>
      </Listing>
    </div>
  );
}

function RateCard() {
  const { config } = useCallMeter();
  const me = useMe();
  const current = me.data?.tokensPerPeriod;
  return (
    <section className="card" aria-labelledby="rate">
      <h2 id="rate">Your rate</h2>
      {me.isError && (
        <p className="problem" role="alert">
          {sentence(me.error)}
        </p>
      )}
      {current !== undefined && <RateForm key={current} current={current} periodSeconds={config.periodSeconds} />}
    </section>
  );
}

function RateForm({ current, periodSeconds }: { current: number; periodSeconds: number }) {
  const [value, setValue] = useState(String(current));
  const setRate = useSetRate();
  const notify = useNotify();

  function submit(event: FormEvent) {
    event.preventDefault();
    setRate.mutate(Number(value), {
      onSuccess: () => notify(`Calls to you now cost ${rate(Number(value), periodSeconds)}.`, "good"),
      onError: (error) => notify(sentence(error), "bad"),
    });
  }

  return (
    <form className="stack" onSubmit={submit}>
      <label className="field">
        <span>Tokens per {periodSeconds === 60 ? "minute" : `${periodSeconds} seconds`}</span>
        <input
          type="number"
          inputMode="numeric"
          min={1}
          max={1_000_000}
          step={1}
          required
          value={value}
          onChange={(event) => setValue(event.target.value)}
        />
      </label>
      <button type="submit" className="button" disabled={setRate.isPending || Number(value) === current}>
        Save
      </button>
      <p className="quiet small">Counts for calls that start from now on.</p>
    </form>
  );
}
