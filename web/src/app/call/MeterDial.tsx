import type { ReactNode } from "react";

/** The current period as a ring that empties while it is used up. */
export function MeterDial({ left, low, children }: { left: number; low: boolean; children: ReactNode }) {
  return (
    <div className={low ? "dial low-dial" : "dial"}>
      <svg viewBox="0 0 120 120" aria-hidden="true">
        <circle className="dial-track" cx="60" cy="60" r="54" pathLength="100" />
        <circle className="dial-left" cx="60" cy="60" r="54" pathLength="100" strokeDasharray={`${left * 100} 100`} />
      </svg>
      <div className="dial-text">{children}</div>
    </div>
  );
}
