/** Who can be called now, what it costs, and what one has for it. */
import { mdiMagnify, mdiPhone } from "@mdi/js";
import { useState } from "react";
import { useCall, useCallMeter, useOnlineUsers, useTokenBalance, type OnlineUser } from "../client";
import { Avatar } from "./Avatar";
import { useAction } from "./call/useAction";
import { rate } from "./format";
import { Icon } from "./Icon";
import { PageHead } from "./PageHead";
import { sentence } from "./sentences";
import { useBuyTokens } from "./wallet/BuyTokens";
import { WalletCard } from "./wallet/WalletCard";

export function People() {
  const { session } = useCallMeter();
  const online = useOnlineUsers();
  const [search, setSearch] = useState("");
  const wanted = search.trim();
  const others = (online.data?.users ?? [])
    .filter(({ userId }) => userId !== session.userId)
    .sort((a, b) => Number(a.inCall) - Number(b.inCall) || a.userId.localeCompare(b.userId));
  const shown = others.filter(({ userId }) => userId.toLowerCase().includes(wanted.toLowerCase()));

  return (
    <div className="columns">
      <section className="people" aria-labelledby="people-title">
        <PageHead title="People">
          <label className="search">
            <span className="hidden">Search people</span>
            <Icon path={mdiMagnify} size={18} />
            <input
              type="search"
              placeholder="Search"
              value={search}
              onChange={(event) => setSearch(event.target.value)}
              maxLength={128}
            />
          </label>
        </PageHead>
        <p className="quiet" id="people-title">
          {online.isPending
            ? "Looking who is here…"
            : others.length === 0
              ? "Nobody else is online"
              : `${others.length} online now`}
        </p>
        {shown.length > 0 && (
          <ul className="rows card">
            {shown.map(({ userId, ratePerPeriod, inCall }) => (
              <Person key={userId} userId={userId} ratePerPeriod={ratePerPeriod} inCall={inCall} />
            ))}
          </ul>
        )}
        {online.isSuccess && others.length === 0 && <NobodyHere />}
        {wanted !== "" && wanted !== session.userId && !others.some(({ userId }) => userId === wanted) && (
          <ByName userId={wanted} />
        )}
        {online.isError && (
          <p className="card problem" role="alert">
            {sentence(online.error)}
          </p>
        )}
      </section>
      <WalletCard />
    </div>
  );
}

function Person({ userId, ratePerPeriod, inCall }: OnlineUser) {
  const { config } = useCallMeter();
  const { data: wallet } = useTokenBalance();
  const buy = useBuyTokens();
  const affordable = wallet === undefined || wallet.balance >= ratePerPeriod;

  return (
    <li className="person">
      <Avatar userId={userId} />
      <div className="person-text">
        <strong>{userId}</strong>
        <span className="quiet person-facts">
          {rate(ratePerPeriod, config.periodSeconds)}
          {inCall && <span className="tag">in a call</span>}
        </span>
      </div>
      {affordable ? (
        <CallButton userId={userId} disabled={inCall} />
      ) : (
        <button type="button" className="button" aria-label={`Top up to call ${userId}`} onClick={() => buy()}>
          Top up
        </button>
      )}
    </li>
  );
}

/** The list shows some of many; anyone can be called by their name. */
function ByName({ userId }: { userId: string }) {
  return (
    <div className="card person">
      <div className="person-text">
        <strong>{userId}</strong>
        <span className="quiet">isn’t in this list; you can still try</span>
      </div>
      <CallButton userId={userId} disabled={false} />
    </div>
  );
}

function CallButton({ userId, disabled }: { userId: string; disabled: boolean }) {
  const call = useCall();
  const { busy, run } = useAction(userId);
  return (
    <button
      type="button"
      className="button primary"
      aria-label={`Call ${userId}`}
      disabled={disabled || busy}
      onClick={() => run(() => call.start(userId))}
    >
      <Icon path={mdiPhone} size={18} />
      <span>Call</span>
    </button>
  );
}

function NobodyHere() {
  const { config } = useCallMeter();
  return (
    <div className="card empty">
      <p>
        <strong>It’s quiet.</strong>
      </p>
      <p className="quiet">
        {config.devLogin
          ? "Open this page in another browser or a private window, sign in as someone else, and call each other."
          : "As soon as someone connects, you’ll see them here."}
      </p>
    </div>
  );
}
