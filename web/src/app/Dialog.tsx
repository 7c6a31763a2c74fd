/** The browser's own modal dialog: it keeps the focus in, gives it back, and closes on Escape where it may. */
import { useEffect, useRef, type ReactNode } from "react";

interface DialogProps {
  open: boolean;
  label: string;
  /** Called for Escape; without it the dialog stays until it is answered. */
  onClose?: () => void;
  /** `alertdialog` for what needs an answer now. */
  role?: "dialog" | "alertdialog";
  className?: string;
  children: ReactNode;
}

export function Dialog({ open, label, onClose, role = "dialog", className = "", children }: DialogProps) {
  const ref = useRef<HTMLDialogElement>(null);

  useEffect(() => {
    const dialog = ref.current;
    if (!dialog || dialog.open === open) return;
    if (open) dialog.showModal();
    else dialog.close();
  }, [open]);

  return (
    <dialog
      ref={ref}
      role={role}
      aria-label={label}
      className={`dialog ${className}`}
      onCancel={(event) => {
        event.preventDefault();
        onClose?.();
      }}
    >
      {children}
    </dialog>
  );
}
