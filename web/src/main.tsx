import "@fontsource-variable/figtree/wght.css";
import { QueryClient, QueryClientProvider } from "@tanstack/react-query";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { App } from "./app/App";
import { applyStoredTheme } from "./app/theme";
import "./app/styles/tokens.css";
import "./app/styles/base.css";
import "./app/styles/parts.css";
import "./app/styles/screens.css";
import { ApiError, SessionService } from "./client";

applyStoredTheme();

const queries = new QueryClient({
  defaultOptions: {
    queries: {
      staleTime: 15_000,
      // A refusal stays one; only what may pass by itself is tried again.
      retry: (failures, error) => failures < 3 && !(error instanceof ApiError && error.status < 500),
    },
  },
});
const sessions = new SessionService();

const root = document.getElementById("root");
if (!root) throw new Error("index.html has no #root");
createRoot(root).render(
  <StrictMode>
    <QueryClientProvider client={queries}>
      <App sessions={sessions} />
    </QueryClientProvider>
  </StrictMode>,
);
