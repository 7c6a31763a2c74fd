import { Logo } from "./Logo";

/** Before the server said who is here, and where it cannot be reached. */
export function Splash({ failed, onRetry }: { failed: boolean; onRetry: () => void }) {
  return (
    <main className="splash">
      <Logo />
      {failed ? (
        <>
          <h1>The server can’t be reached</h1>
          <p className="quiet">Check your connection, then try again.</p>
          <button type="button" className="button primary" onClick={onRetry}>
            Try again
          </button>
        </>
      ) : (
        <p className="quiet" role="status">
          Connecting…
        </p>
      )}
    </main>
  );
}
