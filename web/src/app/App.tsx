/** Who is here decides what is shown: nobody yet, someone signed out, someone signed in. */
import { lazy, Suspense, useEffect, useState } from "react";
import { Route, Switch } from "wouter";
import { CallMeterProvider, useStore, type SessionService } from "../client";
import { CallLayer } from "./call/CallLayer";
import { Earnings } from "./Earnings";
import { History } from "./History";
import { People } from "./People";
import { Shell } from "./Shell";
import { SignIn } from "./SignIn";
import { Notices } from "./Notices";
import { OwnCache } from "./OwnCache";
import { Splash } from "./Splash";
import { BuyTokens } from "./wallet/BuyTokens";

const Ops = lazy(() => import("./ops/Ops"));

export function App({ sessions }: { sessions: SessionService }) {
  const session = useStore(sessions.state);
  const [failed, setFailed] = useState(false);
  const [attempt, setAttempt] = useState(1);

  useEffect(() => {
    sessions.refresh().then(
      () => setFailed(false),
      () => setFailed(true),
    );
  }, [sessions, attempt]);

  const retry = () => {
    setFailed(false);
    setAttempt((before) => before + 1);
  };

  if (!session) return <Splash failed={failed} onRetry={retry} />;
  if (!session.authenticated) return <SignIn sessions={sessions} config={session.config} />;
  return (
    <OwnCache key={session.userId}>
      <CallMeterProvider sessions={sessions} session={session}>
        <Notices>
          <BuyTokens>
            <CallLayer>
              <Shell>
                <Suspense fallback={<p className="quiet">Loading…</p>}>
                  <Switch>
                    <Route path="/history" component={History} />
                    <Route path="/earnings" component={Earnings} />
                    <Route path="/ops" component={Ops} />
                    <Route component={People} />
                  </Switch>
                </Suspense>
              </Shell>
            </CallLayer>
          </BuyTokens>
        </Notices>
      </CallMeterProvider>
    </OwnCache>
  );
}
