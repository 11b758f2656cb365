// Vectors over REST and the command line: collections, records, queries, import and export; kept over a kill -9 of the server.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { auralinkOnly, prepareServer } from './fixture/server.mjs';

const only = { skip: auralinkOnly };
const run = promisify(execFile);
const collections = '/api/v1/vectors/collections';

/** Runs a command of the binary with a server's configuration. */
const command = async (prepared, args) => {
  const { LIVEKIT_API_KEY, LIVEKIT_API_SECRET, ...clean } = process.env;
  try {
    const { stdout, stderr } = await run(prepared.binary, args, { env: { ...clean, HOME: prepared.folder, AURALINK_CONFIG: prepared.file } });
    return { code: 0, stdout: stdout.trim(), stderr };
  } catch ({ code, stdout, stderr }) {
    return { code, stdout, stderr };
  }
};

const token = async (prepared, tenant = 'acme', scopes = 'vectors:read,vectors:write') => {
  const made = await command(prepared, ['token', '--identity', 'robot', '--scopes', scopes, '--tenant', tenant]);
  assert.equal(made.code, 0, made.stderr);
  return made.stdout.split('\n')[0];
};

const ask = async (server, bearer, method, path, body) => {
  const response = await fetch(server.http + path, {
    method, body: body && JSON.stringify(body),
    headers: { authorization: `Bearer ${bearer}`, ...(body && { 'content-type': 'application/json' }) },
  });
  const text = await response.text();
  return { status: response.status, json: text ? JSON.parse(text) : null };
};

const started = async () => {
  const prepared = await prepareServer();
  const server = prepared.spawn();
  await server.ready();
  return { prepared, server };
};

test('records are written, found, filtered, paged and deleted; another tenant sees nothing', only, async () => {
  const { prepared, server } = await started();
  try {
    const bearer = await token(prepared);
    const made = await ask(server, bearer, 'POST', collections, { name: 'talks', dimension: 2, metric: 'euclidean' });
    assert.deepEqual([made.status, made.json], [201, { name: 'talks', dimension: 2, metric: 'euclidean', count: 0 }]);
    assert.equal((await ask(server, bearer, 'POST', collections, { name: 'talks', dimension: 2 })).status, 409);
    const records = Array.from({ length: 30 }, (_, i) => ({ id: `r${i}`, vector: [i, 0], metadata: { even: i % 2 === 0 }, document: `talk ${i}` }));
    assert.deepEqual((await ask(server, bearer, 'PUT', `${collections}/talks/records`, { records })).json, { written: 30 });
    const near = await ask(server, bearer, 'POST', `${collections}/talks/query`, { vector: [10.4, 0], k: 2, filter: { even: true } });
    assert.deepEqual(near.json.matches.map((match) => [match.record.id, match.record.document]), [['r10', 'talk 10'], ['r12', 'talk 12']]);
    assert.ok(Math.abs(near.json.matches[0].distance - 0.4) < 1e-4);
    const page = await ask(server, bearer, 'GET', `${collections}/talks/records?limit=20`);
    const rest = await ask(server, bearer, 'GET', `${collections}/talks/records?limit=20&from=${encodeURIComponent(page.json.next)}`);
    assert.deepEqual([page.json.records.length, rest.json.records.length, rest.json.next], [20, 10, null]);
    assert.equal((await ask(server, bearer, 'POST', `${collections}/talks/records/delete`, { filter: { even: true } })).status, 204);
    assert.equal((await ask(server, bearer, 'GET', `${collections}/talks`)).json.count, 15);
    const stranger = await token(prepared, 'other');
    assert.equal((await ask(server, stranger, 'GET', `${collections}/talks`)).status, 404);
    assert.deepEqual((await ask(server, stranger, 'GET', collections)).json, { collections: [] });
    const reader = await token(prepared, 'acme', 'vectors:read');
    assert.equal((await ask(server, reader, 'DELETE', `${collections}/talks`)).status, 403);
  } finally {
    await server.stop();
  }
});

test('what is wrong is told with its place', only, async () => {
  const { prepared, server } = await started();
  try {
    const bearer = await token(prepared);
    await ask(server, bearer, 'POST', collections, { name: 'c', dimension: 2 });
    for (const [path, body, says] of [
      ['records', { records: [{ id: 'a', vector: [1, 2] }, { id: 'a', vector: [1, 2] }] }, 'stands twice'],
      ['records', { records: [{ id: 'a', vector: [1] }] }, 'dimension 2'],
      ['records', { records: [{ id: 'a', vector: [0, 0] }] }, 'no direction'],
      ['query', { vector: [1, 2], filter: { a: { $gt: 'x' } } }, '$.a.$gt'],
      ['query', { vector: [1, 2], text: 'both' }, 'one of both'],
      ['records/delete', { filter: {} }, 'every record'],
    ]) {
      const { status, json } = await ask(server, bearer, path === 'records' ? 'PUT' : 'POST', `${collections}/c/${path}`, body);
      assert.ok(status === 400 && json.error.code === 'invalid_argument' && json.error.message.includes(says), JSON.stringify(json));
    }
    assert.equal((await ask(server, bearer, 'GET', `${collections}/c`)).json.count, 0);
  } finally {
    await server.stop();
  }
});

test('the command line imports and exports, and a kill -9 of the server loses nothing', only, async () => {
  const { prepared, server } = await started();
  let again;
  try {
    const cli = (at, ...args) => command(prepared, ['vectors', ...args, '--server', at.http]);
    assert.equal((await cli(server, 'create', 'lines', '--dimension', '2')).code, 0);
    const file = join(prepared.folder, 'lines.jsonl');
    const lines = Array.from({ length: 900 }, (_, i) => JSON.stringify({ id: `r${i}`, vector: [i + 1, 1] }));
    lines[3] = 'no record';
    await writeFile(file, lines.join('\n'));
    const imported = await cli(server, 'import', 'lines', file);
    assert.ok(imported.code === 0 && imported.stderr.includes('899 records imported, 1 lines passed over'), imported.stderr);
    assert.match(imported.stderr, /line 4: it is no record/);
    server.signal('SIGKILL');
    await server.exited();
    again = prepared.spawn();
    await again.ready();
    const out = join(prepared.folder, 'out.jsonl');
    assert.equal((await cli(again, 'export', 'lines', out)).code, 0);
    assert.equal((await readFile(out, 'utf8')).trim().split('\n').length, 899);
    const found = await cli(again, 'query', 'lines', '--vector', '[1, 1]', '-k', '1');
    assert.match(found.stdout, /r0\b/);
    assert.match((await cli(again, 'list')).stdout, /lines +2 +cosine +899/);
    const missing = await cli(again, 'export', 'nowhere', out);
    assert.ok(missing.code !== 0 && missing.stderr.includes('no collection'), missing.stderr);
  } finally {
    await (again ?? server).stop();
  }
});
