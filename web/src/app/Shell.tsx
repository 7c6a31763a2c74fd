/** The frame around every page: where one can go, what one has, whether the line is up. */
import { ChartNoAxesCombined, Coins, HandCoins, History, LogOut, Moon, Sun, SunMoon, Users } from "lucide-react";
import { useState, type ReactNode } from "react";
import { Link, useRoute } from "wouter";
import { useCallMeter, useConnection, useTokenBalance } from "../client";
import { count } from "./format";
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
          <NavLink href="/" icon={<Users aria-hidden="true" />} text="People" />
          <NavLink href="/history" icon={<History aria-hidden="true" />} text="History" />
          <NavLink href="/earnings" icon={<HandCoins aria-hidden="true" />} text="Earnings" />
          {session.role === "admin" && (
            <NavLink href="/ops" icon={<ChartNoAxesCombined aria-hidden="true" />} text="Operations" />
          )}
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
      <Coins size={18} aria-hidden="true" />
      <span data-testid="balance">{known}</span>
    </button>
  );
}

const themes: Record<Theme, { next: Theme; icon: ReactNode; name: string }> = {
  auto: { next: "light", icon: <SunMoon size={18} aria-hidden="true" />, name: "as the device" },
  light: { next: "dark", icon: <Sun size={18} aria-hidden="true" />, name: "light" },
  dark: { next: "auto", icon: <Moon size={18} aria-hidden="true" />, name: "dark" },
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
      <LogOut size={18} aria-hidden="true" />
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
