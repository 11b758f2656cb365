// Two browsers in one room by livekit-client, unmodified: each sees and hears the other, mute and data and leaving are
// seen. Over one peer connection (`/rtc/v1`, livekit-client's default) and over two (`/rtc`).

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { heard, hearsSound, joinRoom, seesFrames, startBrowser } from './fixture/browser.mjs';
import { delays, percentile, steps } from './fixture/glass_to_glass.mjs';
import { startServer } from './fixture/server.mjs';

let server;
let browser;
before(async () => {
  server = await startServer();
  browser = await startBrowser();
});
after(async () => {
  await browser?.close();
  await server?.stop();
});

for (const single of [true, false]) {
  const connections = single ? 'one peer connection' : 'two peer connections';

  test(`two people meet over ${connections}`, async (t) => {
    const room = `meet-${single}`;
    const [ana, ben] = [await browser.openHarness(), await browser.openHarness()];
    const everyone = [[ana, 'ana', 'ben'], [ben, 'ben', 'ana']];
    for (const [page, identity] of everyone) await joinRoom(page, server, room, identity, { single });

    await t.test('each is told of the other', async () => {
      await heard(ana, 'participantConnected', { identity: 'ben' });
      assert.deepEqual(await ben.evaluate(() => [...window.harness.room.remoteParticipants.keys()]), ['ana']);
    });

    await t.test('each sees the other, frame after frame', async (t) => {
      for (const [page] of everyone) await page.evaluate(() => window.harness.publishCamera());
      for (const [page, , other] of everyone) await seesFrames(page, other, 45);
      for (const [page, , other] of everyone) {
        const readings = (await page.evaluate((who) => window.harness.frames[who], other)).slice(15); // past the first seconds of bandwidth estimation
        const readable = readings.filter((frame) => frame.number !== null).length;
        assert.ok(readable >= readings.length * 0.9, `${readable} of ${readings.length} pictures are whole`);
        assert.ok(steps(readings).every((step) => step < 120), `the numbers go up: ${steps(readings)}`);
        const sender = page === ana ? ben : ana;
        const sorted = delays(await sender.evaluate((who) => window.harness.frames[who], other), readings);
        assert.ok(sorted.length > 0, 'some frame was read on both sides');
        t.diagnostic(`${connections}: glass to glass ${other} -> ${page.identity} p50 ${percentile(sorted, 50).toFixed(0)} ms, p95 ${percentile(sorted, 95).toFixed(0)} ms over ${sorted.length} frames`);
      }
    });

    await t.test('each hears the other', async () => {
      for (const [page] of everyone) await page.evaluate(() => window.harness.publishMicrophone());
      for (const [page, , other] of everyone) await hearsSound(page, other);
    });

    await t.test('who speaks is told', async () => {
      await ana.waitForFunction(() => window.harness.log.some((entry) => entry.event === 'activeSpeakers' && entry.speakers.includes('ben')));
    });

    await t.test('mute and unmute are seen', async () => {
      await ana.evaluate(() => window.harness.room.localParticipant.setMicrophoneEnabled(false));
      await heard(ben, 'trackMuted', { identity: 'ana', kind: 'audio' });
      await ana.evaluate(() => window.harness.room.localParticipant.setMicrophoneEnabled(true));
      await heard(ben, 'trackUnmuted', { identity: 'ana', kind: 'audio' });
      await hearsSound(ben, 'ana');
      await ana.evaluate(() => window.harness.room.localParticipant.setCameraEnabled(false));
      await heard(ben, 'trackMuted', { identity: 'ana', kind: 'video' });
      await ana.evaluate(() => window.harness.room.localParticipant.setCameraEnabled(true));
      await heard(ben, 'trackUnmuted', { identity: 'ana', kind: 'video' });
      await seesFrames(ben, 'ana', 15);
    });

    await t.test('chat and data reach the other', async () => {
      await ana.evaluate(() => window.harness.room.localParticipant.sendChatMessage('Grüße, Ben'));
      await heard(ben, 'chat', { identity: 'ana', text: 'Grüße, Ben' });
      for (const reliable of [true, false]) {
        const text = reliable ? 'kept' : 'perhaps';
        await ben.evaluate(([text, reliable]) =>
          window.harness.room.localParticipant.publishData(new TextEncoder().encode(text), { reliable, topic: 'test' }), [text, reliable]);
        await heard(ana, 'data', { identity: 'ben', topic: 'test', text });
      }
    });

    await t.test('metadata, name and attributes reach the other', async () => {
      await ana.evaluate(async () => {
        const me = window.harness.room.localParticipant;
        await me.setMetadata('{"seat":1}');
        await me.setName('Ana María');
        await me.setAttributes({ mood: 'bright' });
      });
      await heard(ben, 'metadata', { identity: 'ana', metadata: '{"seat":1}' });
      await heard(ben, 'name', { identity: 'ana', name: 'Ana María' });
      await ben.waitForFunction(() => window.harness.room.getParticipantByIdentity('ana').attributes.mood === 'bright');
    });

    await t.test('leaving is seen', async () => {
      await ben.evaluate(() => window.harness.room.disconnect());
      await heard(ana, 'participantDisconnected', { identity: 'ben' });
      assert.equal(await ana.evaluate(() => window.harness.room.remoteParticipants.size), 0);
    });

    for (const [page] of everyone) {
      assert.deepEqual(page.problems, []);
      await page.context().close();
    }
  });
}
