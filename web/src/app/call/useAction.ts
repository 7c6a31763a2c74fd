import { useCallback, useState } from "react";
import { useNotify } from "../Notices";
import { sentence } from "../sentences";

/** Runs one action at a time and says what went wrong. */
export function useAction(who: string): { busy: boolean; run: (action: () => Promise<void>) => void } {
  const [busy, setBusy] = useState(false);
  const notify = useNotify();
  const run = useCallback(
    (action: () => Promise<void>) => {
      setBusy(true);
      action()
        .catch((error: unknown) => notify(sentence(error, who), "bad"))
        .finally(() => setBusy(false));
    },
    [notify, who],
  );
  return { busy, run };
}
