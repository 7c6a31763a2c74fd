import { describe, expect, test } from "vitest";
import { readMeter, ServerClock } from "../src/client";
import { aCall, at, T0 } from "./fakes";

const ms = (seconds: number) => T0 + seconds * 1000;

describe("the meter", () => {
  test("reads elapsed and paid time from the server's times", () => {
    expect(readMeter(aCall(), ms(45), 35)).toEqual({
      elapsedS: 45,
      paidLeftS: 15,
      periodLeft: 0.25,
      tokensSpent: 10,
      periodsBilled: 1,
      periodsAffordable: 3,
      low: false,
    });
  });

  test.each([
    [20, 2, false],
    [19, 1, true],
    [0, 0, true],
  ])("with %i tokens left it buys %i periods more and warns: %s", (balance, periodsAffordable, low) => {
    expect(readMeter(aCall(), ms(5), balance)).toMatchObject({ periodsAffordable, low });
  });

  test("never shows less than nothing when the next period's news is late", () => {
    expect(readMeter(aCall(), ms(61))).toMatchObject({ paidLeftS: 0, periodLeft: 0 });
  });

  test("never shows more than the one period paid when this clock is a little behind the server's", () => {
    expect(readMeter(aCall(), ms(-0.2))).toMatchObject({ elapsedS: 0, paidLeftS: 60, periodLeft: 1 });
  });

  test("stands still once the call has ended", () => {
    const call = aCall({ status: "ended", endedAt: at(50) });
    expect(readMeter(call, ms(500))).toMatchObject({ elapsedS: 50, paidLeftS: 0 });
  });
});

describe("the server's clock", () => {
  /** One exchange, in local milliseconds, with a server that is ahead by `aheadMs`. */
  function exchange(clock: ServerClock, sentAt: number, tookMs: number, aheadMs: number) {
    const answeredAt = sentAt + tookMs / 2 + aheadMs;
    const date = new Date(Math.floor(answeredAt / 1000) * 1000).toUTCString();
    clock.observe(date, sentAt, sentAt + tookMs);
  }

  test("is found within a fifth of a second after some answers, though each tells whole seconds only", () => {
    const clock = new ServerClock();
    for (let step = 0; step < 12; step++) exchange(clock, T0 + step * 1_370, 40, 90_500);
    expect(Math.abs(clock.offsetMs - 90_500)).toBeLessThan(200);
  });

  test("starts over when one of the clocks is set", () => {
    const clock = new ServerClock();
    for (let step = 0; step < 5; step++) exchange(clock, T0 + step * 1_370, 40, 90_000);
    exchange(clock, T0 + 60_000, 40, -5_000);
    expect(Math.abs(clock.offsetMs + 5_000)).toBeLessThan(600);
  });

  test("is the local one until an answer was seen", () => {
    const clock = new ServerClock(() => T0);
    clock.observe(null, T0, T0);
    clock.observe("no date", T0, T0);
    expect(clock.now()).toBe(T0);
  });
});
