// Schedules over REST: work that comes again by the clock, checked when it is written, and the store that a server has without any configuration.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { after, before, test } from 'node:test';
import { promisify } from 'node:util';
import { auralinkOnly, cache, eventually, prepareServer } from './fixture/server.mjs';

const only = { skip: auralinkOnly };
const run = promisify(execFile);

let server;
let key;
let other;
let clerk;

before(async () => {
  if (auralinkOnly) return;
  const prepared = await prepareServer();
  server = prepared.spawn();
  await server.ready();
  const env = { PATH: process.env.PATH, HOME: prepared.folder, AURALINK_CACHE: cache, AURALINK_CONFIG: prepared.file, AURALINK_URL: server.http };
  const make = async (tenant, scopes) => (await run(prepared.binary, ['keys', 'create', '--name', tenant, '--tenant', tenant, '--scopes', scopes], { env })).stdout.trim();
  key = await make('acme', 'jobs:read,jobs:write,files:read,files:write');
  other = await make('other', 'jobs:read,jobs:write');
  clerk = await make('acme', 'jobs:read,jobs:write');
});
after(() => server?.stop());

const ask = async (method, path, body, token = key) => {
  const raw = typeof body === 'string';
  const response = await fetch(server.http + path, {
    method, body: raw || body === undefined ? body : JSON.stringify(body),
    headers: { authorization: `Bearer ${token}`, ...(body !== undefined && !raw && { 'content-type': 'application/json' }) },
  });
  const text = await response.text();
  return { status: response.status, json: text.startsWith('{') ? JSON.parse(text) : null, text };
};

test('a schedule makes a job each time, until it is deleted', only, async () => {
  const put = await ask('PUT', '/api/v1/schedules/tick', { cron: '* * * * * *', work: { kind: 'check', work_ms: 5 } });
  assert.equal(put.status, 200, put.text);
  assert.deepEqual([put.json.kind, put.json.payload], ['check', { work_ms: 5, failures: 0 }]);
  assert.ok(put.json.next_ms > Date.now() - 2_000);
  await eventually(async () => (await ask('GET', '/api/v1/jobs?state=done&kind=check')).json.jobs.length >= 2, 'two jobs');
  assert.deepEqual((await ask('GET', '/api/v1/schedules')).json.schedules.map(({ name, cron }) => [name, cron]), [['tick', '* * * * * *']]);
  assert.deepEqual((await ask('GET', '/api/v1/schedules', undefined, other)).json.schedules, []);
  assert.equal((await ask('DELETE', '/api/v1/schedules/tick', undefined, other)).status, 404);
  assert.equal((await ask('DELETE', '/api/v1/schedules/tick')).status, 204);
  assert.equal((await ask('DELETE', '/api/v1/schedules/tick')).status, 404);
});

test('files of the store that is there without configuration are worked on by the clock', only, async () => {
  assert.deepEqual((await ask('GET', '/api/v1/files')).json.stores.map(({ name, kind }) => [name, kind]), [['local', 'local']]);
  assert.equal((await ask('PUT', '/api/v1/files/content/local/talks/none.wav', 'no sound')).status, 201);
  const put = await ask('PUT', '/api/v1/schedules/nightly', { cron: '* * * * * *', work: { kind: 'files.pipeline', at: { store: 'local', path: 'talks' } } });
  assert.equal(put.status, 200, put.text);
  const job = await eventually(async () => (await ask('GET', '/api/v1/jobs?state=done&kind=files.pipeline')).json.jobs[0], 'a run');
  assert.deepEqual([job.result.recordings, job.result.failed], [1, 1]);
  await ask('DELETE', '/api/v1/schedules/nightly');
});

test('what cannot be done is refused when it is written', only, async () => {
  const refused = async (body, status, words, token) => {
    const answer = await ask('PUT', '/api/v1/schedules/bad', body, token);
    assert.equal(answer.status, status, answer.text);
    assert.match(answer.json.error.message, words);
  };
  const check = { kind: 'check' };
  await refused({ cron: '61 * * * *', work: check }, 400, /cron/);
  await refused({ cron: '0 0 30 2 *', work: check }, 400, /cron/);
  await refused({ cron: '@daily', work: { kind: 'odd' } }, 422, /odd/);
  await refused({ cron: '@daily', work: { kind: 'check', work_ms: 1e9 } }, 400, /60000/);
  await refused({ cron: '@daily', work: { kind: 'files.pipeline', at: { store: 'local', path: 'nowhere' } } }, 404, /nowhere/);
  await refused({ cron: '@daily', work: { kind: 'files.pipeline', at: { store: 'none' } } }, 404, /none/);
  // Its own scopes are the work's too.
  await refused({ cron: '@daily', work: { kind: 'files.pipeline', at: { store: 'local' } } }, 403, /files:read/, other);
  assert.equal((await ask('PUT', `/api/v1/schedules/${'x'.repeat(200)}`, { cron: '@daily', work: check })).status, 400);
});

test('who may not do the work may not have it done again', only, async () => {
  const started = await ask('POST', '/api/v1/files/pipelines', { store: 'local', path: '' });
  assert.equal(started.status, 202, started.text);
  const again = await ask('POST', `/api/v1/jobs/${started.json.job_id}/retry`, undefined, clerk);
  assert.equal(again.status, 403, again.text);
  assert.match(again.json.error.message, /files:write/);
});
