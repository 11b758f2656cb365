// REST under /api/v1: API keys from the command line to their end, scopes and tenants, limits, what is refused and in which form,
// the description and the page to try it.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { promisify } from 'node:util';
import { startBrowser } from './fixture/browser.mjs';
import { auralinkOnly, cache, prepareServer, startServer } from './fixture/server.mjs';

const only = { skip: auralinkOnly };
const run = promisify(execFile);
let server;
let binary;

before(async () => {
  if (auralinkOnly) return;
  ({ binary } = await prepareServer());
  server = await startServer();
});
after(() => server?.stop());

/** Runs a command of the binary against a server, with the server's own configuration. */
const command = async (args, { of = server, env = {} } = {}) => {
  const { LIVEKIT_API_KEY, LIVEKIT_API_SECRET, AURALINK_CONFIG, ...clean } = process.env;
  try {
    const { stdout, stderr } = await run(binary, args, { env: { ...clean, HOME: of.folder, AURALINK_URL: of.http, AURALINK_CONFIG: join(of.folder, 'config.yaml'), ...env } });
    return { code: 0, stdout: stdout.trim(), stderr };
  } catch ({ code, stdout, stderr }) {
    return { code, stdout, stderr };
  }
};

/** Asks the API. */
const ask = async (method, path, { token, body, of = server, headers = {} } = {}) => {
  const response = await fetch(of.http + path, {
    method, body: body && JSON.stringify(body),
    headers: { ...(body && { 'content-type': 'application/json' }), ...(token && { authorization: `Bearer ${token}` }), ...headers },
  });
  const text = await response.text();
  let json;
  try { json = JSON.parse(text); } catch { /* not JSON */ }
  return { status: response.status, headers: response.headers, text, json };
};

const makeKey = async (...args) => {
  const made = await command(['keys', 'create', ...args]);
  assert.equal(made.code, 0, made.stderr);
  return made.stdout;
};

test('a key made on the server\'s machine works, is listed without its secret, and is refused once revoked', only, async () => {
  const key = await makeKey('--name', 'robot', '--scopes', 'keys:admin,vectors:read', '--tenant', 'acme', '--expires-in', '1d');
  assert.match(key, /^alk_[0-9a-f]{24}_[0-9a-f]{64}$/);
  const [, id, secret] = key.split('_');
  const listed = await ask('GET', '/api/v1/keys', { token: key });
  assert.equal(listed.status, 200, listed.text);
  const [entry] = listed.json.keys;
  assert.deepEqual([entry.id, entry.name, entry.tenant, entry.scopes], [id, 'robot', 'acme', ['vectors:read', 'keys:admin']]);
  assert.equal(entry.expires_at - entry.created_at, 86_400);
  assert.ok(!listed.text.includes(secret) && !server.logs().includes(secret), 'the secret is neither listed nor logged');
  const table = await command(['keys', 'list', '--tenant', 'acme']);
  assert.match(table.stdout, new RegExp(`${id}.*robot.*vectors:read,keys:admin`));
  assert.ok(!table.stdout.includes(secret));
  assert.equal((await command(['keys', 'revoke', id, '--tenant', 'acme'])).code, 0);
  const refused = await ask('GET', '/api/v1/keys', { token: key });
  assert.deepEqual([refused.status, refused.json.error.code], [401, 'unauthenticated']);
  const again = await command(['keys', 'revoke', id, '--tenant', 'acme']);
  assert.notEqual(again.code, 0);
  assert.match(again.stderr, /has no API key/);
});

test('keys outlive a restart of the server', only, async () => {
  const prepared = await prepareServer();
  let own = prepared.spawn();
  await own.ready();
  const { stdout: key } = await command(['keys', 'create', '--name', 'kept', '--scopes', 'keys:admin'], { of: own });
  assert.equal((await ask('GET', '/api/v1/keys', { token: key, of: own })).status, 200);
  own.signal('SIGKILL');
  await own.exited();
  own = prepared.spawn();
  await own.ready();
  assert.equal((await ask('GET', '/api/v1/keys', { token: key, of: own })).status, 200);
  await own.stop();
});

test('a scope that is missing is named, by key and by token', only, async () => {
  const key = await makeKey('--name', 'reader', '--scopes', 'vectors:read');
  const { stdout: token } = await command(['token', '--identity', 'ana', '--scopes', 'vectors:read', '--tenant', 'acme']);
  const { stdout: roomToken } = await command(['token', '--identity', 'ana', '--room', 'lobby', '--admin']);
  for (const credential of [key, token, roomToken]) {
    const refused = await ask('GET', '/api/v1/keys', { token: credential });
    assert.deepEqual([refused.status, refused.json.error.code], [403, 'permission_denied']);
    assert.match(refused.json.error.message, /keys:admin/);
  }
  const cli = await command(['keys', 'list', '--token', key]);
  assert.notEqual(cli.code, 0);
  assert.match(cli.stderr, /keys:admin/);
});

test('tenants see and revoke their own keys alone', only, async () => {
  const [red, blue] = [await makeKey('--name', 'red', '--scopes', 'keys:admin', '--tenant', 'red'), await makeKey('--name', 'blue', '--scopes', 'keys:admin', '--tenant', 'blue')];
  const names = async (token) => (await ask('GET', '/api/v1/keys', { token })).json.keys.map(({ name }) => name);
  assert.deepEqual([await names(red), await names(blue)], [['red'], ['blue']]);
  assert.equal((await ask('DELETE', `/api/v1/keys/${blue.split('_')[1]}`, { token: red })).status, 404);
  const made = await ask('POST', '/api/v1/keys', { token: red, body: { name: 'more', scopes: ['jobs:read'] } });
  assert.deepEqual([made.status, made.json.key.tenant], [201, 'red'], 'a key is made for the tenant of who asks');
  assert.equal((await names(blue)).length, 1);
});

test('credentials that are none are refused in the same words, and never quoted', only, async () => {
  const key = await makeKey('--name', 'x', '--scopes', 'keys:admin');
  const [, id, secret] = key.split('_');
  const wrong = [`alk_${id}_${'0'.repeat(64)}`, `alk_${'0'.repeat(24)}_${secret}`, 'alk_', 'alk_s3cret', `${key}x`];
  const answers = new Set();
  for (const token of wrong) {
    const { status, json, headers } = await ask('GET', '/api/v1/keys', { token });
    assert.deepEqual([status, headers.get('www-authenticate')], [401, 'Bearer'], token);
    answers.add(json.error.message);
  }
  assert.equal(answers.size, 1, 'which part was wrong is not told');
  assert.doesNotMatch([...answers][0], /s3cret/);
  for (const token of ['s3cret', 'a.b.c']) {
    const { status, text } = await ask('GET', '/api/v1/keys', { token });
    assert.equal(status, 401);
    assert.doesNotMatch(text, /s3cret/);
  }
  assert.equal((await ask('GET', '/api/v1/keys')).status, 401);
});

test('what is not there and what is not taken is said in JSON, away from the page too', only, async () => {
  for (const [method, path, status, code] of [
    ['GET', '/api/v1/nothing', 404, 'not_found'],
    ['GET', '/api/v1', 404, 'not_found'],
    ['POST', '/api/v2/keys', 404, 'not_found'],
    ['GET', '/api/v1/docs/nothing.js', 404, 'not_found'],
    ['PATCH', '/api/v1/keys', 405, 'method_not_allowed'],
    ['DELETE', '/api/v1/info', 405, 'method_not_allowed'],
    ['GET', '/api/v1/join', 405, 'method_not_allowed'],
  ]) {
    const { status: found, json, text, headers } = await ask(method, path);
    assert.deepEqual([found, json?.error?.code], [status, code], `${method} ${path}: ${text}`);
    if (status === 405) assert.ok(headers.get('allow'), `${method} ${path} says what is taken`);
  }
  assert.match((await ask('GET', '/nothing')).text, /The page is at \//, 'elsewhere the page answers');
  assert.equal((await ask('POST', '/nothing')).status, 405);
});

test('a body that is too large, broken or unknown is refused by what is wrong with it', only, async () => {
  const own = await startServer({ config: { api: { max_body_bytes: 2048 } } });
  const { stdout: key } = await command(['keys', 'create', '--name', 'x', '--scopes', 'keys:admin'], { of: own });
  const post = (body, headers) => fetch(`${own.http}/api/v1/keys`, { method: 'POST', body, headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json', ...headers } });
  for (const [body, status, headers] of [
    [JSON.stringify({ name: 'x'.repeat(3000), scopes: ['jobs:read'] }), 413],
    ['{', 400], ['{"name":"a","scopes":["jobs:read"],"tenant":"other"}', 422], ['{"name":"a"}', 422],
    ['{"name":"a","scopes":["jobs:wirte"]}', 400], ['{}', 415, { 'content-type': 'text/plain' }],
  ]) {
    const response = await post(body, headers);
    const { error } = await response.json();
    assert.equal(response.status, status, `${body.slice(0, 60)}: ${JSON.stringify(error)}`);
    assert.ok(error.code && error.message);
  }
  await own.stop();
});

test('a caller over its limit is told when to come back; others and the page are served', only, async () => {
  const own = await startServer({ config: { api: { requests_per_second: 0.5, burst: 3 } } });
  const [greedy, other] = await Promise.all(['greedy', 'other'].map(async (tenant) => (await command(['token', '--identity', tenant, '--scopes', 'keys:admin', '--tenant', tenant], { of: own })).stdout));
  const answers = [];
  for (let i = 0; i < 6; i += 1) answers.push(await ask('GET', '/api/v1/keys', { token: greedy, of: own }));
  const refused = answers.filter(({ status }) => status === 429);
  assert.ok(refused.length >= 2 && answers[0].status === 200, answers.map(({ status }) => status).join());
  for (const { headers, json } of refused) {
    assert.equal(json.error.code, 'resource_exhausted');
    assert.ok([1, 2].includes(Number(headers.get('retry-after'))), headers.get('retry-after'));
  }
  assert.equal((await ask('GET', '/api/v1/keys', { token: other, of: own })).status, 200);
  assert.equal((await ask('GET', '/', { of: own })).status, 200);
  assert.match((await ask('GET', '/metrics', { of: own })).text, /auralink_api_refused_total\{why="rate"\} [1-9]/);
  await own.stop();
});

test('the description is a valid one of every route, and the page to try it opens in a browser', only, async () => {
  const { json: description, headers } = await ask('GET', '/api/v1/openapi.json');
  assert.match(headers.get('content-type'), /^application\/json/);
  assert.match(description.openapi, /^3\.1\./);
  const paths = Object.keys(description.paths);
  for (const path of ['/api/v1/info', '/api/v1/join', '/api/v1/rooms/{room}/captions', '/api/v1/keys', '/api/v1/keys/{id}']) assert.ok(paths.includes(path), path);
  const ids = [];
  for (const [path, operations] of Object.entries(description.paths)) {
    const named = [...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => name).sort();
    for (const [method, operation] of Object.entries(operations)) {
      const given = (operation.parameters ?? []).filter((parameter) => parameter.in === 'path').map(({ name }) => name).sort();
      assert.deepEqual(given, named, `${method} ${path} describes its path's parameters`);
      assert.ok(Object.keys(operation.responses).length > 0 && (operation.summary || operation.description), `${method} ${path} says what it does`);
      ids.push(operation.operationId);
      // Every route is there: whatever it answers, it is not "nothing here" or "another method".
      const asked = await ask(method.toUpperCase(), path.replace(/\{\w+\}/g, 'x'));
      assert.notEqual(asked.status, 405, `${method} ${path}`);
      if (asked.status === 404) assert.doesNotMatch(asked.text, /there is nothing at/, `${method} ${path}`);
    }
  }
  assert.equal(new Set(ids).size, ids.length, `operation ids are unique: ${ids}`);
  for (const [, name] of JSON.stringify(description).matchAll(/#\/components\/schemas\/([^"]+)"/g)) assert.ok(description.components.schemas[name], `${name} is described`);

  const browser = await startBrowser();
  try {
    const page = await browser.openPage(`${server.http}/api/v1/docs/`);
    await page.waitForSelector('.opblock-summary-path');
    const shown = await page.$$eval('.opblock-summary-path', (all) => all.map((element) => element.textContent.replaceAll('\u200b', '')));
    assert.equal(shown.length, ids.length, `every operation is shown: ${shown}`);
    await page.click('#operations-rooms-info .opblock-summary');
    await page.click('#operations-rooms-info .execute');
    await page.waitForSelector('#operations-rooms-info .live-responses-table .response-col_status');
    assert.match(await page.textContent('#operations-rooms-info .live-responses-table'), /AuraLink/, 'a request can be tried');
    await mkdir(join(cache, 'e2e'), { recursive: true });
    await page.screenshot({ path: join(cache, 'e2e', 'api-docs.png'), fullPage: true });
    assert.deepEqual(page.problems, []);
  } finally {
    await browser.close();
  }
});

test('without docs the description and the page are not there, and the API is', only, async () => {
  const own = await startServer({ config: { api: { docs: false } } });
  for (const path of ['/api/v1/openapi.json', '/api/v1/docs', '/api/v1/docs/']) assert.equal((await ask('GET', path, { of: own })).status, 404, path);
  assert.equal((await ask('GET', '/api/v1/info', { of: own })).status, 200);
  await own.stop();
});

test('the command line says what is wrong, and with whom it spoke', only, async () => {
  for (const [args, pattern, env] of [
    [['keys', 'list'], /no AuraLink server answers at http:\/\/127\.0\.0\.1:9/, { AURALINK_URL: 'http://127.0.0.1:9' }],
    [['keys', 'create', '--name', 'x', '--scopes', 'vectors:wirte'], /vectors:wirte.*vectors:write/s],
    [['keys', 'create', '--name', '', '--scopes', 'jobs:read'], /name must have/],
    [['keys', 'create', '--name', 'x', '--scopes', 'jobs:read', '--tenant', '../x'], /cannot name a tenant/],
    [['keys', 'revoke', '../../x'], /is no key's id/],
    [['keys', 'list', '--token', 'alk_s3cret'], /invalid API key/],
  ]) {
    const { code, stderr } = await command(args, { env });
    assert.notEqual(code, 0, args.join(' '));
    assert.match(stderr, pattern, args.join(' '));
    assert.doesNotMatch(stderr, /s3cret/);
  }
});

test('texts become vectors that say what means the same', only, async () => {
  const key = await makeKey('--name', 'reader', '--scopes', 'vectors:read');
  const texts = ['A talk about bees and how they find their way home.', 'How do honeybees navigate back to the hive?', 'The stock market fell sharply on Tuesday.'];
  const { status, json, text } = await ask('POST', '/api/v1/embeddings', { token: key, body: { texts } });
  assert.equal(status, 200, text);
  assert.deepEqual([json.dimensions, json.vectors.length, json.vectors[0].length], [384, 3, 384]);
  const [bees, hive, stocks] = json.vectors;
  const dot = (a, b) => a.reduce((sum, x, i) => sum + x * b[i], 0);
  assert.ok(dot(bees, hive) > 0.5 && dot(bees, stocks) < 0.2, `${dot(bees, hive)} ${dot(bees, stocks)}`);
  const many = await ask('POST', '/api/v1/embeddings', { token: key, body: { texts: Array(1025).fill('') } });
  assert.deepEqual([many.status, many.json.error.code], [400, 'invalid_argument']);
  assert.equal((await ask('POST', '/api/v1/embeddings', { token: await makeKey('--name', 'j', '--scopes', 'jobs:read'), body: { texts } })).status, 403);
});

test('without a sentence model the server runs and says what is missing', only, async () => {
  const own = await startServer({ config: { embeddings: { pack: '/nowhere' } } });
  const { stdout: key } = await command(['keys', 'create', '--name', 'x', '--scopes', 'vectors:read'], { of: own });
  const { status, json } = await ask('POST', '/api/v1/embeddings', { token: key, body: { texts: ['x'] }, of: own });
  assert.deepEqual([status, json.error.code], [412, 'failed_precondition']);
  assert.match(json.error.message, /\/nowhere\/config\.json/);
  await own.stop();
});
