// Files: the stores of a server by REST and by the command line; ranges, checksums, tenants, what is refused; imports and pipelines as jobs.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { mkdir, readFile, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { promisify } from 'node:util';
import { auralinkOnly, eventually, prepareServer } from './fixture/server.mjs';

const only = { skip: auralinkOnly };
const run = promisify(execFile);
const sha256 = (bytes) => createHash('sha256').update(bytes).digest('hex');

let server;
let binary;
let key;
let reader;

before(async () => {
  if (auralinkOnly) return;
  const prepared = await prepareServer({ config: { storage: { stores: {} } } });
  const stores = {
    recordings: { kind: 'local', root: join(prepared.folder, 'recordings'), max_file_bytes: 20_000_000 },
    archive: { kind: 'local', root: join(prepared.folder, 'archive') },
    library: { kind: 'local', root: join(prepared.folder, 'library'), shared: true },
  };
  await mkdir(join(prepared.folder, 'library'), { recursive: true });
  await writeFile(join(prepared.folder, 'library', 'for-all.txt'), 'read by all');
  await writeFile(prepared.file, JSON.stringify({ ...prepared.config, storage: { stores } }));
  ({ binary } = prepared);
  server = prepared.spawn();
  await server.ready();
  const make = async (tenant, scopes) => (await command(['keys', 'create', '--name', tenant, '--scopes', scopes, '--tenant', tenant])).stdout.trim();
  key = await make('team-a', 'files:read,files:write,jobs:read');
  reader = await make('team-b', 'files:read');
});
after(() => server?.stop());

const command = (args, token) => {
  const { LIVEKIT_API_KEY, LIVEKIT_API_SECRET, ...clean } = process.env;
  const env = { ...clean, HOME: server.folder, AURALINK_URL: server.http, AURALINK_CONFIG: join(server.folder, 'config.yaml'), ...(token && { AURALINK_TOKEN: token }) };
  return run(binary, args, { env });
};

const ask = async (method, path, { token = key, body, headers = {} } = {}) => {
  const response = await fetch(server.http + path, { method, body, headers: { authorization: `Bearer ${token}`, ...headers } });
  const bytes = Buffer.from(await response.arrayBuffer());
  let json;
  try { json = JSON.parse(bytes); } catch { /* not JSON */ }
  return { status: response.status, headers: response.headers, bytes, json };
};
const content = '/api/v1/files/content';

test('a file comes back as it was sent, whole and in stretches', only, async () => {
  const bytes = randomBytes(3_000_000);
  const put = await ask('PUT', `${content}/recordings/a%20b/%C3%9Cber%20100%25.bin`, { body: bytes, headers: { 'x-checksum-sha256': sha256(bytes) } });
  assert.deepEqual([put.status, put.json?.size, put.json?.sha256], [201, bytes.length, sha256(bytes)], String(put.bytes));
  const all = await ask('GET', `${content}/recordings/a%20b/%C3%9Cber%20100%25.bin`);
  assert.equal(all.status, 200);
  assert.ok(all.bytes.equals(bytes));
  assert.equal(all.headers.get('content-disposition'), 'attachment');
  const part = await ask('GET', `${content}/recordings/a%20b/%C3%9Cber%20100%25.bin`, { headers: { range: 'bytes=1000-1999' } });
  assert.deepEqual([part.status, part.headers.get('content-range')], [206, 'bytes 1000-1999/3000000']);
  assert.ok(part.bytes.equals(bytes.subarray(1000, 2000)));
  const last = await ask('GET', `${content}/recordings/a%20b/%C3%9Cber%20100%25.bin`, { headers: { range: 'bytes=-10' } });
  assert.ok(last.bytes.equals(bytes.subarray(-10)));
  const beyond = await ask('GET', `${content}/recordings/a%20b/%C3%9Cber%20100%25.bin`, { headers: { range: 'bytes=3000000-' } });
  assert.deepEqual([beyond.status, beyond.headers.get('content-range')], [416, 'bytes */3000000']);
  const listed = await ask('GET', '/api/v1/files/browse/recordings?path=a%20b');
  assert.deepEqual(listed.json.entries.map(({ name, kind, size }) => [name, kind, size]), [['Über 100%.bin', 'file', 3_000_000]]);
});

test('what is damaged, too large or out of place is refused, and leaves nothing', only, async () => {
  const refused = async (path, options, status, code) => {
    const answer = await ask('PUT', path, options);
    assert.deepEqual([answer.status, answer.json?.error.code], [status, code], `${path}: ${answer.bytes}`);
    return answer.json.error.message;
  };
  assert.match(await refused(`${content}/recordings/x`, { body: 'this', headers: { 'x-checksum-sha256': sha256('that') } }, 400, 'invalid_argument'), /damaged on its way/);
  await refused(`${content}/recordings/x`, { body: randomBytes(20_000_001) }, 429, 'resource_exhausted');
  await refused(`${content}/recordings/..%2Fx`, { body: 'x' }, 400, 'invalid_argument');
  await refused(`${content}/recordings/%2Fetc%2Fpasswd`, { body: 'x' }, 400, 'invalid_argument');
  await refused(`${content}/library/x`, { body: 'x' }, 403, 'permission_denied');
  await refused(`${content}/nowhere/x`, { body: 'x' }, 404, 'not_found');
  await refused(`${content}/recordings/x`, { body: 'x', token: reader }, 403, 'permission_denied');
  assert.equal((await ask('GET', `${content}/recordings/x`)).status, 404);
});

test('tenants see their own; a shared store is read by all; links lead nowhere', only, async () => {
  await ask('PUT', `${content}/recordings/mine.txt`, { body: 'mine' });
  assert.equal((await ask('GET', `${content}/recordings/mine.txt`, { token: reader })).status, 404);
  assert.equal((await ask('GET', `${content}/recordings/team-a/mine.txt`, { token: reader })).status, 404);
  assert.deepEqual((await ask('GET', '/api/v1/files/browse/recordings', { token: reader })).json.entries, []);
  assert.equal(String((await ask('GET', `${content}/library/for-all.txt`, { token: reader })).bytes), 'read by all');
  await symlink('/etc/passwd', join(server.folder, 'recordings', 'team-a', 'link'));
  const link = await ask('GET', `${content}/recordings/link`);
  assert.equal(link.status, 412, String(link.bytes));
  assert.match(link.json.error.message, /symbolic link/);
});

test('the command line lists, sends and fetches', only, async () => {
  const file = join(server.folder, 'note.txt');
  await writeFile(file, 'a note');
  await command(['files', 'put', file, 'recordings:notes/'], key);
  const listed = await command(['files', 'ls', 'recordings:notes'], key);
  assert.match(listed.stdout, /6 {2}note\.txt/);
  const back = join(server.folder, 'back.txt');
  await command(['files', 'get', 'recordings:notes/note.txt', back], key);
  assert.equal(await readFile(back, 'utf8'), 'a note');
  assert.match((await command(['files', 'ls'], key)).stdout, /archive: {2}local\nlibrary: {2}local, shared for reading\nrecordings: {2}local/);
  await assert.rejects(command(['files', 'get', 'recordings:none'], key), /there is no "none"/);
});

test('an import is a job that copies a file whole', only, async () => {
  const bytes = randomBytes(1_500_000);
  await ask('PUT', `${content}/recordings/talk.bin`, { body: bytes });
  const body = JSON.stringify({ from: { store: 'recordings', path: 'talk.bin' }, to: { store: 'archive', path: '2026/talk.bin' } });
  const started = await ask('POST', '/api/v1/files/import', { body, headers: { 'content-type': 'application/json' } });
  assert.equal(started.status, 202, String(started.bytes));
  assert.ok(started.json.job_id);
  const copy = await eventually(async () => {
    const answer = await ask('GET', `${content}/archive/2026/talk.bin`);
    return answer.status === 200 && answer;
  }, 'the copy');
  assert.ok(copy.bytes.equals(bytes));
});

test('a pipeline is a job; its transcripts are exported and found', only, async () => {
  const wav = join(server.folder, 'speech.wav');
  await run('espeak-ng', ['-v', 'en-us', '-s', '140', '-w', wav, 'turn on the light in the kitchen']);
  await ask('PUT', `${content}/recordings/calls/one.wav`, { body: await readFile(wav) });
  const body = JSON.stringify({ store: 'recordings', path: 'calls', export: { store: 'archive', folder: 'transcripts', formats: ['txt'] } });
  const started = await ask('POST', '/api/v1/files/pipelines', { body, headers: { 'content-type': 'application/json' } });
  assert.equal(started.status, 202, String(started.bytes));
  const text = await eventually(async () => {
    const answer = await ask('GET', `${content}/archive/transcripts/one.wav.txt`);
    return answer.status === 200 && String(answer.bytes).trim();
  }, 'the transcript');
  assert.ok(text.length > 0);
  const reports = (await ask('GET', '/api/v1/files/pipelines')).json.reports;
  const steps = Object.fromEntries(reports.find(({ file }) => file.name === 'one.wav').steps.map(({ kind, state }) => [kind, state]));
  assert.deepEqual([steps.decode, steps.transcribe, steps.analyse, steps.reduce], ['done', 'done', 'unavailable', 'unavailable']);
  const found = await ask('GET', `/api/v1/files/search?q=${encodeURIComponent(text)}`);
  assert.equal(found.json.found[0].source, 'recordings:calls/one.wav');
});
