/** The meter: a minute partly paid. */
export function Logo() {
  return (
    <span className="logo">
      <svg viewBox="0 0 32 32" width="28" height="28" aria-hidden="true">
        <circle className="logo-track" cx="16" cy="16" r="12" pathLength="100" />
        <circle className="logo-paid" cx="16" cy="16" r="12" pathLength="100" strokeDasharray="70 100" />
        <circle className="logo-dot" cx="16" cy="16" r="4" />
      </svg>
      <span>CallMeter</span>
    </span>
  );
}
