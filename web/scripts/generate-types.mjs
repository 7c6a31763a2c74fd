/**
 * Makes src/client/generated from the server's own documents, openapi.json and asyncapi.json beside this folder.
 *
 * usage: node scripts/generate-types.mjs   (npm run types; `python -m realtime openapi > web/openapi.json` before it)
 *
 * Both documents hold their payloads as JSON Schemas, so one generator turns both into TypeScript. From the AsyncAPI
 * operations it adds two maps by event name: `Commands`, what a client sends and its acknowledgement carries, and
 * `Events`, what the server pushes.
 */
import { readFile, writeFile } from "node:fs/promises";
import openapiTS, { astToString } from "openapi-typescript";

const web = new URL("../", import.meta.url);
const generated = new URL("src/client/generated/", web);

/** The generated files' texts by name: what `main` writes, and what the test compares with what is there. */
export async function generate() {
  const openapi = await document("openapi.json");
  const asyncapi = await document("asyncapi.json");
  return {
    "http.ts": notice("openapi.json") + (await types(openapi)),
    "socket.ts": notice("asyncapi.json") + (await types(schemasOf(asyncapi))) + eventMaps(asyncapi),
  };
}

/** The document without its schemas' titles, which repeat each name in worse spelling. */
async function document(name) {
  const untitled = (key, value) => (key === "title" && typeof value === "string" ? undefined : value);
  return JSON.parse(await readFile(new URL(name, web), "utf8"), untitled);
}

async function types(openapi) {
  const titled = { ...openapi, info: { ...openapi.info, title: "CallMeter" } };
  return astToString(await openapiTS(titled, { alphabetize: true, defaultNonNullable: false }));
}

/** AsyncAPI's schemas as a document with nothing but schemas, which the OpenAPI generator reads. */
function schemasOf(asyncapi) {
  return {
    openapi: "3.1.0",
    info: asyncapi.info,
    paths: {},
    components: { schemas: asyncapi.components.schemas },
  };
}

function eventMaps(asyncapi) {
  const commands = [];
  const events = [];
  for (const operation of Object.values(asyncapi.operations)) {
    const name = eventName(operation.messages[0].$ref);
    const payload = schemaName(messageNamed(asyncapi, name).payload.$ref);
    if (operation.action === "send") {
      events.push(`    ${JSON.stringify(name)}: Schemas[${JSON.stringify(payload)}];`);
      continue;
    }
    const reply = messageNamed(asyncapi, eventName(operation.reply.messages[0].$ref));
    const [done] = reply.payload.oneOf.map(({ $ref }) => schemaName($ref)).filter((schema) => schema !== "Refused");
    commands.push(
      `    ${JSON.stringify(name)}: { payload: Schemas[${JSON.stringify(payload)}]; answer: Schemas[${JSON.stringify(done)}] };`,
    );
  }
  return [
    'type Schemas = components["schemas"];',
    "/** Client to server: each payload, and what its acknowledgement carries when all is well. */",
    "export interface Commands {",
    ...commands.sort(),
    "}",
    "/** Server to client. */",
    "export interface Events {",
    ...events.sort(),
    "}",
    "",
  ].join("\n");
}

function messageNamed(asyncapi, name) {
  return asyncapi.components.messages[name];
}

function eventName($ref) {
  return $ref
    .slice($ref.lastIndexOf("/") + 1)
    .replaceAll("~1", "/")
    .replaceAll("~0", "~");
}

function schemaName($ref) {
  return $ref.slice($ref.lastIndexOf("/") + 1);
}

function notice(source) {
  return `// Generated from web/${source} by scripts/generate-types.mjs. Change the server, not this file.\n\n`;
}

if (process.argv[1] === new URL(import.meta.url).pathname) {
  for (const [name, text] of Object.entries(await generate())) await writeFile(new URL(name, generated), text);
}
