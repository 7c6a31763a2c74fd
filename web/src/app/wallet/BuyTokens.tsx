/**
 * Buying tokens, from anywhere on the page and in the middle of a call.
 *
 * The dialog shows one purchase from the choice of an amount to its answer. A purchase that a reload interrupted opens
 * it again by itself and is finished, never repeated.
 */
import { mdiAlertOutline, mdiBankOutline, mdiCheck, mdiClose } from "@mdi/js";
import {
  createContext,
  use,
  useCallback,
  useEffect,
  useMemo,
  useRef,
  useState,
  type FormEvent,
  type ReactNode,
} from "react";
import {
  PaymentFormError,
  useCallMeter,
  useStore,
  useTokenBalance,
  type PaymentForm,
  type PaymentProvider,
  type PurchaseOutcome,
  type PurchaseStep,
} from "../../client";
import { LocalStripeProvider } from "../../client/payments/localstripe";
import { StripeProvider } from "../../client/payments/stripe";
import { Dialog } from "../Dialog";
import { clockTime, count, money, spokenDuration } from "../format";
import { Icon } from "../Icon";
import { useNotify } from "../Notices";
import { isDark } from "../theme";
import { BankQuestion } from "./BankQuestion";

const Context = createContext<() => void>(() => undefined);

/** Opens the purchase dialog. */
export const useBuyTokens = (): (() => void) => use(Context);

export function BuyTokens({ children }: { children: ReactNode }) {
  const { purchases } = useCallMeter();
  // A bank's question outlives the dialog: a purchase goes on when it is closed.
  const { provider, question } = usePaymentProvider();
  const [open, setOpen] = useState(() => purchases.pending() !== undefined);
  // A closed dialog is taken apart, so that the next purchase starts from nothing.
  const [round, setRound] = useState(0);
  const shown = useRef(open);
  const show = useCallback(() => {
    shown.current = true;
    setOpen(true);
  }, []);
  const close = useCallback(() => {
    shown.current = false;
    setOpen(false);
    setRound((value) => value + 1);
  }, []);
  const notify = useNotify();
  // Whoever closed the dialog meanwhile is told beside it.
  const tell = useCallback(
    (outcome: PurchaseOutcome) => {
      if (!shown.current) notify(noticeOf(outcome), outcome.kind === "succeeded" ? "good" : "plain");
    },
    [notify],
  );
  return (
    <Context value={show}>
      {children}
      {open && <BuyDialog key={round} provider={provider} onClose={close} onOutcome={tell} />}
      {question}
    </Context>
  );
}

const presetsCents = [500, 1_000, 2_000, 5_000];
const leastCents = 50;
const mostCents = 1_000_000;

const steps: Record<PurchaseStep, string> = {
  preparing: "Checking your card…",
  charging: "Charging your card…",
  authenticating: "Waiting for your bank…",
  confirming: "Confirming with your bank…",
};

function BuyDialog(props: {
  provider: PaymentProvider | undefined;
  onClose: () => void;
  onOutcome: (outcome: PurchaseOutcome) => void;
}) {
  const { provider, onClose, onOutcome } = props;
  const { purchases } = useCallMeter();
  const [amount, setAmount] = useState<number>(() => purchases.pending()?.body.amountInCents ?? 1_000);
  // From the click until the outcome is shown: the purchase's own last step is over a moment before that.
  const [waiting, setWaiting] = useState(false);
  const step = useStore(purchases.step);
  const [outcome, setOutcome] = useState<PurchaseOutcome>();
  const [problem, setProblem] = useState<string>();
  const [form, setForm] = useState<PaymentForm>();

  const authenticate = useCallback(
    (clientSecret: string) => provider?.authenticate(clientSecret) ?? Promise.resolve(false),
    [provider],
  );

  const run = useCallback(
    async (purchase: () => Promise<PurchaseOutcome>) => {
      setProblem(undefined);
      setOutcome(undefined);
      setWaiting(true);
      try {
        const reached = await purchase();
        setOutcome(reached);
        onOutcome(reached);
      } catch (error) {
        setProblem(
          error instanceof PaymentFormError
            ? error.message
            : "The payment couldn’t be completed. Try again: you won’t be charged twice.",
        );
      } finally {
        setWaiting(false);
      }
    },
    [onOutcome],
  );

  const resume = useCallback(() => run(() => purchases.resume({ authenticate })), [run, purchases, authenticate]);

  // An interrupted purchase is finished first. The service runs one at a time, so a second effect joins the first, and
  // a dialog that is opened again the purchase that went on without it.
  useEffect(() => {
    if (purchases.pending()) void resume();
  }, [purchases, resume]);

  const busy = waiting || step !== undefined;
  const at = steps[step ?? "confirming"];

  function submit(event: FormEvent) {
    event.preventDefault();
    if (!form || busy) return;
    void run(() => purchases.buy(amount, { createPaymentMethod: () => form.createPaymentMethod(), authenticate }));
  }

  // Once it is with the server it goes on without the dialog, which must not stand before a call that is to be ended.
  const held = step === "preparing" || step === "authenticating";
  return (
    <>
      {/* Stripe shows a bank's page over everything on the page, which a modal dialog would cover. */}
      <Dialog open={step !== "authenticating"} label="Buy tokens" {...(held ? {} : { onClose })} className="buy">
        <div className="dialog-head">
          <h2>Buy tokens</h2>
          <button type="button" className="icon-button" aria-label="Close" disabled={held} onClick={onClose}>
            <Icon path={mdiClose} size={20} />
          </button>
        </div>
        {outcome?.kind === "succeeded" ? (
          <Bought outcome={outcome} onClose={onClose} />
        ) : outcome?.kind === "processing" ? (
          <Processing onClose={onClose} />
        ) : outcome?.kind === "unanswered" ? (
          <Unanswered onRetry={() => void resume()} />
        ) : provider ? (
          <form className="stack" onSubmit={submit}>
            <AmountChoice amount={amount} onChange={setAmount} disabled={busy} />
            <CardStage provider={provider} amountInCents={amount} onReady={setForm} />
            {outcome && <Refusal key={JSON.stringify(outcome)} outcome={outcome} />}
            {problem && (
              <p className="problem" role="alert">
                {problem}
              </p>
            )}
            <button type="submit" className="button primary wide" disabled={busy || !form}>
              {busy ? at : `Pay ${money(amount)}`}
            </button>
            <p className="hidden" role="status">
              {busy && at}
            </p>
          </form>
        ) : (
          <p className="quiet">Payments aren’t set up on this server.</p>
        )}
      </Dialog>
    </>
  );
}

function usePaymentProvider(): { provider: PaymentProvider | undefined; question: ReactNode } {
  const { api, config } = useCallMeter();
  const [answer, setAnswer] = useState<(success: boolean) => void>();

  const provider = useMemo(() => {
    if (config.stripeApiBase) {
      const ask = () => new Promise<boolean>((resolve) => setAnswer(() => resolve));
      return new LocalStripeProvider(api, config.stripeApiBase, ask);
    }
    return config.stripePublishableKey ? new StripeProvider(config.stripePublishableKey) : undefined;
  }, [api, config.stripeApiBase, config.stripePublishableKey]);

  const question = answer && (
    <BankQuestion
      onAnswer={(success) => {
        answer(success);
        setAnswer(undefined);
      }}
    />
  );
  return { provider, question };
}

function AmountChoice(props: { amount: number; onChange: (cents: number) => void; disabled: boolean }) {
  const { amount, onChange, disabled } = props;
  const { config } = useCallMeter();
  const [own, setOwn] = useState(!presetsCents.includes(amount));
  const granted = Math.floor((amount * config.tokensPerUsd) / 100);

  return (
    <fieldset className="amounts" disabled={disabled}>
      <legend>Amount</legend>
      <div className="choices">
        {presetsCents.map((cents) => (
          <label key={cents} className="choice">
            <input
              type="radio"
              name="amount"
              checked={!own && amount === cents}
              onChange={() => {
                setOwn(false);
                onChange(cents);
              }}
            />
            <span>{money(cents).replace(".00", "")}</span>
          </label>
        ))}
        <label className="choice">
          <input type="radio" name="amount" checked={own} onChange={() => setOwn(true)} />
          <span>Other</span>
        </label>
      </div>
      {own && (
        <label className="field">
          <span>Amount in dollars</span>
          <input
            type="number"
            inputMode="decimal"
            min={leastCents / 100}
            max={mostCents / 100}
            step="0.01"
            required
            defaultValue={(amount / 100).toFixed(2)}
            onChange={(event) => {
              const cents = Math.round(event.target.valueAsNumber * 100);
              if (cents >= leastCents && cents <= mostCents) onChange(cents);
            }}
          />
        </label>
      )}
      <p className="quiet">
        You get <strong>{count(granted)} tokens</strong>.
      </p>
    </fieldset>
  );
}

/** The provider's own form, kept through React's renders. */
function CardStage(props: {
  provider: PaymentProvider;
  amountInCents: number;
  onReady: (form: PaymentForm | undefined) => void;
}) {
  const { provider, amountInCents, onReady } = props;
  const stage = useRef<HTMLDivElement>(null);
  const form = useRef<PaymentForm>(undefined);
  const amount = useRef(amountInCents);
  const [state, setState] = useState<"loading" | "ready" | "failed">("loading");
  const [attempt, setAttempt] = useState(0);

  useEffect(() => {
    amount.current = amountInCents;
    form.current?.setAmount(amountInCents);
  }, [amountInCents]);

  useEffect(() => {
    const host = stage.current;
    if (!host) return;
    let gone = false;
    setState("loading");
    provider.mount(host, { amountInCents: amount.current, dark: isDark() }).then(
      (mounted) => {
        if (gone) return mounted.unmount();
        form.current = mounted;
        setState("ready");
        onReady(mounted);
      },
      () => {
        if (!gone) setState("failed");
      },
    );
    return () => {
      gone = true;
      form.current?.unmount();
      form.current = undefined;
      onReady(undefined);
    };
  }, [provider, onReady, attempt]);

  return (
    <div className="card-stage">
      <div ref={stage} />
      {state === "loading" && <p className="quiet">Loading the card form…</p>}
      {state === "failed" && (
        <p className="problem" role="alert">
          The card form could not be loaded.{" "}
          <button type="button" className="link" onClick={() => setAttempt((value) => value + 1)}>
            Try again
          </button>
        </p>
      )}
    </div>
  );
}

function Bought(props: { outcome: Extract<PurchaseOutcome, { kind: "succeeded" }>; onClose: () => void }) {
  const { data } = useTokenBalance();
  return (
    <div className="outcome" role="status">
      <span className="outcome-mark good">
        <Icon path={mdiCheck} size={28} />
      </span>
      <h3>{count(props.outcome.tokens)} tokens are yours</h3>
      {data && <p className="quiet">Your balance is {count(data.balance)} tokens.</p>}
      <button type="button" className="button primary wide" onClick={props.onClose} autoFocus data-first-focus>
        Done
      </button>
    </div>
  );
}

function Processing({ onClose }: { onClose: () => void }) {
  return (
    <div className="outcome" role="status">
      <span className="outcome-mark">
        <Icon path={mdiBankOutline} size={28} />
      </span>
      <h3>Your bank is still working on it</h3>
      <p className="quiet">The tokens appear in your balance by themselves as soon as the payment is confirmed.</p>
      <button type="button" className="button primary wide" onClick={onClose} autoFocus data-first-focus>
        Close
      </button>
    </div>
  );
}

function Unanswered({ onRetry }: { onRetry: () => void }) {
  return (
    <div className="outcome" role="alert">
      <span className="outcome-mark warn">
        <Icon path={mdiAlertOutline} size={28} />
      </span>
      <h3>The server didn’t answer</h3>
      <p className="quiet">
        The payment may have gone through. Asking again finds out; it can’t charge you a second time.
      </p>
      <button type="button" className="button primary wide" onClick={onRetry} autoFocus data-first-focus>
        Ask again
      </button>
    </div>
  );
}

function Refusal({ outcome }: { outcome: PurchaseOutcome }) {
  const waitS = useCountdown(outcome.kind === "rate_limited" ? outcome.retryAfterS : 0);
  if (outcome.kind === "rate_limited" && waitS === 0) return null;
  return (
    <p className="problem" role="alert">
      {refusalText(outcome)}
      {outcome.kind === "rate_limited" && <span data-testid="retry-after"> {spokenDuration(waitS)}.</span>}
    </p>
  );
}

function noticeOf(outcome: PurchaseOutcome): string {
  switch (outcome.kind) {
    case "succeeded":
      return `${count(outcome.tokens)} tokens are yours.`;
    case "processing":
      return "Your bank is still working on the payment.";
    case "unanswered":
      return "The server didn’t say whether the payment went through. “Buy tokens” finds out.";
    case "rate_limited":
      return "Too many purchases in a short time. Nothing was charged.";
    default:
      return refusalText(outcome);
  }
}

function refusalText(outcome: PurchaseOutcome): string {
  switch (outcome.kind) {
    case "declined":
      return `${outcome.message} Nothing was charged; you can try another card.`;
    case "not_authenticated":
      return "Your bank didn’t confirm that it was you. Nothing was charged.";
    case "rate_limited":
      return "Too many purchases in a short time. Try again in";
    case "over_daily_limit": {
      const left = Math.max(0, outcome.limitCents - outcome.spentCents);
      const until = outcome.resetsAt === undefined ? "today" : `until ${clockTime(outcome.resetsAt)}`;
      return `That is over your daily limit of ${money(outcome.limitCents)}. You can still spend ${money(left)} ${until}.`;
    }
    case "refused":
      return outcome.message;
    default:
      return "";
  }
}

function useCountdown(seconds: number): number {
  const [left, setLeft] = useState(Math.ceil(seconds));
  useEffect(() => {
    if (left <= 0) return;
    const timer = setTimeout(() => setLeft((value) => value - 1), 1_000);
    return () => clearTimeout(timer);
  }, [left]);
  return left;
}
