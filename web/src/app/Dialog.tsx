/**
 * The browser's own modal dialog: it keeps the focus in, gives it back, and closes on Escape where it may.
 *
 * The focus goes to the element marked `data-first-focus`, where there is one.
 */
import { useLayoutEffect, useRef, type ReactNode } from "react";

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

  // Layout effects: a dialog that leaves the page must be closed while it is still on it to give the focus back.
  useLayoutEffect(() => {
    const dialog = ref.current;
    if (!dialog || !open) return;
    show(dialog);
    return () => dialog.close();
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
      // A browser asks a page nothing that was not touched, or where Escape comes again: it closes.
      onClose={({ currentTarget: dialog }) => {
        if (!open || dialog.open) return;
        if (onClose) onClose();
        else show(dialog);
      }}
    >
      {children}
    </dialog>
  );
}

function show(dialog: HTMLDialogElement): void {
  dialog.showModal();
  dialog.querySelector<HTMLElement>("[data-first-focus]")?.focus();
}
