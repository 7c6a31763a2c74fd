/**
 * The server's time, as well as a browser can know it.
 *
 * A device's clock may be minutes off, and the meter counts in the server's seconds. Each HTTP answer carries a `Date`
 * cut to whole seconds, so it bounds the difference between the two clocks from both sides; the bounds of many answers
 * intersect to well under a second.
 */
export class ServerClock {
  #least = -Infinity;
  #most = Infinity;

  constructor(readonly localNow: () => number = Date.now) {}

  /** Milliseconds since 1970 by the server's clock. */
  readonly now = (): number => this.localNow() + this.offsetMs;

  /** Server minus local, in milliseconds; zero until the first answer was seen. */
  get offsetMs(): number {
    return Number.isFinite(this.#least) && Number.isFinite(this.#most) ? (this.#least + this.#most) / 2 : 0;
  }

  /** One answer: what its `Date` header said, and the local times around the exchange. */
  observe(dateHeader: string | null, sentAtMs: number, receivedAtMs: number): void {
    const second = dateHeader === null ? Number.NaN : Date.parse(dateHeader);
    if (Number.isNaN(second)) return;
    const least = second - receivedAtMs;
    const most = second + 1000 - sentAtMs;
    const disjoint = least > this.#most || most < this.#least;
    // Bounds that exclude each other mean one of the clocks was set: only the newest answer counts then.
    this.#least = disjoint ? least : Math.max(this.#least, least);
    this.#most = disjoint ? most : Math.min(this.#most, most);
  }
}
