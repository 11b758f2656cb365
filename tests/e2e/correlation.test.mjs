// One id from the first HTTP header to the last log line, on every face: page, REST, Twirp, the signal WebSocket, gRPC.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { request as httpRequest } from 'node:http';
import { connect as http2 } from 'node:http2';
import { test } from 'node:test';
import { token } from './fixture/browser.mjs';
import { auralinkOnly, eventually, startServer } from './fixture/server.mjs';

const lines = (server) => server.logs().split('\n').filter((line) => line.startsWith('{')).map((line) => JSON.parse(line));
const under = (server, id) => lines(server).filter((line) => (line.spans ?? []).some((span) => span.request_id === id));

async function overHttp2(server, path, id) {
  const session = http2(`http://127.0.0.1:${server.ports.grpc}`);
  const stream = session.request({ ':method': 'POST', ':path': path, 'content-type': 'application/grpc', te: 'trailers', 'x-request-id': id });
  stream.end(Buffer.from([0, 0, 0, 0, 0]));
  const [headers] = await once(stream, 'response');
  stream.resume();
  await once(stream, 'close');
  session.close();
  return headers['x-request-id'];
}

async function overWebSocket(server, jwt, id) {
  const headers = {
    connection: 'Upgrade', upgrade: 'websocket', 'sec-websocket-version': '13', 'sec-websocket-key': 'dGhlIHNhbXBsZSBub25jZQ==', 'x-request-id': id,
  };
  const request = httpRequest(`${server.http}/rtc?access_token=${jwt}&protocol=16`, { headers }).end();
  const [response, socket] = await once(request, 'upgrade');
  return { header: response.headers['x-request-id'], socket };
}

test('each face takes a request id, answers with it, and has it on its log lines', { skip: auralinkOnly }, async () => {
  const server = await startServer({ config: { logging: { level: 'debug', json: true } } });
  try {
    const faces = { '/': 'a-page', '/api/v1/info': 'rest', '/twirp/livekit.RoomService/ListRooms': 'twirp', '/rtc/validate': 'validate', '/nothing': 'nothing' };
    for (const [path, id] of Object.entries(faces)) {
      const response = await fetch(server.http + path, { headers: { 'x-request-id': id } });
      assert.equal(response.headers.get('x-request-id'), id, path);
    }
    assert.equal(await overHttp2(server, '/grpc.health.v1.Health/Check', 'grpc'), 'grpc');
    const secret = await token(server, 'correlated', 'ana');
    const { header, socket } = await overWebSocket(server, secret, 'signal');
    assert.equal(header, 'signal');
    for (const id of [...Object.values(faces), 'grpc', 'signal']) {
      await eventually(() => under(server, id).some((line) => line.message === 'answered'), `a line of ${id}`);
    }
    socket.destroy();
    const spoken = () => under(server, 'signal').map((line) => line.message);
    await eventually(() => ['signal connected', 'participant joined', 'signal disconnected'].every((text) => spoken().includes(text)), 'the session under its id');
    assert.ok(!server.logs().includes(secret), 'tokens are not logged');

    const made = (await fetch(`${server.http}/health`)).headers.get('x-request-id');
    assert.match(made, /^[0-9a-f-]{36}$/);
    const long = (await fetch(`${server.http}/health`, { headers: { 'x-request-id': 'x'.repeat(500) } })).headers.get('x-request-id');
    assert.match(long, /^[0-9a-f-]{36}$/, 'an id that is no good is replaced');
  } finally {
    await server.stop();
  }
});
