// The process and its operator: what a start without configuration leaves and prints, what a wrong one is answered with,
// what is missing and still served, logs, metrics, stopping.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { mkdir, readFile, stat, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { heard, joinRoom, startBrowser, token } from './fixture/browser.mjs';
import { auralinkOnly, eventually, get, prepareServer, startServer } from './fixture/server.mjs';

const only = { skip: auralinkOnly };

/** Starts a server that must end by itself, and returns how it did. */
async function failedStart(options, prepare = async () => {}) {
  const prepared = await prepareServer(options);
  const cleanUp = await prepare(prepared);
  const server = prepared.spawn();
  try {
    const timer = setTimeout(() => server.signal('SIGKILL'), 30_000);
    const ended = await server.exited();
    clearTimeout(timer);
    assert.notEqual(ended.signal, 'SIGKILL', `it should have ended by itself:\n${ended.output}`);
    assert.notEqual(ended.code, 0, ended.output);
    assert.doesNotMatch(ended.output, /panicked|RUST_BACKTRACE/);
    return { ...ended, prepared };
  } finally {
    await server.stop();
    await cleanUp?.();
  }
}

const withoutKeys = { keys: undefined };

test('the first start makes keys that only its owner can read, and prints one link', only, async () => {
  const server = await startServer({ config: withoutKeys });
  try {
    await server.link();
    assert.equal(server.logs().match(/https?:\/\/\S+/g).length, 1, server.logs());
    const file = join(server.folder, 'data', 'credentials.yaml');
    assert.equal((await stat(file)).mode & 0o777, 0o600);
    const secret = (await readFile(file, 'utf8')).match(/api_secret: (\S+)/)[1];
    assert.ok(!server.logs().includes(secret), 'the secret is not printed');
  } finally {
    await server.stop();
  }
});

test('a second start keeps the keys', only, async () => {
  const prepared = await prepareServer({ config: withoutKeys });
  const link = async () => {
    const server = prepared.spawn();
    await server.ready();
    const found = await server.link();
    server.signal('SIGTERM');
    await server.exited();
    return [found, server];
  };
  const [first] = await link();
  const [second, server] = await link();
  assert.equal(first, second);
  await server.stop();
});

const wrongConfigurations = {
  'an unknown key, with the nearest one': ['prot: 7880', /prot.*did you mean `port`/s],
  'an unknown key further in': ['rtc: {udp_prot: 7882}', /udp_prot.*did you mean `udp_port`/s],
  'what is no YAML': ['port: [1', /line \d+/],
  'a value of the wrong kind': ['port: many', /port.*many|many.*port/s],
  'a value out of range': ['captions: {endpoint_silence_ms: 7}', /endpoint_silence_ms.*7.*200.*5000/s],
  'half a certificate': ['tls: {cert_file: /none.pem}', /cert_file.*key_file/s],
  'an unknown level of logs': ['logging: {level: "a=b=c"}', /logging\.level.*a=b=c/s],
};
for (const [what, [text, pattern]] of Object.entries(wrongConfigurations)) {
  test(`a configuration with ${what} is refused, by name`, only, async () => {
    const { output, prepared } = await failedStart({}, ({ file }) => writeFile(file, text));
    assert.match(output, pattern);
    if (!/range|half|level/.test(what)) assert.ok(output.includes(prepared.file), `the file is named:\n${output}`);
  });
}

test('a configuration file that is not there is named', only, async () => {
  const { output } = await failedStart({ args: ['--config', '/nowhere/auralink.yaml'] });
  assert.match(output, /\/nowhere\/auralink\.yaml/);
});

test('a data folder that cannot be written is named', only, async () => {
  const { output } = await failedStart({ config: { data_dir: '/proc/auralink' } });
  assert.match(output, /\/proc\/auralink/);
  assert.match(output, /data_dir|--data-dir/);
});

for (const [what, key] of [['HTTP', 'http'], ['gRPC', 'grpc']]) {
  test(`a port in use (${what}) is named, with what to do`, only, async () => {
    const { output, prepared } = await failedStart({}, async ({ ports }) => {
      const other = createServer().listen(ports[key], '127.0.0.1');
      await once(other, 'listening');
      return () => other.close();
    });
    assert.ok(output.includes(String(prepared.ports[key])), output);
    assert.match(output, /in use/);
    assert.match(output, key === 'http' ? /--port/ : /grpc_port/);
  });
}

test('a port in use (UDP) is named, with what to do', only, async () => {
  const { output, prepared } = await failedStart({}, async ({ ports }) => {
    const other = createSocket('udp4').bind(ports.udp, '127.0.0.1');
    await once(other, 'listening');
    return () => other.close();
  });
  assert.ok(output.includes(String(prepared.ports.udp)), output);
  assert.match(output, /in use/i);
  assert.match(output, /udp_port/);
});

const info = async (server) => JSON.parse((await get(`${server.http}/api/v1/info`)).text);

const missing = {
  'a model pack': [{ pack: '/nowhere/pack' }, /\/nowhere\/pack/],
  'an ONNX Runtime that is asked for': [{ onnxruntime: '/nowhere/libonnxruntime.so', runtime: 'onnxruntime' }, /\/nowhere\/libonnxruntime\.so/],
};
for (const [what, [ai, pattern]] of Object.entries(missing)) {
  test(`without ${what} rooms are served, and it is said what is missing and where it was looked for`, only, async () => {
    const server = await startServer({ config: { ai } });
    try {
      assert.match(server.logs(), pattern);
      const { captions } = await info(server);
      assert.equal(captions.available, false);
      assert.match(captions.reason, pattern);
      const joined = await get(`${server.http}/rtc/validate?access_token=${await token(server, 'room', 'ana')}`);
      assert.equal(joined.status, 200);
    } finally {
      await server.stop();
    }
  });
}

test('a pack with a file missing is named, with the file', only, async () => {
  const prepared = await prepareServer();
  const pack = join(prepared.folder, 'pack');
  await mkdir(pack);
  await writeFile(join(pack, 'tokens.txt'), 'a 0\n');
  await writeFile(prepared.file, JSON.stringify({ ...prepared.config, ai: { pack } }));
  const server = prepared.spawn();
  try {
    await server.ready();
    const { captions } = await info(server);
    assert.equal(captions.available, false);
    assert.ok(captions.reason.includes(pack), captions.reason);
    assert.match(captions.reason, /\.onnx|manifest|model/i);
  } finally {
    await server.stop();
  }
});

test('without any ONNX Runtime captions run on the built-in one, and it is said', only, async () => {
  const server = await startServer({ env: { AURALINK_CACHE: '/nowhere' } });
  try {
    const { captions } = await info(server);
    assert.equal(captions.available, true, captions.reason);
    assert.match(server.logs(), /built-?in/i);
  } finally {
    await server.stop();
  }
});

test('SIGTERM tells the people in the rooms, and ends the process well', only, async () => {
  const server = await startServer();
  const browser = await startBrowser();
  try {
    const page = await browser.openHarness();
    await joinRoom(page, server, 'ending', 'ana');
    server.signal('SIGTERM');
    await page.waitForFunction(() => window.harness.has('disconnected') || window.harness.has('reconnecting'));
    const { code, signal, output } = await server.exited();
    assert.deepEqual([code, signal], [0, null], output);
  } finally {
    await browser.close();
    await server.stop();
  }
});

test('each line of the log is one JSON object where that is asked for', only, async () => {
  const server = await startServer({ config: { logging: { level: 'debug', json: true } } });
  await get(`${server.http}/rtc/validate?access_token=bad`, { 'x-request-id': 'correlate-me' });
  server.signal('SIGTERM');
  const { output } = await server.exited();
  const lines = output.split('\n').filter((line) => line.startsWith('{')).map((line) => JSON.parse(line));
  assert.ok(lines.length >= 2, output);
  for (const line of lines) {
    assert.ok(!Number.isNaN(Date.parse(line.timestamp)), JSON.stringify(line));
    assert.match(line.level, /^(TRACE|DEBUG|INFO|WARN|ERROR)$/);
    assert.equal(typeof line.message, 'string');
  }
  assert.ok(lines.some((line) => JSON.stringify(line).includes('correlate-me')), 'a request id stands on the lines of its request');
  await server.stop();
});

test('metrics count what happens', only, async () => {
  const server = await startServer();
  const browser = await startBrowser();
  try {
    const counts = async () => {
      const { status, text } = await get(`${server.http}/metrics`);
      assert.equal(status, 200);
      for (const line of text.trim().split('\n')) assert.match(line, /^(|#.*|[a-z_]+(\{[^}]*\})? [-+.\deNaInf]+)$/);
      return (name) => text.split('\n').filter((line) => line.startsWith(name)).reduce((sum, line) => sum + Number(line.split(' ').at(-1)), 0);
    };
    const before = await counts();
    const [ana, ben] = [await browser.openHarness(), await browser.openHarness()];
    await joinRoom(ana, server, 'counted', 'ana');
    await joinRoom(ben, server, 'counted', 'ben');
    await ana.evaluate(() => window.harness.publishMicrophone());
    await heard(ben, 'trackSubscribed', { identity: 'ana' });
    await ben.waitForFunction(async () => (await window.harness.received('ana')).audioPackets > 20);
    // The shards report about once a second: what they counted is there soon, not at once.
    const rising = ['livekit_packet_total{', 'livekit_packet_bytes{', 'livekit_participant_join_total'];
    const after = await eventually(async () => {
      const now = await counts();
      return rising.every((name) => now(name) > before(name)) && now;
    }, `${rising.join(', ')} have all risen`);
    assert.equal(after('livekit_room_total'), 1);
    assert.equal(after('livekit_participant_total'), 2);
  } finally {
    await browser.close();
    await server.stop();
  }
});

test('--tls self-signed serves page, signal connection and media', only, async () => {
  const server = await startServer({ tls: true, args: ['--config', '{config}', '--tls', 'self-signed'] });
  const browser = await startBrowser();
  try {
    assert.match(await server.link(), /^https:/);
    const link = `${server.http}/#${new URLSearchParams({ token: await token(server, 'private', 'ana', { name: 'Ana' }), autojoin: '1', audio: '0' })}`;
    const page = await browser.openPage(link, { ignoreHTTPSErrors: true });
    await page.getByTestId('people').waitFor();
    assert.equal(await page.evaluate(() => window.isSecureContext), true);
    const again = await get(`${server.http}/health`);
    assert.equal(again.status, 200);
  } finally {
    await browser.close();
    await server.stop();
  }
});

test('`auralink token` prints a token that opens the room, by the keys of the data folder', only, async () => {
  const server = await startServer({ config: withoutKeys });
  try {
    const { binary } = await prepareServer();
    const { stdout } = await promisify(execFile)(binary, ['token', '--room', 'lobby', '--identity', 'ana', '--name', 'Ana', '--data-dir', join(server.folder, 'data')]);
    const [jwt] = stdout.match(/[\w-]+\.[\w-]+\.[\w-]+/);
    assert.equal((await get(`${server.http}/rtc/validate?access_token=${jwt}`)).status, 200);
    const claims = JSON.parse(Buffer.from(jwt.split('.')[1], 'base64url'));
    assert.deepEqual([claims.sub, claims.name, claims.video.room, claims.video.roomJoin], ['ana', 'Ana', 'lobby', true]);
  } finally {
    await server.stop();
  }
});

test('an invitation is exchanged for a token; a wrong one is not', only, async () => {
  const server = await startServer();
  try {
    const invite = new URLSearchParams(new URL(await server.link()).hash.slice(1)).get('invite');
    const join = (body) => fetch(`${server.http}/api/v1/join`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) });
    const admitted = await join({ invite, room: 'lobby', name: 'Ana' });
    assert.equal(admitted.status, 200);
    const admission = await admitted.json();
    assert.equal(admission.room, 'lobby');
    assert.equal((await get(`${server.http}/rtc/validate?access_token=${admission.token}`)).status, 200);
    for (const [body, status] of [
      [{ invite: 'wrong', room: 'lobby', name: 'Ana' }, 403],
      [{ invite, room: '', name: 'Ana' }, 400],
      [{ invite, room: 'lobby', name: 'x'.repeat(300) }, 400],
    ]) {
      const refused = await join(body);
      assert.equal(refused.status, status);
      const { error } = await refused.json();
      assert.ok(error.code && error.message, JSON.stringify(error));
    }
  } finally {
    await server.stop();
  }
});
