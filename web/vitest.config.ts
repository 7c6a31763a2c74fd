// Apart from vite.config.ts, which the page is built with where Vitest is not installed.
import { readdirSync, readFileSync } from "node:fs";
import { defineConfig, mergeConfig } from "vitest/config";
import vite from "./vite.config";

// A module that a file replaces stays replaced for all that runs after it in the same process. So these files have one
// each; all others share theirs, since a DOM made anew for each of them takes longer than its tests.
const replacing = readdirSync("test")
  .map((name) => `test/${name}`)
  .filter((file) => /\.test\.tsx?$/.test(file) && readFileSync(file, "utf8").includes("vi.mock("));

export default mergeConfig(
  vite,
  defineConfig({
    test: {
      environment: "happy-dom",
      restoreMocks: true,
      projects: [
        { extends: true, test: { name: "apart", include: replacing } },
        {
          extends: true,
          test: { name: "together", include: ["test/**/*.test.{ts,tsx}"], exclude: replacing, isolate: false },
        },
      ],
    },
  }),
);
