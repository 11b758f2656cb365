// Video in the codec that its publisher asks for, by livekit-client, over one peer connection and over two: the other browser
// receives that codec and decodes it. VP9 and AV1 are published as SVC, which is forwarded as one layer: livekit-client asks for
// L3T3_KEY, and Chromium takes fewer spatial layers where the picture is too small for three (below 960x540).

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { joinRoom, seesFrames, startBrowser } from './fixture/browser.mjs';
import { HD } from './fixture/camera.mjs';
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

/** Whether this Chromium has an encoder: builds without proprietary codecs have none for H264. */
const encodes = (page, mime) => page.evaluate((mime) => {
  const { codecs } = RTCRtpSender.getCapabilities('video');
  return codecs.some((codec) => codec.mimeType.toLowerCase() === mime.toLowerCase());
}, mime);

for (const [videoCodec, mime] of [['vp8', 'video/VP8'], ['h264', 'video/H264'], ['vp9', 'video/VP9'], ['av1', 'video/AV1']]) {
  for (const single of [true, false]) {
    const connections = single ? 'one peer connection' : 'two peer connections';

    test(`${mime} is published and decoded over ${connections}`, async (t) => {
      const [ana, ben] = [await browser.openHarness(), await browser.openHarness()];
      try {
        if (!(await encodes(ana, mime))) return void t.skip(`this Chromium cannot encode ${mime}: RTCRtpSender.getCapabilities does not name it`);
        const room = `codec-${videoCodec}-${single}`;
        await joinRoom(ana, server, room, 'ana', { single });
        await joinRoom(ben, server, room, 'ben', { single });
        await ana.evaluate((videoCodec) => window.harness.publishCamera({ videoCodec }), videoCodec);
        await seesFrames(ben, 'ana', 30);

        const received = await ben.evaluate(() => window.harness.receivedVideo('ana'));
        assert.equal(received.mimeType, mime, JSON.stringify(received));
        assert.ok(received.framesDecoded >= 30, JSON.stringify(received));
        assert.ok(received.keyFramesDecoded >= 1, JSON.stringify(received));
        const told = await ben.evaluate(() => [...window.harness.room.getParticipantByIdentity('ana').trackPublications.values()][0].mimeType);
        assert.equal(told, mime, 'the room is told the codec');
        const sent = await ana.evaluate(() => window.harness.sentVideo());
        assert.equal(sent.mimeType, mime);
        t.diagnostic(`${mime}, ${connections}: sent as ${sent.scalabilityMode ?? 'one layer'}, ${received.frameWidth}x${received.frameHeight}, ${received.framesDecoded} frames decoded, ${received.keyFramesDecoded} of them key frames, ${received.framesDropped} dropped`);
      } finally {
        for (const page of [ana, ben]) {
          assert.deepEqual(page.problems, []);
          await page.context().close();
        }
      }
    });

    test(`a late subscriber decodes ${mime} over ${connections}, and goes on after a pause`, async (t) => {
      const [ana, ben] = [await browser.openHarness(), await browser.openHarness()];
      try {
        if (!(await encodes(ana, mime))) return void t.skip(`this Chromium cannot encode ${mime}: RTCRtpSender.getCapabilities does not name it`);
        const room = `late-${videoCodec}-${single}`;
        await joinRoom(ana, server, room, 'ana', { single });
        await ana.evaluate((videoCodec) => window.harness.publishCamera({ videoCodec }), videoCodec);
        await seesFrames(ana, 'ana', 45);
        await joinRoom(ben, server, room, 'ben', { single });
        await seesFrames(ben, 'ana', 15);
        await ana.evaluate(() => window.harness.room.localParticipant.setCameraEnabled(false));
        await ana.evaluate(() => window.harness.room.localParticipant.setCameraEnabled(true));
        await seesFrames(ben, 'ana', 15);
        assert.equal((await ben.evaluate(() => window.harness.receivedVideo('ana'))).mimeType, mime);
      } finally {
        for (const page of [ana, ben]) {
          assert.deepEqual(page.problems, []);
          await page.context().close();
        }
      }
    });
  }
}

test('three spatial layers', async (t) => {
  const films = await startBrowser({ camera: HD });
  try {
    for (const [videoCodec, mime] of [['vp9', 'video/VP9'], ['av1', 'video/AV1']]) {
      await t.test(`of ${mime} are decoded at their full size by who was there and by who comes late`, async (t) => {
        const [ana, ben, cleo] = [await films.openHarness(), await films.openHarness(), await films.openHarness()];
        try {
          if (!(await encodes(ana, mime))) return void t.skip(`this Chromium cannot encode ${mime}: RTCRtpSender.getCapabilities does not name it`);
          const room = `svc-${videoCodec}`;
          await joinRoom(ana, server, room, 'ana');
          await joinRoom(ben, server, room, 'ben');
          await ana.evaluate((videoCodec) => window.harness.publishCamera({ videoCodec }, { width: 960, height: 540 }), videoCodec);
          await seesFrames(ben, 'ana', 15);
          await joinRoom(cleo, server, room, 'cleo', { single: false });
          await seesFrames(cleo, 'ana', 15);
          assert.equal((await ana.evaluate(() => window.harness.sentVideo())).scalabilityMode, 'L3T3_KEY');
          for (const page of [ben, cleo]) {
            await page.waitForFunction(async () => (await window.harness.receivedVideo('ana')).frameWidth === 960, undefined, { polling: 200 });
            const { mimeType, framesDecoded, keyFramesDecoded, framesDropped } = await page.evaluate(() => window.harness.receivedVideo('ana'));
            assert.equal(mimeType, mime);
            t.diagnostic(`${mime} L3T3_KEY to ${page.identity}: ${framesDecoded} frames decoded, ${keyFramesDecoded} of them key frames, ${framesDropped} dropped`);
          }
        } finally {
          for (const page of [ana, ben, cleo]) {
            assert.deepEqual(page.problems, []);
            await page.context().close();
          }
        }
      });
    }
  } finally {
    await films.close();
  }
});
