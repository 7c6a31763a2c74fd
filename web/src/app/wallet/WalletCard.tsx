import { mdiPlus } from "@mdi/js";
import { Link } from "wouter";
import { useCallMeter, useTokenBalance, useTransactions } from "../../client";
import { count, moment, signed, worth } from "../format";
import { Icon } from "../Icon";
import { sentence, transactionNames } from "../sentences";
import { useBuyTokens } from "./BuyTokens";

/** What one holds, the way to more, and where the last of it went. */
export function WalletCard() {
  const { config } = useCallMeter();
  const balance = useTokenBalance();
  const transactions = useTransactions();
  const buy = useBuyTokens();
  const latest = transactions.data?.pages[0]?.items.slice(0, 4) ?? [];

  return (
    <aside className="wallet card" aria-label="Wallet">
      <h2>Wallet</h2>
      <p className="balance">
        <span className="figure" data-testid="wallet-balance">
          {balance.data ? count(balance.data.balance) : "–"}
        </span>
        <span className="quiet">
          tokens
          {balance.data && <> · worth {worth(balance.data.balance, config.tokensPerUsd)}</>}
        </span>
      </p>
      {balance.isError && (
        <p className="problem" role="alert">
          {sentence(balance.error)}
        </p>
      )}
      <button type="button" className="button primary wide" onClick={() => buy()}>
        <Icon path={mdiPlus} size={18} />
        <span>Buy tokens</span>
      </button>
      {latest.length > 0 && (
        <>
          <ul className="latest">
            {latest.map(({ id, type, amount, at }) => (
              <li key={id}>
                <span>{transactionNames[type] ?? type}</span>
                <span className={amount > 0 ? "amount in" : "amount"}>{signed(amount)}</span>
                <time className="quiet small" dateTime={at}>
                  {moment(at)}
                </time>
              </li>
            ))}
          </ul>
          <Link href="/history" className="link">
            See all
          </Link>
        </>
      )}
    </aside>
  );
}
