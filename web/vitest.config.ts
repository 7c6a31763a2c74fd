// Apart from vite.config.ts, which the page is built with where Vitest is not installed.
import { defineConfig, mergeConfig } from "vitest/config";
import vite from "./vite.config";

export default mergeConfig(
  vite,
  defineConfig({ test: { environment: "happy-dom", include: ["test/**/*.test.{ts,tsx}"], restoreMocks: true } }),
);
