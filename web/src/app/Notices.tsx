/** Short messages that come and go by themselves, read out by screen readers. */
import { mdiClose } from "@mdi/js";
import { createContext, use, useCallback, useMemo, useRef, useState, type ReactNode } from "react";
import { Icon } from "./Icon";

interface Notice {
  id: number;
  text: string;
  tone: "plain" | "good" | "bad";
}

type Notify = (text: string, tone?: Notice["tone"]) => void;

const Context = createContext<Notify>(() => undefined);

const shownForMs = 6_000;

export function Notices({ children }: { children: ReactNode }) {
  const [notices, setNotices] = useState<Notice[]>([]);
  const nextId = useRef(0);

  const dismiss = useCallback((id: number) => setNotices((all) => all.filter((notice) => notice.id !== id)), []);
  const notify = useCallback<Notify>(
    (text, tone = "plain") => {
      const id = nextId.current++;
      setNotices((all) => [...all.filter((notice) => notice.text !== text), { id, text, tone }].slice(-3));
      setTimeout(() => dismiss(id), shownForMs);
    },
    [dismiss],
  );

  return (
    <Context value={useMemo(() => notify, [notify])}>
      {children}
      <div className="notices" role="status" aria-live="polite">
        {notices.map(({ id, text, tone }) => (
          <p key={id} className={`notice ${tone}`}>
            <span>{text}</span>
            <button type="button" className="icon-button" aria-label="Dismiss" onClick={() => dismiss(id)}>
              <Icon path={mdiClose} size={16} />
            </button>
          </p>
        ))}
      </div>
    </Context>
  );
}

export const useNotify = (): Notify => use(Context);
