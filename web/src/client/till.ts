/**
 * Where tokens are bought. A server without its enhanced features sells by the old route alone and has none that says
 * how a purchase stands: there the wallet's own history tells, where a purchase that was paid is an entry with its id.
 */
import { NoAnswer, type Answer, type ApiService } from "./api";
import type { SessionService } from "./session";
import type { Purchase, Purchased, PurchaseRequest } from "./wire";

export type Standing = Pick<Purchase, "status" | "tokens" | "clientSecret">;

export interface Till {
  /** 200 with the tokens, or 202 with a `clientSecret` to authenticate; a decline is an ApiError of 402. */
  buy(body: PurchaseRequest, idempotencyKey: string): Promise<Answer<Purchased>>;
  /** How a purchase stands by now, which a replayed answer doesn't tell. */
  standing(answer: Purchased): Promise<Standing>;
}

/** The routes of a server with its enhanced features. */
export function newTill(api: ApiService): Till {
  return {
    buy: (body, idempotencyKey) => api.request("POST", "/api/v1/payments/purchase-tokens", { body, idempotencyKey }),
    standing: ({ purchaseId }) => api.purchase(purchaseId),
  };
}

/** A purchase is looked for within seconds of being paid: the newest page has it. */
const newestEntries = 100;

/** The old route: the same body, the same key for the same intent. That the bank refuses later is not to be seen. */
export function oldTill(api: ApiService): Till {
  return {
    buy: (body, idempotencyKey) => api.request("POST", "/api/payments/tokens/purchase", { body, idempotencyKey }),
    async standing({ purchaseId, status, tokens }) {
      const { items } = await api.transactions({ limit: newestEntries });
      const paid = items.find((entry) => entry.type === "purchase" && entry.purchaseId === purchaseId);
      return paid ? { status: "succeeded", tokens: paid.amount } : { status, tokens };
    },
  };
}

/**
 * The till for this user alone. A request that is repeated after somebody else has signed in would carry their cookie,
 * and charge one person's card for the other's tokens: it is not sent, and its intent waits for its buyer.
 */
export function tillOf(userId: string, sessions: Pick<SessionService, "state">, till: Till): Till {
  const asBuyer = async <T>(ask: () => Promise<T>): Promise<T> => {
    const session = sessions.state.get();
    if (!session?.authenticated || session.userId !== userId) throw new NoAnswer("Its buyer is not signed in.");
    return ask();
  };
  return {
    buy: (body, idempotencyKey) => asBuyer(() => till.buy(body, idempotencyKey)),
    standing: (answer) => asBuyer(() => till.standing(answer)),
  };
}
