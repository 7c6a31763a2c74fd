/** Every call and every token, newest first. */
import { mdiPhoneIncoming, mdiPhoneMissed, mdiPhoneOutgoing } from "@mdi/js";
import { Fragment, useState, type ReactNode } from "react";
import { useCallHistory, useCallMeter, useTransactions, type Call, type Transaction } from "../client";
import { otherOf } from "./call/otherOf";
import { clockTime, count, dayOf, duration, signed } from "./format";
import { Icon } from "./Icon";
import { PageHead } from "./PageHead";
import { endReasons, sentence, transactionNames } from "./sentences";

export function History() {
  const [shown, setShown] = useState<"calls" | "tokens">("calls");
  return (
    <div className="page">
      <PageHead title="History">
        <div className="switch" role="group" aria-label="Show">
          <button type="button" aria-pressed={shown === "calls"} onClick={() => setShown("calls")}>
            Calls
          </button>
          <button type="button" aria-pressed={shown === "tokens"} onClick={() => setShown("tokens")}>
            Tokens
          </button>
        </div>
      </PageHead>
      {shown === "calls" ? <Calls /> : <Transactions />}
    </div>
  );
}

function Calls() {
  const { session } = useCallMeter();
  const calls = useCallHistory();
  const items = calls.data?.pages.flatMap((page) => page.items) ?? [];
  return (
    <Listing query={calls} empty="No calls yet." count={items.length}>
      <Days items={items} at={(call) => call.startedAt ?? call.endedAt}>
        {(call) => <CallRow key={call.id} call={call} userId={session.userId} />}
      </Days>
    </Listing>
  );
}

export function CallRow({ call, userId }: { call: Call; userId: string }) {
  const mine = call.callerId === userId;
  const { startedAt, endedAt, endReason, tokensSpent } = call;
  const at = startedAt ?? endedAt;
  const seconds = startedAt && endedAt ? (Date.parse(endedAt) - Date.parse(startedAt)) / 1000 : undefined;
  const path = startedAt === null && !mine ? mdiPhoneMissed : mine ? mdiPhoneOutgoing : mdiPhoneIncoming;
  return (
    <li className="entry">
      <span className="entry-icon">
        <Icon path={path} size={18} />
        <span className="hidden">{mine ? "Outgoing" : "Incoming"}</span>
      </span>
      <div className="entry-text">
        <strong>{otherOf(call, userId)}</strong>
        <span className="quiet small">
          {at && <time dateTime={at}>{clockTime(at)}</time>}
          {seconds !== undefined && <> · {duration(seconds)}</>}
          {endReason && <> · {endReasons[endReason] ?? endReason}</>}
          {call.status !== "ended" && <> · {call.status}</>}
        </span>
      </div>
      {tokensSpent > 0 && (
        <span className={mine ? "amount" : "amount in"}>
          {mine ? signed(-tokensSpent) : `${count(tokensSpent)} paid`}
        </span>
      )}
    </li>
  );
}

function Transactions() {
  const transactions = useTransactions();
  const items = transactions.data?.pages.flatMap((page) => page.items) ?? [];
  return (
    <Listing query={transactions} empty="No tokens yet: what you buy and spend shows here." count={items.length}>
      <Days items={items} at={(item) => item.at}>
        {(item) => <TransactionRow key={item.id} item={item} />}
      </Days>
    </Listing>
  );
}

function TransactionRow({ item }: { item: Transaction }) {
  const { type, amount, balanceAfter, at, reason } = item;
  return (
    <li className="entry">
      <div className="entry-text">
        <strong>{transactionNames[type] ?? type}</strong>
        <span className="quiet small">
          <time dateTime={at}>{clockTime(at)}</time>
          {reason && <> · {reason}</>}
        </span>
      </div>
      <span className="entry-figures">
        <span className={amount > 0 ? "amount in" : "amount"}>{signed(amount)}</span>
        <span className="quiet small">{count(balanceAfter)} left</span>
      </span>
    </li>
  );
}

/** Rows under the days they happened on. */
function Days<Item>(props: {
  items: readonly Item[];
  at: (item: Item) => string | null;
  children: (item: Item) => ReactNode;
}) {
  const days = Map.groupBy(props.items, (item) => {
    const at = props.at(item);
    return at ? dayOf(at) : "Now";
  });
  return [...days].map(([day, items]) => (
    <Fragment key={day}>
      <h2 className="day">{day}</h2>
      <ul className="rows card">{items.map(props.children)}</ul>
    </Fragment>
  ));
}

interface Pages {
  isPending: boolean;
  isError: boolean;
  error: unknown;
  hasNextPage: boolean;
  isFetchingNextPage: boolean;
  fetchNextPage: () => unknown;
}

/** `count` is how many there are to show of the pages so far; there may be some on the next one all the same. */
export function Listing(props: { query: Pages; empty: string; count: number; children: ReactNode }) {
  const { query } = props;
  if (query.isPending) return <p className="quiet">Loading…</p>;
  if (query.isError && props.count === 0) {
    return (
      <p className="card problem" role="alert">
        {sentence(query.error)}
      </p>
    );
  }
  if (props.count === 0 && !query.hasNextPage) return <p className="card empty quiet">{props.empty}</p>;
  return (
    <>
      {props.count > 0 ? props.children : <p className="card empty quiet">None among the newest.</p>}
      {query.hasNextPage && (
        <button
          type="button"
          className="button more"
          disabled={query.isFetchingNextPage}
          onClick={() => void query.fetchNextPage()}
        >
          {query.isFetchingNextPage ? "Loading…" : "Show more"}
        </button>
      )}
    </>
  );
}
