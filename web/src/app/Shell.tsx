/** The frame around every page: where one can go, what one has, whether the line is up. */
import {
  mdiAccountMultipleOutline,
  mdiCircleMultipleOutline,
  mdiFinance,
  mdiHandCoinOutline,
  mdiHistory,
  mdiLogout,
  mdiThemeLightDark,
  mdiWeatherNight,
  mdiWhiteBalanceSunny,
} from "@mdi/js";
import { useState, type ReactNode } from "react";
import { Link, useRoute } from "wouter";
import { useCallMeter, useConnection, useTokenBalance } from "../client";
import { count } from "./format";
import { Icon } from "./Icon";
import { Logo } from "./Logo";
import { useNotify } from "./Notices";
import { sentence } from "./sentences";
import { setTheme, storedTheme, type Theme } from "./theme";
import { useBuyTokens } from "./wallet/BuyTokens";

export function Shell({ children }: { children: ReactNode }) {
  const { session } = useCallMeter();
  return (
    <div className="shell">
      <a className="skip" href="#content">
        Skip to content
      </a>
      <header className="bar">
        <Link href="/" className="home" aria-label="CallMeter, home">
          <Logo />
        </Link>
        <nav className="nav" aria-label="Main">
          <NavLink href="/" icon={<Icon path={mdiAccountMultipleOutline} />} text="People" />
          <NavLink href="/history" icon={<Icon path={mdiHistory} />} text="History" />
          <NavLink href="/earnings" icon={<Icon path={mdiHandCoinOutline} />} text="Earnings" />
          {session.role === "admin" && <NavLink href="/ops" icon={<Icon path={mdiFinance} />} text="Operations" />}
        </nav>
        <div className="bar-end">
          <BalanceButton />
          <ThemeButton />
          <SignOutButton />
        </div>
      </header>
      <ConnectionLine />
      <main id="content" tabIndex={-1}>
        {children}
      </main>
    </div>
  );
}

function NavLink({ href, icon, text }: { href: string; icon: ReactNode; text: string }) {
  const [here] = useRoute(href);
  return (
    <Link href={href} aria-current={here ? "page" : undefined}>
      {icon}
      <span>{text}</span>
    </Link>
  );
}

function BalanceButton() {
  const { data } = useTokenBalance();
  const buy = useBuyTokens();
  const known = data ? count(data.balance) : "–";
  return (
    <button type="button" className="balance-button" onClick={() => buy()} aria-label={`${known} tokens. Buy tokens`}>
      <Icon path={mdiCircleMultipleOutline} size={18} />
      <span data-testid="balance">{known}</span>
    </button>
  );
}

const themes: Record<Theme, { next: Theme; icon: ReactNode; name: string }> = {
  auto: { next: "light", icon: <Icon path={mdiThemeLightDark} size={18} />, name: "as the device" },
  light: { next: "dark", icon: <Icon path={mdiWhiteBalanceSunny} size={18} />, name: "light" },
  dark: { next: "auto", icon: <Icon path={mdiWeatherNight} size={18} />, name: "dark" },
};

function ThemeButton() {
  const [theme, show] = useState(storedTheme);
  const { next, icon, name } = themes[theme];
  return (
    <button
      type="button"
      className="icon-button"
      title={`Colours: ${name}`}
      aria-label={`Colours: ${name}. Change to ${themes[next].name}`}
      onClick={() => {
        setTheme(next);
        show(next);
      }}
    >
      {icon}
    </button>
  );
}

function SignOutButton() {
  const { sessions, session } = useCallMeter();
  const notify = useNotify();
  return (
    <button
      type="button"
      className="icon-button"
      title={`Signed in as ${session.userId}`}
      aria-label={`Sign out ${session.userId}`}
      onClick={() => void sessions.signOut().catch((error: unknown) => notify(sentence(error), "bad"))}
    >
      <Icon path={mdiLogout} size={18} />
    </button>
  );
}

function ConnectionLine() {
  const connection = useConnection();
  return (
    <p className="connection" role="status" hidden={connection !== "offline"}>
      {connection === "offline" && "Reconnecting… what you see may be a moment old."}
    </p>
  );
}
