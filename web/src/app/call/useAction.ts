import { useCallback, useState } from "react";
import { useNotify } from "../Notices";
import { sentence } from "../sentences";

interface Action {
  busy: boolean;
  run: (action: () => Promise<void>) => void;
}

/** Runs one action at a time and notifies of what went wrong. */
export function useAction(who: string): Action {
  const notify = useNotify();
  return useTold(
    who,
    useCallback((problem) => problem && notify(problem, "bad"), [notify]),
  );
}

/**
 * The same inside a modal dialog, which shows the problem itself: a notice would lie dimmed behind it, out of reach of
 * screen readers.
 */
export function useDialogAction(who: string): Action & { problem: string | undefined } {
  const [problem, setProblem] = useState<string>();
  return { ...useTold(who, setProblem), problem };
}

/** `tell` hears nothing when an action begins, and the problem when it fails. */
function useTold(who: string, tell: (problem: string | undefined) => void): Action {
  const [busy, setBusy] = useState(false);
  const run = useCallback(
    (action: () => Promise<void>) => {
      setBusy(true);
      tell(undefined);
      action()
        .catch((error: unknown) => tell(sentence(error, who)))
        .finally(() => setBusy(false));
    },
    [tell, who],
  );
  return { busy, run };
}
