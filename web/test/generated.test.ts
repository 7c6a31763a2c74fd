// @vitest-environment node
import { readFile } from "node:fs/promises";
import { expect, test } from "vitest";
import { generate } from "../scripts/generate-types.mjs";

/** The server's own tests hold the two documents against what it prints; this holds the types against the documents. */
test("the generated types are those of the server's documents", async () => {
  const texts = Object.entries(await generate());
  expect(texts).toHaveLength(2);
  for (const [name, text] of texts) {
    const written = await readFile(new URL(`../src/client/generated/${name}`, import.meta.url), "utf8");
    expect(written === text, `${name} is out of date: run npm run types`).toBe(true);
  }
});
