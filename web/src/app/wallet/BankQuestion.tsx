import { mdiBankOutline } from "@mdi/js";
import { Dialog } from "../Dialog";
import { Icon } from "../Icon";

/** Plays the bank's part of 3-D Secure against the embedded Stripe stand-in. */
export function BankQuestion({ onAnswer }: { onAnswer: (success: boolean) => void }) {
  return (
    <Dialog open label="Test bank" role="alertdialog" onClose={() => onAnswer(false)}>
      <div className="outcome">
        <span className="outcome-mark">
          <Icon path={mdiBankOutline} size={28} />
        </span>
        <h3>Is this you?</h3>
        <p className="quiet">This stands in for your bank’s 3-D Secure page on a development server.</p>
        <button type="button" className="button primary wide" onClick={() => onAnswer(true)} data-first-focus>
          Yes, authenticate
        </button>
        <button type="button" className="button wide" onClick={() => onAnswer(false)}>
          No, fail
        </button>
      </div>
    </Dialog>
  );
}
