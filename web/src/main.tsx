import "@fontsource-variable/figtree/wght.css";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { App } from "./app/App";
import { applyStoredTheme } from "./app/theme";
import "./app/styles/tokens.css";
import "./app/styles/base.css";
import "./app/styles/parts.css";
import "./app/styles/screens.css";
import { SessionService } from "./client";

applyStoredTheme();

const sessions = new SessionService();

const root = document.getElementById("root");
if (!root) throw new Error("index.html has no #root");
createRoot(root).render(
  <StrictMode>
    <App sessions={sessions} />
  </StrictMode>,
);
