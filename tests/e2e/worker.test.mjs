// `auralink worker`: a server that runs no jobs itself, and a worker with a data folder of its own, over PostgreSQL and vectors in it: recordings become
// transcripts that the server finds, records of a file are imported, and a worker that is killed loses nothing.

import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { promisify } from 'node:util';
import { startPostgres } from './fixture/postgres.mjs';
import { auralinkOnly, cache, eventually, prepareServer } from './fixture/server.mjs';

const only = { skip: auralinkOnly };
const run = promisify(execFile);

let postgres;
let prepared;
let server;
let key;
const workers = new Set();

before(async () => {
  if (auralinkOnly) return;
  postgres = await startPostgres();
  prepared = await prepareServer({ config: { state: { postgres: { url: { env: 'TEST_DATABASE' } } } }, env: { TEST_DATABASE: postgres.url } });
  const shared = {
    ...prepared.config,
    storage: { stores: { talks: { kind: 'local', root: join(prepared.folder, 'talks') } } },
    vectors: { engine: 'pgvector', database: { env: 'TEST_DATABASE' } },
    queue: { concurrency: 0 },
  };
  await writeFile(prepared.file, JSON.stringify(shared));
  await writeFile(join(prepared.folder, 'worker.yaml'), JSON.stringify({ ...shared, data_dir: join(prepared.folder, 'elsewhere'), queue: { concurrency: 2 } }));
  server = prepared.spawn();
  await server.ready();
  const made = await run(prepared.binary, ['keys', 'create', '--name', 'robot', '--tenant', 'acme', '--scopes', 'files:read,files:write,jobs:read,jobs:write,vectors:read,vectors:write'], { env: environment() });
  key = made.stdout.trim();
});
after(async () => {
  for (const child of workers) child.kill('SIGKILL');
  await server?.stop();
  await postgres?.stop();
});

const environment = () => ({ PATH: process.env.PATH, HOME: prepared.folder, AURALINK_CACHE: cache, AURALINK_CONFIG: prepared.file, AURALINK_URL: server.http, TEST_DATABASE: postgres.url });

/** Starts a worker and waits until it says what it does. */
async function startWorker() {
  const child = spawn(prepared.binary, ['worker', '--config', join(prepared.folder, 'worker.yaml')], { env: environment() });
  workers.add(child);
  const ended = once(child, 'exit');
  let said = '';
  child.stdout.on('data', (data) => (said += data));
  child.stderr.on('data', (data) => (said += data));
  await eventually(() => said.includes('this worker runs') || child.exitCode !== null, 'the worker');
  return { said: () => said, end: async (signal) => { child.kill(signal); return ended; } };
}

const ask = async (method, path, body) => {
  const json = body !== undefined && !(body instanceof Buffer);
  const response = await fetch(server.http + path, {
    method, body: json ? JSON.stringify(body) : body, headers: { authorization: `Bearer ${key}`, ...(json && { 'content-type': 'application/json' }) },
  });
  const text = await response.text();
  return { status: response.status, json: text.startsWith('{') ? JSON.parse(text) : null };
};

const done = (id) => eventually(async () => {
  const { json } = await ask('GET', `/api/v1/jobs/${id}`);
  assert.notEqual(json.state, 'dead', json.error);
  return json.state === 'done' && json;
}, 'the end of the job', 90); // a dead worker's job is free when its lease ends, after 30 s

test('what a worker elsewhere hears, the server finds', only, async () => {
  const wav = join(prepared.folder, 'speech.wav');
  await run('espeak-ng', ['-v', 'en-us', '-s', '140', '-w', wav, 'turn on the light in the kitchen']);
  await mkdir(join(prepared.folder, 'talks', 'acme'), { recursive: true });
  await run('cp', [wav, join(prepared.folder, 'talks', 'acme', 'one.wav')]);
  const started = await ask('POST', '/api/v1/files/pipelines', { store: 'talks', path: '' });
  assert.equal(started.status, 202, JSON.stringify(started.json));
  // Nobody runs it yet.
  assert.equal((await ask('GET', `/api/v1/jobs/${started.json.job_id}`)).json.state, 'queued');
  const worker = await startWorker();
  assert.match(worker.said(), /check, files\.import, files\.pipeline, vectors\.import/);
  assert.deepEqual((await done(started.json.job_id)).result, { recordings: 1, failed: 0, failures: [] });
  await worker.end('SIGTERM');
  const { steps } = (await ask('GET', '/api/v1/files/pipelines')).json.reports[0];
  const states = Object.fromEntries(steps.map(({ kind, state, reason }) => [kind, state + reason]));
  assert.deepEqual([states.decode, states.transcribe, states.embed], ['done', 'done', 'done'], JSON.stringify(states));
  const found = await ask('GET', '/api/v1/files/search?q=light%20in%20the%20kitchen');
  assert.equal(found.json.found[0].source, 'talks:one.wav');
  const collections = (await ask('GET', '/api/v1/vectors/collections')).json.collections;
  assert.match(collections[0].name, /^speech-/);
});

test('records of a file are imported by a worker; one that is killed half-way leaves it to the next', only, async () => {
  const lines = Array.from({ length: 20_000 }, (_, i) => JSON.stringify({ id: `r${i}`, vector: [i, 1], metadata: { i } }));
  lines[7] = 'no record';
  await ask('PUT', '/api/v1/files/content/talks/records.jsonl', Buffer.from(lines.join('\n')));
  await ask('POST', '/api/v1/vectors/collections', { name: 'many', dimension: 2, metric: 'euclidean' });
  const started = await ask('POST', '/api/v1/vectors/collections/many/imports', { store: 'talks', path: 'records.jsonl' });
  assert.equal(started.status, 202, JSON.stringify(started.json));
  const first = await startWorker();
  await eventually(async () => (await ask('GET', `/api/v1/jobs/${started.json.job_id}`)).json.progress.done > 0, 'its progress');
  await first.end('SIGKILL');
  const second = await startWorker();
  const { result, progress } = await done(started.json.job_id);
  await second.end('SIGTERM');
  assert.deepEqual([result.imported, result.rejected, result.errors[0].line], [19_999, 1, 8]);
  assert.equal(progress.done, progress.total);
  assert.equal((await ask('GET', '/api/v1/vectors/collections/many')).json.count, 19_999);
  const near = await ask('POST', '/api/v1/vectors/collections/many/query', { vector: [12_345.2, 1], k: 1 });
  assert.equal(near.json.matches[0].record.id, 'r12345');
  assert.equal((await ask('POST', '/api/v1/vectors/collections/none/imports', { store: 'talks', path: 'records.jsonl' })).status, 404);
  assert.equal((await ask('POST', '/api/v1/vectors/collections/many/imports', { store: 'talks', path: 'none' })).status, 404);
  assert.equal((await ask('POST', '/api/v1/vectors/collections/many/imports', { store: 'talks', path: '' })).status, 400);
});
