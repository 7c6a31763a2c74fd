// Puts the official JavaScript client through what it can do, against the server of tests/fanout/test_socketio_protocol.py.
//   argv: server URL, transports (comma separated)
//   out:  one JSON object: what each step brought
import { io } from 'socket.io-client';

const [url, transports] = process.argv.slice(2);
const manager = { transports: transports.split(','), reconnection: false, forceNew: true };
const event = (socket, name) => new Promise((resolve) => socket.once(name, (...data) => resolve(data)));
const plain = (value) => (value instanceof Uint8Array ? ['bytes', ...value] : Array.isArray(value) ? value.map(plain) : value);
const seen = {};

const socket = io(url, { ...manager, auth: { token: 'abc' } });
seen.auth = await event(socket, 'auth');
if (transports === 'polling,websocket') {
  const { engine } = socket.io;
  if (engine.transport.name !== 'websocket') await event(engine, 'upgrade');
}
seen.transport = socket.io.engine.transport.name;

let back = event(socket, 'message-back');
socket.emit('message', 1, '2', { 3: [true] }, null, 'é🎈');
seen.event = await back;

back = event(socket, 'message-back');
socket.emit('message', Buffer.from([1, 2, 3]), { deep: [Uint8Array.from([4, 5])] });
seen.binary = plain(await back).map((part) => (part?.deep ? { deep: plain(part.deep) } : part));

seen.ack = await socket.timeout(5000).emitWithAck('message-with-ack', 'one');
seen.binaryAck = plain(await socket.timeout(5000).emitWithAck('message-with-ack', Buffer.alloc(3, 7)));
const long = 'x'.repeat(200_000);
seen.long = (await socket.timeout(5000).emitWithAck('message-with-ack', long)) === long;
seen.inOrder = (await Promise.all(
  Array.from({ length: 40 }, (_, i) => socket.timeout(5000).emitWithAck('message-with-ack', i)),
)).every((answer, i) => answer === i);

const custom = socket.io.socket('/custom', { auth: { of: 'custom' } });
custom.connect();
seen.customAuth = await event(custom, 'auth');
seen.customAck = await custom.timeout(5000).emitWithAck('message-with-ack', 'there');
custom.disconnect();
seen.mainGoesOn = await socket.timeout(5000).emitWithAck('message-with-ack', 'here');

const nobodys = socket.io.socket('/random', {});
nobodys.connect();
seen.unknownNamespace = (await event(nobodys, 'connect_error'))[0].message;

socket.on('question', (data, answer) => answer({ got: plain(data) }));
back = event(socket, 'answered');
socket.emit('ask-me');
seen.serverAck = await back;

back = event(socket, 'disconnect');
socket.emit('throw-me-out');
seen.disconnect = (await back)[0];
process.stdout.write(JSON.stringify(seen));
process.exit(0);
