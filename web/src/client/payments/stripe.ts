/** Stripe's Payment Element, with the payment method made here and confirmed by the server. */
import type { Stripe } from "@stripe/stripe-js";
import { loadStripe } from "@stripe/stripe-js/pure";
import { PaymentFormError, type PaymentForm, type PaymentProvider } from "./provider";

export class StripeProvider implements PaymentProvider {
  #stripe: Promise<Stripe> | undefined;

  constructor(private readonly publishableKey: string) {}

  async mount(stage: HTMLElement, { amountInCents, dark }: { amountInCents: number; dark: boolean }) {
    const stripe = await this.#load();
    const elements = stripe.elements({
      mode: "payment",
      amount: amountInCents,
      currency: "usd",
      paymentMethodCreation: "manual",
      allowedPaymentMethodTypes: ["card"],
      appearance: { theme: dark ? "night" : "stripe", variables: { borderRadius: "10px", fontSizeBase: "16px" } },
    });
    const element = elements.create("payment", { layout: "tabs" });
    element.mount(stage);
    await new Promise<void>((ready, fail) => {
      element.once("ready", () => ready());
      element.once("loaderror", ({ error }) => fail(new Error(error.message ?? "Stripe's form did not load.")));
    });
    return {
      setAmount: (amount) => elements.update({ amount }),
      createPaymentMethod: async () => {
        const submitted = await elements.submit();
        if (submitted.error) throw new PaymentFormError(submitted.error.message);
        const { error, paymentMethod } = await stripe.createPaymentMethod({ elements });
        if (error) throw new PaymentFormError(error.message);
        return paymentMethod.id;
      },
      unmount: () => element.destroy(),
    } satisfies PaymentForm;
  }

  async authenticate(clientSecret: string): Promise<boolean> {
    const { error } = await (await this.#load()).handleNextAction({ clientSecret });
    return error === undefined;
  }

  /** Loaded when someone is about to pay; after a failure (no network, a blocker) the next try loads again. */
  #load(): Promise<Stripe> {
    this.#stripe ??= loadStripe(this.publishableKey).then(
      (stripe) => {
        if (!stripe) throw new Error("Stripe is not available here.");
        return stripe;
      },
      (error: unknown) => {
        this.#stripe = undefined;
        throw error;
      },
    );
    return this.#stripe;
  }
}
