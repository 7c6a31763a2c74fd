import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";

const server = process.env["CALLMETER_URL"] ?? "http://127.0.0.1:8080";

export default defineConfig({
  plugins: [react()],
  // The server puts a fresh nonce in this place on every answer; see the page's Content-Security-Policy.
  html: { cspNonce: "__CSP_NONCE__" },
  build: {
    target: "es2022",
    // `light-dark()` stays as written: a call is dark whatever the page is, which only the browser can resolve.
    cssTarget: ["chrome123", "edge123", "firefox120", "safari17.5"],
    // Nothing is inlined as data: URLs, which the policy would refuse.
    assetsInlineLimit: 0,
    // The Agora SDK is one chunk of 1.6 MB by its nature, and is loaded only for a call.
    chunkSizeWarningLimit: 1800,
  },
  server: {
    proxy: Object.fromEntries(
      ["/api", "/bff", "/dev", "/socket.io", "/health"].map((path) => [
        path,
        { target: server, ws: path === "/socket.io" },
      ]),
    ),
  },
});
