import "@fontsource-variable/figtree/wght.css";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { App } from "./app/App";
import { applyStoredTheme } from "./app/theme";
import "./app/styles/tokens.css";
import "./app/styles/base.css";
import "./app/styles/parts.css";
import "./app/styles/frame.css";
import "./app/styles/sign-in.css";
import "./app/styles/people.css";
import "./app/styles/earnings.css";
import "./app/styles/buying.css";
import "./app/styles/ringing.css";
import "./app/styles/call.css";
import "./app/styles/operations.css";
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
