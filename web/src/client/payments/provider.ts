/**
 * Who takes the card: Stripe's own form in production, a plain one against the embedded stand-in in development.
 *
 * Card data goes from the form to the provider; this client and its server only ever see the payment method's id.
 */
export interface PaymentProvider {
  /** Puts the card form into `stage`. */
  mount(stage: HTMLElement, options: { amountInCents: number; dark: boolean }): Promise<PaymentForm>;
  /** Has the cardholder authenticate (3-D Secure); false where they gave up or failed. */
  authenticate(clientSecret: string): Promise<boolean>;
}

export interface PaymentForm {
  setAmount(amountInCents: number): void;
  /** The id of a payment method made of what was typed; throws PaymentFormError for what the person can correct. */
  createPaymentMethod(): Promise<string>;
  unmount(): void;
}

export class PaymentFormError extends Error {
  override readonly name = "PaymentFormError";
}
