// Every engine of sandboxes that is real here, by the command line, on one server: one image, imported once, in a process, a container of Docker, one
// of Podman and a microVM. The server is killed in between and finds them all again.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { copyFile, mkdir, readFile, readdir, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { promisify } from 'node:util';
import { containers, startDaemon } from './fixture/daemon.mjs';
import { auralinkOnly, eventually, ownServerOnly, prepareServer } from './fixture/server.mjs';

const only = { skip: auralinkOnly || ownServerOnly };
const run = promisify(execFile);
const ENGINES = ['process', 'docker', 'podman', 'qemu'];
const ids = {};
const daemons = [];
let prepared;
let server;

before(async () => {
  if (only.skip) return;
  const [docker, podman] = await Promise.all(['docker', 'podman'].map(startDaemon));
  daemons.push(docker, podman);
  prepared = await prepareServer({
    config: { sandboxes: { engines: ENGINES, default_engine: 'process', docker_socket: docker.socket, podman_socket: podman.socket } },
  });
  server = prepared.spawn();
  await server.ready();
});

after(async () => {
  if (server) {
    await sandbox('delete', ...Object.values(ids));
    await server.stop();
  }
  await Promise.all(daemons.map((daemon) => daemon.stop()));
});

/** Runs `auralink sandbox`, with the server's own configuration. */
async function sandbox(...args) {
  const env = { ...process.env, HOME: prepared.folder, AURALINK_GRPC: `http://${server.grpc}`, AURALINK_CONFIG: prepared.file };
  try {
    const { stdout, stderr } = await run(prepared.binary, ['sandbox', ...args], { env });
    return { code: 0, stdout, stderr };
  } catch ({ code, stdout, stderr }) {
    return { code, stdout, stderr };
  }
}

async function inside(id, script) {
  const { code, stdout, stderr } = await sandbox('exec', id, 'sh', '-c', script);
  assert.equal(code, 0, stderr);
  return stdout.trim();
}

/** A root filesystem of busybox alone, as an archive. */
async function busybox() {
  const root = join(prepared.folder, 'busybox');
  for (const folder of ['bin', 'etc', 'root', 'tmp', 'proc', 'sys', 'dev', 'run', 'workspace']) await mkdir(join(root, folder), { recursive: true });
  await copyFile('/bin/busybox', join(root, 'bin/busybox'));
  const { stdout } = await run('/bin/busybox', ['--list']);
  for (const name of stdout.trim().split('\n').filter((name) => name !== 'busybox')) await symlink('busybox', join(root, 'bin', name));
  await writeFile(join(root, 'etc/passwd'), 'root:x:0:0:root:/root:/bin/sh\n');
  await run('tar', ['-C', root, '-czf', `${root}.tar.gz`, '.']);
  return `${root}.tar.gz`;
}

test('each engine says what it can do here', only, async () => {
  const { code, stdout, stderr } = await sandbox('engines');
  assert.equal(code, 0, stderr);
  for (const engine of ENGINES) assert.match(stdout, new RegExp(`^${engine}\\b`, 'm'), stdout);
  assert.doesNotMatch(stdout, /cannot be used/, stdout);
});

test('one image begins a sandbox of each', only, async () => {
  const imported = await sandbox('images', 'import', 'busybox', await busybox());
  assert.equal(imported.code, 0, imported.stderr);
  for (const engine of ENGINES) {
    const made = await sandbox('create', '--engine', engine, '--image', 'busybox', '--memory', '256M', '--disk', '64M', '--name', `on-${engine}`);
    assert.equal(made.code, 0, `${engine}: ${made.stderr}`);
    ids[engine] = made.stdout.trim();
  }
  const listed = (await sandbox('list')).stdout;
  for (const engine of ENGINES) assert.match(listed, new RegExp(`${ids[engine]} .*on-${engine}.*running|${ids[engine]} .*running`), listed);
});

for (const engine of ENGINES) {
  test(`${engine}: programs, files, a pause and a snapshot`, only, async () => {
    const id = ids[engine];
    const ended = await sandbox('exec', id, 'sh', '-c', 'echo out; echo err >&2; exit 7');
    assert.deepEqual([ended.code, ended.stdout, ended.stderr], [7, 'out\n', 'err\n']);
    const file = join(prepared.folder, engine);
    await writeFile(file, `for ${engine}`);
    assert.equal((await sandbox('cp', file, `${id}:/tmp/in`)).code, 0);
    assert.equal(await inside(id, 'cat /tmp/in'), `for ${engine}`);
    await inside(id, 'echo back > /tmp/out; echo kept > /root/kept');
    assert.equal((await sandbox('cp', `${id}:/tmp/out`, `${file}.back`)).code, 0);
    assert.equal(await readFile(`${file}.back`, 'utf8'), 'back\n');
    for (const step of ['pause', 'resume']) {
      const done = await sandbox(step, id);
      assert.equal(done.code, 0, `${step}: ${done.stderr}`);
    }
    const taken = await sandbox('snapshot', id);
    assert.equal(taken.code, 0, taken.stderr);
    const begun = await sandbox('create', '--engine', engine, '--snapshot', taken.stdout.trim(), '--memory', '256M', '--disk', '64M');
    assert.equal(begun.code, 0, begun.stderr);
    assert.equal(await inside(begun.stdout.trim(), 'cat /root/kept'), 'kept');
    assert.equal((await sandbox('delete', begun.stdout.trim())).code, 0);
    assert.match((await sandbox('show', id)).stdout, new RegExp(engine));
  });
}

test('a server that is killed and started again finds all of them running', only, async () => {
  for (const id of Object.values(ids)) await inside(id, '(setsid sleep 3600 & echo $! > /tmp/pid) > /dev/null 2>&1');
  server.signal('SIGKILL');
  await server.exited();
  server = prepared.spawn();
  await server.ready();
  for (const [engine, id] of Object.entries(ids)) {
    assert.equal(await inside(id, 'kill -0 $(cat /tmp/pid) && cat /root/kept'), 'kept', engine);
  }
});

test('deleted, nothing of them is left', only, async () => {
  const gone = Object.values(ids);
  for (const [engine, id] of Object.entries(ids)) {
    const done = await sandbox('delete', id);
    assert.equal(done.code, 0, `${engine}: ${done.stderr}`);
    assert.match((await sandbox('show', id)).stderr, /there is no sandbox/);
    delete ids[engine];
  }
  const [docker, podman] = await Promise.all(daemons.map(({ socket }) => containers(socket)));
  const groups = (await run('find', ['/sys/fs/cgroup', '-type', 'd', '-name', '*sb-*'])).stdout;
  const kept = (await readdir(join(prepared.folder, 'data/sandboxes/homes'))).join(' ');
  // Podman's monitors of programs that ended stay for five minutes (its `exit_command_delay`), whatever becomes of the container.
  const monitor = /^(\S*\/)?conmon /;
  const left = async () => (await run('ps', ['-e', '-o', 'args'])).stdout.split('\n').filter((line) => !monitor.test(line)).join('\n');
  for (const id of gone) {
    for (const [where, text] of Object.entries({ docker, podman, groups, kept })) assert.ok(!text.includes(id), `${id} is left: ${where}`);
    await eventually(async () => !(await left()).includes(id), `no process of ${id}`);
  }
});
