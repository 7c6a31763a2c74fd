// Node's Socket.IO with its Redis adapter: the same server as scripts/benchmarks/servers/, which says what it is told.
import {createServer} from "node:http";
import {createInterface} from "node:readline";
import {createAdapter} from "@socket.io/redis-adapter";
import {createClient} from "redis";
import {Server} from "socket.io";

const BATCH = 500;
const [role, redisUrl] = process.argv.slice(2);

const turn = () => new Promise(setImmediate);

const push = (version) => ({
  balance: 1_000_000 - 10 * version,
  version,
  delta: -10,
  reason: "call_debit",
  callId: "0197e5a2-7c1e-7d43-9d0f-5b8c3f6a2e10",
  queryKey: ["tokenBalance"],
});

const http = createServer();
const io = new Server(role === "web" ? http : undefined, {cors: {origin: "*"}});
if (redisUrl) {
  const publisher = createClient({url: redisUrl});
  const subscriber = publisher.duplicate();
  await Promise.all([publisher.connect(), subscriber.connect()]);
  io.adapter(createAdapter(publisher, subscriber));
}
io.on("connection", (socket) => {
  for (const room of socket.handshake.auth.rooms) socket.join(room);
});
if (role === "web") await new Promise((listening) => http.listen({port: 0, host: "127.0.0.1", backlog: 4096}, listening));

const commands = {
  ready: () => http.address()?.port ?? null,
  async broadcast({count, first}) {
    for (let version = first; version < first + count; version++) {
      io.to("all").emit("earnings:update", push(version));
      await turn();
    }
  },
  async rooms({users, rounds, first}) {
    for (let version = first; version < first + rounds; version++) {
      for (let number = 0; number < users.length; number++) {
        io.to(users[number]).emit("balance:update", push(version));
        if (number % BATCH === BATCH - 1) await turn();
      }
      await turn();
    }
  },
};

const say = (what) => process.stdout.write(JSON.stringify(what) + "\n");
for await (const line of createInterface({input: process.stdin})) {
  const {number, command, options} = JSON.parse(line);
  try {
    say({number, answer: (await commands[command](options)) ?? null});
  } catch (error) {
    say({number, failed: String(error)});
  }
}
process.exit(0);
