// Connections that hold their place without using it: silent ones, headers and bodies that trickle in. They are closed, the server goes on.

import assert from 'node:assert/strict';
import { connect } from 'node:net';
import { test } from 'node:test';
import { AccessToken } from 'livekit-server-sdk';
import { auralinkOnly, get, startServer } from './fixture/server.mjs';

/** Opens a connection, says `start`, then a byte a second; resolves with what came back when the server closes it. */
const held = (port, start, trickle) => new Promise((resolve) => {
  let answer = '';
  const socket = connect(Number(port), '127.0.0.1', () => start && socket.write(start));
  const timer = trickle && setInterval(() => socket.write(trickle), 1000);
  socket.on('data', (data) => { answer += data; });
  socket.on('error', () => {});
  socket.on('end', () => { clearInterval(timer); socket.end(); });
  socket.on('close', () => { clearInterval(timer); resolve(answer); });
});

test('silent and trickling connections are closed by the server', { skip: auralinkOnly, timeout: 120_000 }, async () => {
  const server = await startServer();
  try {
    const access = new AccessToken(server.apiKey, server.apiSecret, {});
    access.addGrant({ roomList: true });
    const http = new URL(server.http).port;
    const body = `POST /twirp/livekit.RoomService/ListRooms HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${await access.toJwt()}\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n{`;
    const [, , , trickled] = await Promise.all([
      held(http),
      held(server.ports.grpc),
      held(http, 'GET / HTTP/1.1\r\nHost: x\r\nX-Endless: ', 'a'),
      held(http, body, ' '),
    ]);
    assert.match(trickled, /^HTTP\/1\.1 408 /, 'a body that does not come is answered');
    assert.equal((await get(`${server.http}/health`)).status, 200);
  } finally {
    await server.stop();
  }
});
