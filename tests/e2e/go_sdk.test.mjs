// LiveKit's Go SDK, unmodified: Opus payloads arrive as they were sent, data goes both ways, leaving is seen; over two
// peer connections (`/rtc`) and over one (`/rtc/v1`). The client is tests/gosdk.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { promisify } from 'node:util';
import { cache, startServer } from './fixture/server.mjs';

let server;
before(async () => { server = await startServer(); });
after(() => server?.stop());

for (const flags of [[], ['-single-pc']]) {
  test(`the Go SDK meets itself in a room ${flags.join(' ')}`, async (t) => {
    const { stdout } = await promisify(execFile)(join(cache, 'tools', 'gosdk-client'), [...flags, `go${flags.length}`], {
      timeout: 120_000,
      env: { ...process.env, LIVEKIT_URL: server.ws, LIVEKIT_API_KEY: server.apiKey, LIVEKIT_API_SECRET: server.apiSecret },
    });
    const seen = JSON.parse(stdout);
    assert.equal(seen.codec, 'audio/opus');
    assert.equal(seen.received, 100);
    assert.equal(seen.missing, 0);
    assert.ok(seen.unpublish_heard && seen.leave_heard);
    t.diagnostic(`first audio ${seen.first_audio_ms.toFixed(0)} ms after the listener began to join`);
  });
}
