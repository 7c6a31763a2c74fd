/** Who can be called now, what it costs, and what one has for it. */
import { Phone, Search } from "lucide-react";
import { useState } from "react";
import { useCall, useCallMeter, useOnlineUsers, useTokenBalance } from "../client";
import { Avatar } from "./Avatar";
import { rate } from "./format";
import { useNotify } from "./Notices";
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
            <Search size={18} aria-hidden="true" />
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
        {others.length > 0 && shown.length === 0 && <p className="card quiet">Nobody online is called “{wanted}”.</p>}
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

function Person({ userId, ratePerPeriod, inCall }: { userId: string; ratePerPeriod: number; inCall: boolean }) {
  const { config } = useCallMeter();
  const { data: wallet } = useTokenBalance();
  const call = useCall();
  const buy = useBuyTokens();
  const notify = useNotify();
  const [ringing, setRinging] = useState(false);
  const affordable = wallet === undefined || wallet.balance >= ratePerPeriod;

  async function ring() {
    setRinging(true);
    try {
      await call.start(userId);
    } catch (error) {
      notify(sentence(error, userId), "bad");
    } finally {
      setRinging(false);
    }
  }

  return (
    <li className="person">
      <Avatar userId={userId} />
      <div className="person-text">
        <strong>{userId}</strong>
        <span className="quiet">
          {rate(ratePerPeriod, config.periodSeconds)}
          {inCall && <span className="tag">in a call</span>}
        </span>
      </div>
      {affordable ? (
        <button
          type="button"
          className="button primary"
          aria-label={`Call ${userId}`}
          disabled={inCall || ringing}
          onClick={() => void ring()}
        >
          <Phone size={18} aria-hidden="true" />
          <span>Call</span>
        </button>
      ) : (
        <button type="button" className="button" aria-label={`Top up to call ${userId}`} onClick={() => buy()}>
          Top up
        </button>
      )}
    </li>
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
