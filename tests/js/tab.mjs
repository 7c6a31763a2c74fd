// A tab of the official JavaScript client, driven over standard input and output in JSON lines.
//   argv: server URL, token, transports (comma separated), `reconnect` if it is to come back by itself
//   in:   {"id": 1, "event": "call:start", "payload": {…}}   or {"close": true}
//   out:  {"connected": sid}, {"answer": …, "id": 1}, {"heard": event, "data": …}, {"refused": …}, {"lost": reason}
import { createInterface } from 'node:readline';
import { io } from 'socket.io-client';

const [url, token, transports = 'websocket', reconnect] = process.argv.slice(2);
const say = (line) => process.stdout.write(JSON.stringify(line) + '\n');

const socket = io(url, { auth: { token }, transports: transports.split(','), reconnection: reconnect === 'reconnect' });
socket.on('connect', () => say({ connected: socket.id }));
socket.on('connect_error', (error) => say({ refused: error.message, data: error.data }));
socket.on('disconnect', (reason) => say({ lost: reason }));
socket.onAny((event, data) => say({ heard: event, data }));

const input = createInterface({ input: process.stdin });
input.on('line', async (line) => {
  const { id, event, payload, close } = JSON.parse(line);
  if (close) return socket.close();
  say({ id, answer: await socket.timeout(10_000).emitWithAck(event, payload) });
});
input.on('close', () => process.exit(0));
