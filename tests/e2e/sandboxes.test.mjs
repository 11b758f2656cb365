// Sandboxes over REST and the command line (WebSockets: tests/python/test_sandbox_sockets.py); a server that is killed and started again finds its running sandbox.

import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { readFile, readdir, realpath, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { promisify } from 'node:util';
import { auralinkOnly, eventually, ownServerOnly, prepareServer } from './fixture/server.mjs';

const only = { skip: auralinkOnly || ownServerOnly };
const run = promisify(execFile);
let prepared;
let server;
let key;

before(async () => {
  if (only.skip) return;
  prepared = await prepareServer();
  server = prepared.spawn();
  await server.ready();
  const made = await command(['keys', 'create', '--name', 'tester', '--scopes', 'sandboxes:read,sandboxes:write'], { AURALINK_URL: server.http });
  assert.equal(made.code, 0, made.stderr);
  key = made.stdout.trim();
});

after(async () => {
  if (!server) return;
  // Sandboxes outlive the server: none stays behind.
  const { json } = await ask('GET', '/api/v1/sandboxes?limit=1000');
  for (const { id } of json.sandboxes) await ask('DELETE', `/api/v1/sandboxes/${id}`);
  await server.stop();
});

/** Runs a command of the binary, with the server's own configuration. */
async function command(args, env = {}, input) {
  const { LIVEKIT_API_KEY, LIVEKIT_API_SECRET, AURALINK_CONFIG, ...clean } = process.env;
  const all = { ...clean, HOME: prepared.folder, AURALINK_GRPC: `http://${server.grpc}`, AURALINK_CONFIG: prepared.file, ...env };
  try {
    const child = run(prepared.binary, args, { env: all, maxBuffer: 64 << 20 });
    child.child.stdin.end(input ?? '');
    const { stdout, stderr } = await child;
    return { code: 0, stdout, stderr };
  } catch ({ code, stdout, stderr }) {
    return { code, stdout, stderr };
  }
}

const sandbox = (...args) => command(['sandbox', ...args]);

async function ask(method, path, body, headers = {}) {
  const raw = body instanceof Uint8Array;
  const response = await fetch(server.http + path, {
    method, body: raw ? body : body && JSON.stringify(body),
    headers: { authorization: `Bearer ${key}`, ...(body && !raw && { 'content-type': 'application/json' }), ...headers },
  });
  const bytes = new Uint8Array(await response.arrayBuffer());
  let json;
  try { json = JSON.parse(new TextDecoder().decode(bytes)); } catch { /* not JSON */ }
  return { status: response.status, bytes, json, text: new TextDecoder().decode(bytes) };
}

const create = async (wanted = {}) => {
  const made = await ask('POST', '/api/v1/sandboxes', { memory_bytes: 128 << 20, disk_bytes: 64 << 20, ...wanted });
  assert.equal(made.status, 201, made.text);
  return made.json;
};

test('a sandbox is made, used and deleted over REST', only, async () => {
  const { id, status } = await create({ name: 'rest', labels: { team: 'a' } });
  assert.equal(status, 'running');
  const path = `/api/v1/sandboxes/${id}`;
  const done = await ask('POST', `${path}/exec`, { argv: ['sh', '-c', 'cat; echo err >&2; exit 4'], stdin: 'in' });
  assert.equal(done.status, 200, done.text);
  assert.deepEqual([done.json.stdout, done.json.stderr, done.json.exit.code, done.json.truncated], ['in', 'err\n', 4, false]);
  const content = Uint8Array.from({ length: 100_000 }, (_, n) => n % 251);
  assert.equal((await ask('PUT', `${path}/files?path=/workspace/x/y&mode=600`, content)).status, 204);
  const back = await ask('GET', `${path}/files?path=/workspace/x/y`);
  assert.deepEqual([back.status, Buffer.compare(back.bytes, content)], [200, 0]);
  const listed = await ask('GET', `${path}/folder?path=/workspace/x`);
  assert.deepEqual(listed.json.entries.map(({ name, kind, size }) => [name, kind, size]), [['y', 'file', 100_000]]);
  const large = await ask('POST', `${path}/exec`, { argv: ['head', '-c', '100000000', '/dev/zero'] });
  assert.deepEqual([large.json.truncated, large.json.stdout.length], [true, 4 << 20]);
  const missing = await ask('POST', `${path}/exec`, { argv: ['no-such-program'] });
  assert.deepEqual([missing.status, missing.json.error.code], [404, 'not_found']);
  const late = await ask('POST', `${path}/exec`, { argv: ['sleep', '600'], timeout_ms: 300 });
  assert.equal(late.json.exit.timed_out, true);
  const found = await ask('GET', '/api/v1/sandboxes?label=team=a');
  assert.deepEqual(found.json.sandboxes.map((one) => one.id), [id]);
  const logs = await ask('GET', `${path}/logs`);
  assert.equal(logs.json.logs[0].output, 'inerr\n');
  assert.equal((await ask('GET', `${path}/usage`)).status, 200);
  assert.equal((await ask('POST', `${path}/stop?grace_ms=100`)).json.status, 'stopped');
  assert.equal((await ask('POST', `${path}/exec`, { argv: ['true'] })).status, 412);
  assert.equal((await ask('POST', `${path}/start`)).json.status, 'running');
  assert.equal((await ask('DELETE', path)).status, 204);
  assert.equal((await ask('GET', path)).status, 404);
});

test('what may not be, or is not right, is refused in our form', only, async () => {
  const anonymous = await fetch(`${server.http}/api/v1/sandboxes`);
  assert.equal(anonymous.status, 401);
  const made = await command(['keys', 'create', '--name', 'reader', '--scopes', 'sandboxes:read'], { AURALINK_URL: server.http });
  const reader = { authorization: `Bearer ${made.stdout.trim()}` };
  assert.equal((await ask('GET', '/api/v1/sandboxes', undefined, reader)).status, 200);
  const denied = await ask('POST', '/api/v1/sandboxes', {}, reader);
  assert.deepEqual([denied.status, denied.json.error.code], [403, 'permission_denied']);
  for (const [wanted, word] of [
    [{ memory_bytes: 1 }, 'memory_bytes'], [{ engine: 'xen' }, 'engine'], [{ rootfs: '/etc' }, 'rootfs_folders'],
    [{ image: 'a', snapshot: 'b' }, 'at most one'], [{ allow: ['nowhere'] }, 'destination'], [{ nmae: 'x' }, 'nmae'],
  ]) {
    const refused = await ask('POST', '/api/v1/sandboxes', wanted);
    assert.ok(refused.status >= 400 && refused.status < 500 && refused.json.error.message.includes(word), `${word}: ${refused.text}`);
  }
});

test('the command line makes, runs, copies, forwards and deletes', only, async () => {
  const made = await sandbox('create', '--name', 'cli', '--memory', '128M', '--disk', '64M', '--cpus', '0.5', '--label', 'a=b');
  assert.equal(made.code, 0, made.stderr);
  const id = made.stdout.trim();
  assert.match((await sandbox('list', '--label', 'a=b')).stdout, new RegExp(`${id} .* running .* 0\\.5 .* 128M`));
  const done = await command(['sandbox', 'exec', 'cli', 'sh', '-c', 'cat; echo err >&2; exit 9'], {}, 'typed');
  assert.deepEqual([done.code, done.stdout, done.stderr], [9, 'typed', 'err\n']);
  const file = join(prepared.folder, 'copied');
  await writeFile(file, 'content of a file');
  assert.equal((await sandbox('cp', file, 'cli:/workspace/in')).code, 0);
  assert.equal((await sandbox('cp', 'cli:/workspace/in', `${file}.back`)).code, 0);
  assert.equal(await readFile(`${file}.back`, 'utf8'), 'content of a file');
  const missing = await sandbox('exec', 'cli', 'no-such-program');
  assert.deepEqual([missing.code, /no-such-program/.test(missing.stderr)], [1, true]);
  assert.match((await sandbox('engines')).stdout, /process \(default\)/);
  assert.match((await sandbox('logs', 'cli')).stdout, /typed/);
  assert.equal((await sandbox('delete', 'cli')).code, 0);
  assert.match((await sandbox('show', 'cli')).stderr, /there is no sandbox "cli"/);
});

test('a reader that has seen enough ends a command without a word', only, async () => {
  const env = { ...process.env, HOME: prepared.folder, AURALINK_GRPC: `http://${server.grpc}`, AURALINK_CONFIG: prepared.file };
  const { stderr } = await run('sh', ['-c', `"${prepared.binary}" sandbox engines | true`], { env });
  assert.equal(stderr, '');
});

test('the command line makes a port of the sandbox one of this machine', only, async () => {
  const { id } = await create();
  const program = "import socket\ns=socket.create_server(('127.0.0.1',8080))\nprint('up',flush=True)\nc,_=s.accept()\nc.sendall(c.recv(9)[::-1])";
  const env = { ...process.env, HOME: prepared.folder, AURALINK_GRPC: `http://${server.grpc}`, AURALINK_CONFIG: prepared.file };
  const children = [];
  const begin = (...args) => {
    const child = spawn(prepared.binary, ['sandbox', ...args], { env, stdio: ['pipe', 'pipe', 'inherit'] });
    children.push(child);
    return once(child.stdout, 'data').then(([data]) => data.toString());
  };
  try {
    assert.equal(await begin('exec', id, 'python3', '-c', program), 'up\n');
    const [, port] = /127\.0\.0\.1:(\d+) /.exec(await begin('forward', id, '0:8080'));
    const socket = connect(Number(port), '127.0.0.1');
    socket.write('abc');
    assert.equal((await once(socket, 'data')).toString(), 'cba');
    socket.destroy();
  } finally {
    for (const child of children) child.kill('SIGKILL');
  }
});

/** Process numbers of this server's agents that were begun ahead of their time: those that wait, and those that are a sandbox's by now. */
async function owned() {
  const homes = await realpath(join(prepared.folder, 'data/sandboxes/homes'));
  const mark = `auralink-${createHash('sha256').update(homes).digest('hex').slice(0, 12)}/`;
  const words = async (pid) => [pid, await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')];
  const all = await Promise.all((await readdir('/proc')).filter((name) => /^\d+$/.test(name)).map(words));
  return all.filter(([, line]) => line.startsWith('/run/auralink-guest') && line.includes('--owned') && line.includes(mark)).map(([pid]) => pid);
}

/** Waits until one more is made ahead of its time. */
const aSpare = () => eventually(
  async () => /auralink_sandbox_spares\{[^}]*\} 1$/m.test(await (await fetch(`${server.http}/metrics`)).text()),
  'one more is made ahead of its time',
);

test('a server that is killed and started again finds its running sandbox', only, async () => {
  const { id } = await create({ name: 'survivor' });
  await aSpare();
  const before = await owned();
  const inside = async (script) => {
    const done = await ask('POST', `/api/v1/sandboxes/${id}/exec`, { argv: ['sh', '-c', script] });
    assert.equal(done.status, 200, done.text);
    return done.json.stdout;
  };
  await inside('echo kept > /workspace/file; (setsid sleep 3600 & echo $! > /workspace/pid) > /dev/null 2>&1');
  server.signal('SIGKILL');
  await server.exited();
  await eventually(async () => (await owned()).length === before.length - 1, 'the one that nobody took has ended with its server');
  server = prepared.spawn();
  await server.ready();
  assert.equal((await ask('GET', '/api/v1/sandboxes/survivor')).json.status, 'running');
  assert.equal(await inside('cat /workspace/file; kill -0 $(cat /workspace/pid) && echo alive'), 'kept\nalive\n');
  const events = await fetch(`${server.http}/api/v1/sandboxes/${id}/events`, { headers: { authorization: `Bearer ${key}` } });
  let text = '';
  for await (const piece of events.body) {
    text += new TextDecoder().decode(piece);
    if (text.includes('event: recovered')) break;
  }
  assert.match(text, /event: created[\s\S]*event: started[\s\S]*event: recovered/);
});

test('a server that is stopped leaves nothing that nobody took', only, async () => {
  await create();
  await aSpare();
  const { json } = await ask('GET', '/api/v1/sandboxes?limit=1000');
  for (const { id } of json.sandboxes) assert.equal((await ask('DELETE', `/api/v1/sandboxes/${id}`)).status, 204);
  assert.equal((await owned()).length, 1, 'the one that nobody took');
  server.signal('SIGTERM');
  await server.exited();
  assert.deepEqual(await readdir(join(prepared.folder, 'data/sandboxes/homes')), []);
  await eventually(async () => (await owned()).length === 0, 'its agents have ended');
  server = prepared.spawn();
  await server.ready();
});
