// Reads video tokens with Agora's own library: one JSON object a line in, what the library made of it a line out.
// usage: node read_agora_tokens.js <tokens.jsonl; a line is {"token", "certificate", "appId", "channel", "uid"}

const readline = require("node:readline");
const { AccessToken2 } = require("agora-token/src/AccessToken2");
const { AccessToken: AccessToken006 } = require("agora-token/src/AccessToken");

function read007(token, certificate) {
  const parsed = new AccessToken2("", "", 1, 1);
  const ok = parsed.from_string(token);
  const [rtc] = parsed.services;
  const genuine = parsed.verifySignature(certificate);
  parsed.appId = parsed.appId.toString();
  parsed.appCertificate = certificate;
  return {
    ok,
    genuine,
    rebuilt: parsed.build(),
    appId: parsed.appId,
    issuedAt: parsed.issueTs,
    lifetimeS: parsed.expire,
    services: parsed.services.length,
    privileges: rtc.__privileges,
    channel: rtc.__channel_name.toString(),
    account: rtc.__uid.toString(),
  };
}

function read006(token, certificate, appId, channel, uid) {
  const parsed = new AccessToken006(appId, certificate, channel, uid);
  const ok = parsed.fromString(token);
  return { ok, rebuilt: parsed.build(), privileges: parsed.messages };
}

readline.createInterface({ input: process.stdin }).on("line", (line) => {
  const { token, certificate, appId, channel, uid } = JSON.parse(line);
  const said = token.startsWith("007") ? read007(token, certificate) : read006(token, certificate, appId, channel, uid);
  console.log(JSON.stringify(said));
});
