/**
 * One Idempotency-Key for each thing a person meant to do.
 *
 * A key is made when the intent is, written down before the request leaves, and kept until the server has answered for
 * good. So a double click, a retry after a lost answer and a reload all ask for the same thing, and it happens once.
 * Kept in the tab's session storage: a reload finds it, and another tab's purchase is another intent.
 */
import { ApiError, NoAnswer } from "./api";
import { pause } from "./pause";

export interface Intent<Body> {
  readonly key: string;
  readonly body: Body;
  readonly createdAt: number;
  /** True once a request may have reached the server: what it did is then unknown until it answers. */
  readonly sent: boolean;
  /** What the server calls what came of it, once known. */
  readonly reference?: string;
}

export class IntentStore {
  constructor(
    private readonly storage: Pick<Storage, "getItem" | "setItem" | "removeItem"> = sessionStorage,
    private readonly prefix = "callmeter.intent.",
  ) {}

  /** The intent of this scope that still waits for its answer. */
  open<Body>(scope: string): Intent<Body> | undefined {
    const text = this.storage.getItem(this.prefix + scope);
    return text === null ? undefined : (JSON.parse(text) as Intent<Body>);
  }

  /** A new intent, or the open one if it means the same. Throws where another one's outcome is still unknown. */
  begin<Body>(scope: string, body: Body): Intent<Body> {
    const open = this.open<Body>(scope);
    if (open && JSON.stringify(open.body) === JSON.stringify(body)) return open;
    if (open?.sent) throw new IntentUnanswered(scope);
    const intent: Intent<Body> = { key: crypto.randomUUID(), body, createdAt: Date.now(), sent: false };
    this.#write(scope, intent);
    return intent;
  }

  /** Adds what became known of the open intent. */
  note<Body>(scope: string, known: Partial<Pick<Intent<Body>, "sent" | "reference">>): void {
    const open = this.open<Body>(scope);
    if (open) this.#write(scope, { ...open, ...known });
  }

  /** It is answered for good; the next one is a new intent. */
  settle(scope: string): void {
    this.storage.removeItem(this.prefix + scope);
  }

  #write(scope: string, intent: Intent<unknown>): void {
    this.storage.setItem(this.prefix + scope, JSON.stringify(intent));
  }
}

/** An earlier intent must be resolved first: sending another could do both. */
export class IntentUnanswered extends Error {
  override readonly name = "IntentUnanswered";

  constructor(readonly scope: string) {
    super(`The last ${scope} has not been answered yet.`);
  }
}

export interface Delivery {
  /** Waits between attempts; as many attempts more as there are entries. */
  retryDelaysMs?: readonly number[];
  sleep?: (ms: number) => Promise<void>;
}

/**
 * Sends an open intent until it is answered, always with its one key.
 *
 * A refusal settles it and is thrown. 429 is thrown at once with the intent left open and unsent, so that trying again
 * later uses the same key. Where no attempt was answered NoAnswer (or the last 5xx) is thrown, the intent left open.
 */
export async function deliver<Body, T>(
  intents: IntentStore,
  scope: string,
  send: (intent: Intent<Body>) => Promise<T>,
  { retryDelaysMs = [400, 1_200, 3_000], sleep = pause }: Delivery = {},
): Promise<T> {
  const intent = intents.open<Body>(scope);
  if (!intent) throw new Error(`there is no open ${scope} to deliver`);
  for (let attempt = 0; ; attempt++) {
    intents.note(scope, { sent: true });
    try {
      return await send(intent);
    } catch (error) {
      if (error instanceof ApiError && error.status === 429) {
        if (attempt === 0 && !intent.sent) intents.note(scope, { sent: false });
        throw error;
      }
      if (!mayStillHappen(error)) {
        intents.settle(scope);
        throw error;
      }
      const delay = retryDelaysMs[attempt];
      if (delay === undefined) throw error;
      const asked = error instanceof ApiError ? (error.retryAfter ?? 0) * 1000 : 0;
      await sleep(Math.max(delay, Math.min(asked, 10_000)));
    }
  }
}

/** Whether the server may have done it, or still be doing it. */
export function mayStillHappen(error: unknown): boolean {
  if (error instanceof NoAnswer) return true;
  if (!(error instanceof ApiError)) return false;
  return error.status >= 500 || error.status === 408 || error.code === "idempotency_in_progress";
}
