// Keys and certificates are replaced while the server runs: nobody has to restart it, and a broken file changes nothing.

import assert from 'node:assert/strict';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { connect } from 'node:tls';
import { AccessToken } from 'livekit-server-sdk';
import { auralinkOnly, eventually, get, prepareServer, startServer } from './fixture/server.mjs';

const only = { skip: auralinkOnly };
const SECRETS = { one: 'the-first-secret-of-thirty-six-chars', two: 'the-second-secret-of-36-characters!!' };

async function status(server, key) {
  const access = new AccessToken(key, SECRETS[key], { identity: 'ana' });
  access.addGrant({ roomJoin: true, room: 'lobby' });
  return (await get(`${server.http}/rtc/validate?access_token=${await access.toJwt()}`)).status;
}

test('a changed key file is taken at once, a broken one is reported and changes nothing', only, async () => {
  const prepared = await prepareServer({ config: { keys: undefined } });
  const file = join(prepared.folder, 'keys.yaml');
  const write = (text) => writeFile(file, text, { mode: 0o600 });
  await write(`one: ${SECRETS.one}\n`);
  await writeFile(prepared.file, JSON.stringify({ ...prepared.config, key_file: file }));
  const server = prepared.spawn();
  try {
    await server.ready();
    assert.deepEqual([await status(server, 'one'), await status(server, 'two')], [200, 401]);
    await write(`two: ${SECRETS.two}\n`);
    await eventually(async () => (await status(server, 'two')) === 200, 'the new key');
    assert.equal(await status(server, 'one'), 401, 'the old key is refused');
    const invite = new URLSearchParams(new URL(await server.link()).hash.slice(1)).get('invite');
    const body = JSON.stringify({ invite, room: 'lobby', name: 'Ana' });
    const joined = await fetch(`${server.http}/api/v1/join`, { method: 'POST', headers: { 'content-type': 'application/json' }, body });
    assert.equal(joined.status, 200, 'the page signs with the new key');
    await write(`two: [${SECRETS.two}]\n`);
    await eventually(() => /old keys stay.*keys\.yaml/.test(server.logs()), 'the broken file in the log');
    assert.equal(await status(server, 'two'), 200);
    for (const secret of Object.values(SECRETS)) assert.ok(!server.logs().includes(secret), 'no secret is printed');
  } finally {
    await server.stop();
  }
});

const fingerprint = (server) => new Promise((resolve, reject) => {
  const socket = connect({ host: '127.0.0.1', port: Number(new URL(server.http).port), rejectUnauthorized: false }, () => {
    resolve(socket.getPeerCertificate().fingerprint256);
    socket.end();
  }).on('error', reject);
});

test('changed certificate files are taken at once, broken ones are reported and change nothing', only, async () => {
  const options = { tls: true, args: ['--config', '{config}', '--tls', 'self-signed'] };
  const [server, other] = [await startServer(options), await startServer(options)];
  try {
    const files = (of) => ['certificate.pem', 'key.pem'].map((name) => join(of.folder, 'data', 'tls', name));
    const [before, wanted] = [await fingerprint(server), await fingerprint(other)];
    assert.notEqual(before, wanted);
    const contents = await Promise.all(files(other).map((file) => readFile(file)));
    await Promise.all(files(server).map((file, at) => writeFile(file, contents[at])));
    await eventually(async () => (await fingerprint(server)) === wanted, 'the new certificate');
    await writeFile(files(server)[0], 'no certificate');
    await eventually(() => /old one stays.*certificate\.pem/.test(server.logs()), 'the broken file in the log');
    assert.equal(await fingerprint(server), wanted);
    assert.equal((await get(`${server.http}/health`)).status, 200);
  } finally {
    await Promise.all([server.stop(), other.stop()]);
  }
});
