/** How figures read on the page. */
const number = new Intl.NumberFormat("en-US");
const usd = new Intl.NumberFormat("en-US", { style: "currency", currency: "USD" });
const dayAndTime = new Intl.DateTimeFormat("en-US", {
  month: "short",
  day: "numeric",
  hour: "numeric",
  minute: "2-digit",
});
const day = new Intl.DateTimeFormat("en-US", { weekday: "long", month: "long", day: "numeric" });
const time = new Intl.DateTimeFormat("en-US", { hour: "numeric", minute: "2-digit" });

export const count = (value: number): string => number.format(value);

const tokens = (value: number): string => `${number.format(value)} ${Math.abs(value) === 1 ? "token" : "tokens"}`;

export const signed = (value: number): string =>
  value > 0 ? `+${number.format(value)}` : number.format(value).replace("-", "−");

export const money = (cents: number): string => usd.format(cents / 100);

/** What tokens cost, or are worth. */
export const worth = (value: number, tokensPerUsd: number): string => usd.format(value / tokensPerUsd);

/** 65 → `1:05`, 3,600 → `1:00:00`. */
export function duration(seconds: number): string {
  const whole = Math.max(0, Math.floor(seconds));
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor((whole % 3600) / 60), whole % 60];
  const twoDigits = (value: number) => String(value).padStart(2, "0");
  return h > 0 ? `${h}:${twoDigits(m)}:${twoDigits(s)}` : `${m}:${twoDigits(s)}`;
}

/** 65 → `1 min 5 s`: for sentences and screen readers. */
export function spokenDuration(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor((whole % 3600) / 60), whole % 60];
  const parts = [h > 0 && `${h} h`, m > 0 && `${m} min`, (s > 0 || whole === 0) && h === 0 && `${s} s`];
  return parts.filter(Boolean).join(" ");
}

/** What a period is called: `min`, or so many seconds. */
export function period(periodSeconds: number): string {
  return periodSeconds === 60 ? "min" : periodSeconds === 1 ? "s" : `${periodSeconds} s`;
}

/** `10 tokens / min` */
export const rate = (tokensPerPeriod: number, periodSeconds: number): string =>
  `${tokens(tokensPerPeriod)} / ${period(periodSeconds)}`;

export const moment = (iso: string): string => dayAndTime.format(new Date(iso));

export const clockTime = (iso: string): string => time.format(new Date(iso));

/** `Today`, `Yesterday`, or the day's name and date. */
export function dayOf(iso: string, now = new Date()): string {
  const date = new Date(iso);
  const daysAgo = Math.round((midnight(now) - midnight(date)) / 86_400_000);
  return daysAgo === 0 ? "Today" : daysAgo === 1 ? "Yesterday" : day.format(date);
}

function midnight(date: Date): number {
  return new Date(date.getFullYear(), date.getMonth(), date.getDate()).getTime();
}
