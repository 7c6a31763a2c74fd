/**
 * Buying tokens: one charge for each time someone means to buy, whatever is clicked, lost or reloaded.
 *
 * A purchase is an intent (see intents) from the moment its payment method exists until the server gave its final
 * answer, a 3-D Secure step in between included. `pending` finds one that a reload interrupted, and `resume` finishes it
 * with the key it began with.
 */
import { ApiError, type Answer } from "./api";
import { deliver, type Delivery, type Intent, type IntentStore } from "./intents";
import { pause } from "./pause";
import { Store } from "./store";
import type { Standing, Till } from "./till";
import type { Purchased, PurchaseRequest } from "./wire";

const scope = "purchase";

export type PurchaseStep = "preparing" | "charging" | "authenticating" | "confirming";

export type PurchaseOutcome =
  | { kind: "succeeded"; tokens: number }
  /** The bank said no; another card may do. */
  | { kind: "declined"; message: string }
  /** The cardholder did not authenticate. */
  | { kind: "not_authenticated" }
  /** Accepted, and finished by the bank later; the balance is pushed then. */
  | { kind: "processing" }
  | { kind: "rate_limited"; retryAfterS: number }
  | { kind: "over_daily_limit"; limitCents: number; spentCents: number; resetsAt: string | undefined }
  /** No answer: whether it was charged is unknown, and `resume` finds out without charging again. */
  | { kind: "unanswered" }
  | { kind: "refused"; message: string };

export interface PurchaseTools {
  createPaymentMethod: () => Promise<string>;
  authenticate: (clientSecret: string) => Promise<boolean>;
}

export interface PurchaseTiming extends Delivery {
  /** Waits between looks at a purchase that its webhook has yet to finish. */
  confirmDelaysMs?: readonly number[];
}

export class PurchaseService {
  /** What the purchase that is under way is at, for whoever shows it, also one who comes to it later. */
  readonly step = new Store<PurchaseStep | undefined>(undefined);
  #running: Promise<PurchaseOutcome> | undefined;

  constructor(
    private readonly till: Till,
    private readonly intents: IntentStore,
    private readonly timing: PurchaseTiming = {},
  ) {}

  /** A purchase whose outcome this tab doesn't know yet. */
  pending(): Intent<PurchaseRequest> | undefined {
    const open = this.intents.open<PurchaseRequest>(scope);
    return open?.sent ? open : undefined;
  }

  /** Buys; asked again while it runs (a double click), it is the same purchase. Throws PaymentFormError only. */
  buy(amountInCents: number, tools: PurchaseTools): Promise<PurchaseOutcome> {
    return this.#alone(async () => {
      if (this.pending()) return this.#finish(tools);
      this.step.set("preparing");
      const paymentMethodId = await tools.createPaymentMethod();
      this.intents.begin<PurchaseRequest>(scope, { amountInCents, paymentMethodId });
      return this.#finish(tools);
    });
  }

  /** Finishes the pending purchase, with the key and the payment method it has. */
  resume(tools: Omit<PurchaseTools, "createPaymentMethod">): Promise<PurchaseOutcome> {
    return this.#alone(() => this.#finish(tools));
  }

  #alone(work: () => Promise<PurchaseOutcome>): Promise<PurchaseOutcome> {
    this.#running ??= work().finally(() => {
      this.#running = undefined;
      this.step.set(undefined);
    });
    return this.#running;
  }

  async #finish(tools: Omit<PurchaseTools, "createPaymentMethod">): Promise<PurchaseOutcome> {
    try {
      this.step.set("charging");
      const { body: answer } = await deliver<PurchaseRequest, Answer<Purchased>>(
        this.intents,
        scope,
        ({ body, key }) => this.till.buy(body, key),
        this.timing,
      );
      this.intents.note(scope, { reference: answer.purchaseId });
      if (answer.status === "succeeded") return this.#settled({ kind: "succeeded", tokens: answer.tokens });
      return await this.#conclude(answer, tools);
    } catch (error) {
      // Whatever went wrong on the way to its outcome, it may have been charged: it is finished before another is made.
      if (this.pending()) return { kind: "unanswered" };
      return outcomeOf(error);
    }
  }

  /**
   * A replayed answer tells what was true when it was first given; the purchase itself tells what is. The bank may want
   * its cardholder at once or only after a while, and our server learns by webhook, within seconds, what came of it.
   */
  async #conclude(answer: Purchased, tools: Omit<PurchaseTools, "createPaymentMethod">): Promise<PurchaseOutcome> {
    const { confirmDelaysMs = [500, 1000, 1000, 2000, 2000, 3000, 5000, 5000], sleep = pause } = this.timing;
    let delays = [...confirmDelaysMs];
    let authenticated = false;
    for (;;) {
      const purchase = await this.till.standing(answer);
      if (isFinished(purchase)) return this.#settled(outcomeOfPurchase(purchase));
      const clientSecret = purchase.clientSecret ?? answer.clientSecret;
      if (purchase.status === "requires_action" && clientSecret && !authenticated) {
        this.step.set("authenticating");
        authenticated = await tools.authenticate(clientSecret);
        if (!authenticated) return this.#settled({ kind: "not_authenticated" });
        delays = [...confirmDelaysMs];
      }
      const delay = delays.shift();
      if (delay === undefined) return this.#settled({ kind: "processing" });
      this.step.set("confirming");
      await sleep(delay);
    }
  }

  #settled(outcome: PurchaseOutcome): PurchaseOutcome {
    this.intents.settle(scope);
    return outcome;
  }
}

function isFinished(purchase: Standing): boolean {
  return purchase.status === "succeeded" || purchase.status === "failed";
}

function outcomeOfPurchase({ status, tokens }: Standing): PurchaseOutcome {
  return status === "succeeded"
    ? { kind: "succeeded", tokens }
    : { kind: "declined", message: "The bank declined the payment." };
}

function outcomeOf(error: unknown): PurchaseOutcome {
  if (!(error instanceof ApiError)) throw error;
  if (error.status === 402) return { kind: "declined", message: error.message };
  if (error.status === 429) return { kind: "rate_limited", retryAfterS: error.retryAfter ?? 60 };
  if (error.code === "daily_limit_exceeded") {
    const { limitCents, spentCents, resetsAt } = error.problem;
    return {
      kind: "over_daily_limit",
      limitCents: Number(limitCents ?? 0),
      spentCents: Number(spentCents ?? 0),
      resetsAt: typeof resetsAt === "string" ? resetsAt : undefined,
    };
  }
  return { kind: "refused", message: error.message };
}
