// Long work over REST: accepted, followed by server-sent events, ended; kept over a kill -9 of the server; the state backed up and put back.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { auralinkOnly, prepareServer } from './fixture/server.mjs';

const only = { skip: auralinkOnly };
const run = promisify(execFile);

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

const token = async (prepared, scopes) => {
  const made = await command(prepared, ['token', '--identity', 'robot', '--scopes', scopes, '--tenant', 'acme']);
  assert.equal(made.code, 0, made.stderr);
  return made.stdout.split('\n')[0];
};

const ask = async (server, bearer, method, path, body) => {
  const response = await fetch(server.http + path, {
    method, body: body && JSON.stringify(body),
    headers: { authorization: `Bearer ${bearer}`, ...(body && { 'content-type': 'application/json' }) },
  });
  return { status: response.status, json: await response.json() };
};

/** The jobs of an event stream, until it ends. */
const follow = async (server, bearer, id) => {
  const response = await fetch(`${server.http}/api/v1/jobs/${id}/events`, { headers: { authorization: `Bearer ${bearer}` } });
  assert.equal(response.status, 200);
  assert.match(response.headers.get('content-type'), /^text\/event-stream/);
  const events = (await response.text()).split('\n\n').filter((event) => event.startsWith('event:'));
  return events.map((event) => {
    const [, name, data] = event.match(/^event: ?(\w+)\ndata: ?(.*)$/s);
    assert.equal(name, 'job', event);
    return JSON.parse(data);
  });
};

const started = async (options) => {
  const prepared = await prepareServer(options);
  const server = prepared.spawn();
  await server.ready();
  return { prepared, server };
};

test('a job is accepted, followed to its end, listed and deleted', only, async () => {
  const { prepared, server } = await started();
  try {
    const bearer = await token(prepared, 'jobs:read,jobs:write');
    const accepted = await ask(server, bearer, 'POST', '/api/v1/jobs/check', { work_ms: 1_500, failures: 1 });
    assert.equal(accepted.status, 202, JSON.stringify(accepted.json));
    const changes = await follow(server, bearer, accepted.json.id);
    const last = changes.at(-1);
    assert.deepEqual([last.state, last.attempt, last.result, last.error], ['done', 2, { attempts: 2 }, null]);
    assert.ok(changes.some((job) => job.state === 'waiting' && job.error.startsWith('attempt 1 fails')), JSON.stringify(changes));
    const listed = await ask(server, bearer, 'GET', '/api/v1/jobs?state=done&limit=1');
    assert.deepEqual([listed.json.jobs[0].id, listed.json.next], [last.id, last.id]);
    assert.deepEqual((await ask(server, bearer, 'GET', `/api/v1/jobs?before=${last.id}`)).json, { jobs: [], next: null });
    assert.deepEqual((await ask(server, bearer, 'DELETE', '/api/v1/jobs?state=done')).json, { deleted: 1 });
    assert.equal((await ask(server, bearer, 'GET', `/api/v1/jobs/${last.id}`)).json.error.code, 'not_found');
    for (const [path, code] of [['/api/v1/jobs/x', 'invalid_argument'], ['/api/v1/jobs?state=odd', 'invalid_argument'], ['/api/v1/jobs?limit=1001', 'invalid_argument']]) {
      assert.equal((await ask(server, bearer, 'GET', path)).json.error.code, code, path);
    }
    const reader = await token(prepared, 'jobs:read');
    assert.equal((await ask(server, reader, 'POST', '/api/v1/jobs/check', {})).json.error.code, 'permission_denied');
    const metrics = await (await fetch(`${server.http}/metrics`)).text();
    assert.match(metrics, /^auralink_jobs_done_total 1$/m);
  } finally {
    await server.stop();
  }
});

test('kill -9 loses no accepted job and repeats none that was done', only, async () => {
  const prepared = await prepareServer();
  let server = prepared.spawn();
  try {
    await server.ready();
    const bearer = await token(prepared, 'jobs:read,jobs:write');
    const accept = async (body) => (await ask(server, bearer, 'POST', '/api/v1/jobs/check', body)).json.id;
    const done = await accept({});
    await follow(server, bearer, done);
    const before = (await ask(server, bearer, 'GET', `/api/v1/jobs/${done}`)).json;
    const waiting = await Promise.all(Array.from({ length: 40 }, () => accept({ work_ms: 400 })));
    server.signal('SIGKILL');
    await server.exited();
    server = prepared.spawn();
    await server.ready();
    for (const id of waiting) assert.equal((await follow(server, bearer, id)).at(-1).state, 'done');
    assert.deepEqual((await ask(server, bearer, 'GET', `/api/v1/jobs/${done}`)).json, before);
  } finally {
    await server.stop();
  }
});

test('the state folder is one server\'s; a backup is taken beside it and put back when it is gone', only, async () => {
  const { prepared, server } = await started();
  try {
    const bearer = await token(prepared, 'jobs:read,jobs:write');
    const { id } = (await ask(server, bearer, 'POST', '/api/v1/jobs/check', {})).json;
    await follow(server, bearer, id);
    const file = join(prepared.folder, 'backup');
    const made = await command(prepared, ['backup', file]);
    assert.equal(made.code, 0, made.stderr);
    assert.ok(existsSync(file));
    const beside = await command(prepared, ['restore', file, '--replace']);
    assert.notEqual(beside.code, 0);
    assert.match(beside.stderr, /in use by another AuraLink \(process \d+\)/);
    assert.match((await command(prepared, ['worker'])).stderr, /queue\.redis.*state\.postgres/);

    // A second server on other ports, with the same data.
    const other = await prepareServer({ config: { data_dir: prepared.config.data_dir } });
    const second = other.spawn();
    const ended = await second.exited();
    assert.notEqual(ended.code, 0);
    assert.match(ended.output, /state folder .* is in use by another AuraLink/);

    server.signal('SIGTERM');
    await server.exited();
    assert.match((await command(prepared, ['restore', file])).stderr, /--replace/);
    const restored = await command(prepared, ['restore', file, '--replace']);
    assert.equal(restored.code, 0, restored.stderr);
    assert.match((await command(prepared, ['migrate'])).stdout, /up to date/);
    const again = prepared.spawn();
    try {
      await again.ready();
      assert.equal((await ask(again, bearer, 'GET', `/api/v1/jobs/${id}`)).json.state, 'done');
    } finally {
      await again.stop();
    }
  } finally {
    await server.stop();
  }
});
