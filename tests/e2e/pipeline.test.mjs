// `auralink pipeline`: a folder of recordings in several formats, one of them broken, to transcripts that are found by what they mean; stopped by
// kill -9 half-way, the same command goes on, and does nothing twice.

import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { promisify } from 'node:util';
import { auralinkOnly, cache, prepareServer } from './fixture/server.mjs';

const only = { skip: auralinkOnly };
const run = promisify(execFile);

// Sentences of what the demonstrator recogniser knows are not assumed: what is heard is read back from its own transcripts.
const sentences = {
  'weather.wav': 'the weather is nice today',
  'deeper/music.flac': 'please play some music',
  'deeper/light.mp3': 'turn on the light in the kitchen',
  'time.ogg': 'what time is it now',
};

let folder;
let recordings;
let binary;

/** Speaks a sentence into a file, in the format of its name. */
async function speak(file, text) {
  const wav = `${file}.speech.wav`;
  await run('espeak-ng', ['-v', 'en-us', '-s', '140', '-w', wav, text]);
  await run('sox', [wav, '-r', '16000', file, 'pad', '0.5', '1']);
  await rm(wav);
}

before(async () => {
  if (auralinkOnly) return;
  ({ binary } = await prepareServer());
  folder = await mkdtemp(join(tmpdir(), 'auralink-pipeline-'));
  recordings = join(folder, 'recordings');
  await mkdir(join(recordings, 'deeper'), { recursive: true });
  await Promise.all(Object.entries(sentences).map(([name, text]) => speak(join(recordings, name), text)));
  await writeFile(join(recordings, 'broken.wav'), Buffer.from('RIFF this is no sound at all, whatever its name says'));
  await writeFile(join(recordings, 'notes.txt'), 'not a recording');
});
after(() => folder && rm(folder, { recursive: true, force: true }));

const env = () => ({ PATH: process.env.PATH, HOME: folder, AURALINK_CACHE: cache });
const pipeline = async (data, ...args) => {
  const [command, ...rest] = args;
  const { stdout, stderr } = await run(binary, ['pipeline', command, '--data-dir', join(folder, data), ...rest], { env: env(), maxBuffer: 1 << 24 });
  return { stdout, stderr };
};

/** The steps that are kept, by recording, and when each was done. */
async function kept(data) {
  const lines = (await pipeline(data, 'status', '--json')).stdout.split('\n').filter(Boolean).map((line) => JSON.parse(line));
  const steps = lines.flatMap(({ file, steps }) => steps.filter((step) => step.is_final).map((step) => [`${file.sha256}/${step.kind}`, step.finished_ms]));
  return Object.fromEntries(steps);
}

test('a folder becomes transcripts that are found by what they mean', only, async () => {
  const out = join(folder, 'transcripts');
  const { stdout, stderr } = await pipeline('data', 'run', recordings, '--export', out);
  assert.match(stdout, /5 recordings, 1 failed/);
  assert.match(stderr, /broken\.wav: decode: /);
  assert.match(stderr, /analyse: unavailable: \S+/, 'a step without an engine says so');
  assert.match(stderr, /reduce: unavailable: \S+/);
  for (const name of Object.keys(sentences)) {
    const text = (await readFile(join(out, `${name}.txt`), 'utf8')).trim();
    assert.ok(text.length > 0, `${name} has a transcript`);
    const everything = JSON.parse(await readFile(join(out, `${name}.json`), 'utf8'));
    assert.equal(everything.segments.map((segment) => segment.text).join('\n'), text);
    assert.ok(everything.segments.every((segment) => segment.end_ms > segment.start_ms && segment.words.length > 0));
    assert.match(await readFile(join(out, `${name}.vtt`), 'utf8'), /^WEBVTT\n\n00:00:0\d\.\d{3} --> /);
    assert.match(await readFile(join(out, `${name}.srt`), 'utf8'), /^1\n00:00:0\d,\d{3} --> /);
  }
  // What was heard is found by itself, before all others.
  const heard = (await readFile(join(out, 'deeper/light.mp3.txt'), 'utf8')).trim().split('\n')[0];
  const found = (await pipeline('data', 'search', heard)).stdout.split('\n');
  assert.match(found[0], /^(0\.9\d+|1\.0+) .*deeper\/light\.mp3 /, found.join('\n'));
  const status = (await pipeline('data', 'status')).stdout;
  assert.equal(status.match(/transcribe done/g).length, 4, status);
  assert.match(status, /broken\.wav {2}decode failed/);
});

test('the same again does nothing twice, and a copy under another name is known by its content', only, async () => {
  const before = await kept('data');
  assert.ok(Object.keys(before).length >= 8);
  const { stdout } = await pipeline('data', 'run', recordings);
  assert.match(stdout, /5 recordings, 1 failed/);
  assert.deepEqual(await kept('data'), before);
  const copies = join(folder, 'copies');
  await mkdir(copies, { recursive: true });
  await writeFile(join(copies, 'renamed.wav'), await readFile(join(recordings, 'weather.wav')));
  await pipeline('data', 'run', copies);
  assert.deepEqual(await kept('data'), before);
});

test('killed half-way, it goes on where it was', only, async () => {
  const child = spawn(binary, ['pipeline', 'run', '--data-dir', join(folder, 'killed'), recordings], { env: env(), stdio: ['ignore', 'pipe', 'ignore'] });
  const ended = once(child, 'exit');
  // As soon as one recording is done, and before all are.
  child.stdout.on('data', (said) => String(said).includes('transcribe done') && child.kill('SIGKILL'));
  await ended;
  const before = await kept('killed');
  const { stdout } = await pipeline('killed', 'run', recordings);
  assert.match(stdout, /5 recordings, 1 failed/);
  const now = await kept('killed');
  assert.deepEqual(Object.fromEntries(Object.entries(now).filter(([name]) => name in before)), before, 'what was done is not done again');
  assert.equal(Object.keys(now).filter((name) => name.includes('transcribe')).length, 4);
  assert.deepEqual((await readdir(join(folder, 'killed', 'pipeline', 'audio'), { recursive: true, withFileTypes: true })).filter((entry) => entry.isFile()), [], 'no copy of a recording is left');
});

test('a recording at a URL is fetched once, goes on where it was cut, and is bounded', only, async () => {
  const sound = await readFile(join(recordings, 'weather.wav'));
  const asked = [];
  let cut = true;
  const web = createServer((request, response) => {
    const { range, 'if-none-match': known } = request.headers;
    asked.push({ url: request.url, range, known });
    response.setHeader('etag', '"one"');
    if (request.url.startsWith('/none')) return response.writeHead(404).end();
    if (known === '"one"') return response.writeHead(304).end();
    const from = range ? Number(range.match(/bytes=(\d+)-/)[1]) : 0;
    if (range) response.setHeader('content-range', `bytes ${from}-${sound.length - 1}/${sound.length}`);
    response.writeHead(range ? 206 : 200, { 'content-length': sound.length - from });
    if (!cut) return response.end(sound.subarray(from));
    cut = false;
    response.write(sound.subarray(0, 10_000));
    setTimeout(() => response.destroy(), 300);
  }).listen(0, '127.0.0.1');
  await once(web, 'listening');
  try {
    const url = `http://127.0.0.1:${web.address().port}/talks/weather.wav?sig=secret`;
    const { stdout } = await pipeline('web', 'run', url);
    assert.match(stdout, /1 recordings, 0 failed/);
    assert.equal(asked[1].range, 'bytes=10000-');
    const again = await pipeline('web', 'run', url);
    assert.deepEqual([asked.length, asked[2].known], [3, '"one"']);
    assert.match(again.stdout, /\(\d kept\)/);
    const status = (await pipeline('web', 'status')).stdout;
    assert.match(status, /\/talks\/weather\.wav:weather\.wav/);
    assert.doesNotMatch(status, /secret/);
    await assert.rejects(pipeline('web', 'run', url.replace('talks', 'none')), (error) => /answered 404/.test(error.stderr) && !/secret/.test(error.stderr));
  } finally {
    web.close();
  }
});

test('what is not there is said', only, async () => {
  await assert.rejects(pipeline('data', 'run', join(folder, 'nowhere')), /nowhere cannot be opened/);
  await assert.rejects(pipeline('data', 'run', 'ftp://example.com/a.wav'), /STORE:PATH/);
  await mkdir(join(folder, 'empty'), { recursive: true });
  await assert.rejects(pipeline('data', 'run', join(folder, 'empty')), /holds no recordings/);
});
