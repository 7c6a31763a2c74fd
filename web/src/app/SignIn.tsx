/** The way in: a name on a development server; elsewhere one comes signed in from the app around this page. */
import { useEffect, useState, type FormEvent } from "react";
import type { PublicConfig, SessionService } from "../client";
import { Logo } from "./Logo";
import { sentence } from "./sentences";

export function SignIn({ sessions, config }: { sessions: SessionService; config: PublicConfig }) {
  useEffect(() => {
    document.title = "CallMeter";
  }, []);
  return (
    <main className="sign-in">
      <Logo />
      <h1>Talk face to face, pay by the minute.</h1>
      <p className="lede">
        You hold tokens, a call takes them period by period, and you see every one of them go. Hang up and it stops.
      </p>
      {config.devLogin ? (
        <DevelopmentForm sessions={sessions} />
      ) : (
        <p className="card quiet">You’re signed out. Open this page from your app to sign in again.</p>
      )}
    </main>
  );
}

function DevelopmentForm({ sessions }: { sessions: SessionService }) {
  const [userId, setUserId] = useState("");
  const [asAdmin, setAsAdmin] = useState(false);
  const [problem, setProblem] = useState<string>();
  const [busy, setBusy] = useState(false);

  async function submit(event: FormEvent) {
    event.preventDefault();
    setBusy(true);
    try {
      await sessions.signInForDevelopment({ userId: userId.trim(), role: asAdmin ? "admin" : "user" });
    } catch (error) {
      setProblem(sentence(error));
      setBusy(false);
    }
  }

  return (
    <form className="card stack" onSubmit={submit}>
      <label className="field">
        <span>Your name</span>
        <input
          type="text"
          value={userId}
          onChange={(event) => setUserId(event.target.value)}
          placeholder="alice"
          autoComplete="username"
          autoCapitalize="none"
          spellCheck={false}
          maxLength={128}
          required
        />
      </label>
      <label className="check">
        <input type="checkbox" checked={asAdmin} onChange={(event) => setAsAdmin(event.target.checked)} />
        <span>Sign in as an operator</span>
      </label>
      <button type="submit" className="button primary wide" disabled={busy || userId.trim() === ""}>
        Sign in
      </button>
      {problem && (
        <p className="problem" role="alert">
          {problem}
        </p>
      )}
      <p className="quiet small">
        This is a development server: any name will do. Open the page in another browser to be someone else.
      </p>
    </form>
  );
}
