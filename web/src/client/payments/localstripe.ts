/**
 * The embedded Stripe stand-in of a development server: a plain form of test cards, and a question instead of a bank.
 *
 * The stand-in makes payment methods for secret keys only, so the development server passes the card on; its 3-D Secure
 * step takes any publishable key and is done from here.
 */
import { ApiError, type ApiService } from "../api";
import { PaymentFormError, type PaymentForm, type PaymentProvider } from "./provider";

const testCards = [
  { number: "4242424242424242", label: "Pays" },
  { number: "4000002500003155", label: "Asks for authentication" },
  { number: "4000000000000341", label: "Is declined" },
] as const;

export class LocalStripeProvider implements PaymentProvider {
  constructor(
    private readonly api: ApiService,
    private readonly stripeApiBase: string,
    /** Plays the bank: asks whether the cardholder authenticates. */
    private readonly askCardholder: () => Promise<boolean>,
  ) {}

  async mount(stage: HTMLElement): Promise<PaymentForm> {
    const form = cardForm(stage.ownerDocument);
    stage.replaceChildren(form.root);
    return {
      setAmount: () => undefined,
      createPaymentMethod: () => this.#createPaymentMethod(form.read()),
      unmount: () => stage.replaceChildren(),
    };
  }

  async authenticate(clientSecret: string): Promise<boolean> {
    const success = await this.askCardholder();
    const intentId = clientSecret.split("_secret_")[0] ?? "";
    // Text, not JSON: the stand-in answers no CORS preflight. The key is any that looks like a publishable one.
    const response = await fetch(
      `${this.stripeApiBase}/v1/payment_intents/${encodeURIComponent(intentId)}/_authenticate?success=${success}`,
      { method: "POST", body: JSON.stringify({ key: "pk_test_callmeter", client_secret: clientSecret }) },
    );
    if (!response.ok) throw new Error(`The Stripe stand-in answered ${response.status}.`);
    return success;
  }

  async #createPaymentMethod(card: Card): Promise<string> {
    try {
      const { body } = await this.api.request<{ id: string }>("POST", "/dev/payment-methods", { body: card });
      return body.id;
    } catch (error) {
      if (error instanceof ApiError && error.status < 500) throw new PaymentFormError(error.message);
      throw error;
    }
  }
}

interface Card {
  number: string;
  expMonth: number;
  expYear: number;
  cvc: string;
}

function cardForm(page: Document): { root: HTMLElement; read: () => Card } {
  const root = page.createElement("div");
  root.className = "card-form";

  const choice = page.createElement("select");
  for (const { number, label } of testCards) choice.add(new Option(`${label} (ends in ${number.slice(-4)})`, number));
  const number = input(page, "cc-number", "19");
  const expiry = input(page, "cc-exp", "7");
  const cvc = input(page, "cc-csc", "4");
  number.value = grouped(testCards[0].number);
  expiry.value = "12 / 34";
  cvc.value = "123";
  choice.addEventListener("change", () => {
    number.value = grouped(choice.value);
  });

  root.append(
    labelled("Test card", choice, "wide"),
    labelled("Card number", number, "wide"),
    labelled("Expires", expiry),
    labelled("CVC", cvc),
  );
  return {
    root,
    read: () => {
      const [month = "", year = ""] = expiry.value.split("/").map((part) => part.trim());
      const digits = number.value.replace(/\D/g, "");
      if (digits.length !== 16) throw new PaymentFormError("The card number needs 16 digits.");
      if (!/^\d{1,2}$/.test(month) || !/^\d{2}(\d{2})?$/.test(year)) {
        throw new PaymentFormError("The expiry date is written as MM / YY.");
      }
      if (!/^\d{3}$/.test(cvc.value)) throw new PaymentFormError("The CVC has three digits.");
      return { number: digits, expMonth: Number(month), expYear: (Number(year) % 100) + 2000, cvc: cvc.value };
    },
  };
}

function input(page: Document, autocomplete: string, size: string): HTMLInputElement {
  const element = page.createElement("input");
  element.type = "text";
  element.inputMode = "numeric";
  element.autocomplete = autocomplete as AutoFill;
  element.maxLength = Number(size);
  return element;
}

function labelled(text: string, control: HTMLElement, className = ""): HTMLLabelElement {
  const label = control.ownerDocument.createElement("label");
  label.className = `field ${className}`.trim();
  const caption = control.ownerDocument.createElement("span");
  caption.textContent = text;
  label.append(caption, control);
  return label;
}

function grouped(digits: string): string {
  return digits.replace(/(\d{4})(?=\d)/g, "$1 ");
}
