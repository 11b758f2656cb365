// Three media threads on one UDP port, which is more than this many rooms would get by themselves on a small machine: rooms spread
// over them, the kernel spreads their clients without knowing of rooms, and not a packet is missing.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { auralinkOnly, cache, startServer } from './fixture/server.mjs';

test('rooms of several shards on one port lose nothing', { skip: auralinkOnly }, async (t) => {
  const server = await startServer({ config: { rtc: { shards: 3 } } });
  try {
    const env = { ...process.env, LIVEKIT_URL: server.ws, LIVEKIT_API_KEY: server.apiKey, LIVEKIT_API_SECRET: server.apiSecret };
    const meet = (flags, room) => promisify(execFile)(join(cache, 'tools', 'gosdk-client'), [...flags, room], { timeout: 120_000, env });
    const rooms = await Promise.all([meet([], 'a'), meet(['-single-pc'], 'b'), meet([], 'c'), meet(['-single-pc'], 'd')]);
    for (const { stdout } of rooms) {
      const seen = JSON.parse(stdout);
      assert.deepEqual([seen.received, seen.missing], [100, 0]);
    }
    // Shards report about once a second.
    const sum = (text, family, label) => [...text.matchAll(new RegExp(`^${family}\\{[^}]*${label}[^}]*\\} (\\d+)$`, 'gm'))]
      .reduce((all, [, value]) => all + Number(value), 0);
    let text;
    for (let tries = 0; tries < 30; tries += 1) {
      text = await (await fetch(`${server.http}/metrics`)).text();
      if (sum(text, 'auralink_handover_total', 'incoming') > 0) break;
      await new Promise((resolve) => { setTimeout(resolve, 200); });
    }
    assert.equal(new Set([...text.matchAll(/^livekit_packet_total\{shard="(\d)".*\} [1-9]/gm)].map(([, shard]) => shard)).size, 3, text);
    assert.ok(sum(text, 'auralink_handover_total', 'incoming') > 0, text);
    assert.equal(sum(text, 'auralink_dropped_total', 'handover_full'), 0);
    t.diagnostic(`${sum(text, 'auralink_handover_total', 'incoming')} datagrams handed over`);
  } finally {
    await server.stop();
  }
});
