// Simulcast by a real client: livekit-client sends a picture of 1280x720 in three layers, and a subscriber gets the one that it
// asks for, down and up again.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { joinRoom, seesFrames, startBrowser } from './fixture/browser.mjs';
import { HD } from './fixture/camera.mjs';
import { startServer } from './fixture/server.mjs';

let server;
let browser;
before(async () => {
  server = await startServer();
  browser = await startBrowser({ camera: HD });
});
after(async () => {
  await browser?.close();
  await server?.stop();
});

for (const single of [true, false]) {
  const connections = single ? 'one peer connection' : 'two peer connections';

  test(`a subscriber gets the layer that it asks for over ${connections}`, async (t) => {
    const [ana, ben] = [await browser.openHarness(), await browser.openHarness()];
    const room = `simulcast-${single}`;
    await joinRoom(ana, server, room, 'ana', { single });
    await joinRoom(ben, server, room, 'ben', { single });
    // A busy machine shall cost frames, not pixels.
    const options = { videoCodec: 'vp8', degradationPreference: 'maintain-resolution' };
    await ana.evaluate(([options, size]) => window.harness.publishCamera(options, size), [options, { width: HD.width, height: HD.height }]);
    await seesFrames(ben, 'ana', 5);

    const sizes = [['LOW', 320, 180], ['HIGH', 1280, 720], ['MEDIUM', 640, 360], ['HIGH', 1280, 720]];
    for (const [quality, width, height] of sizes) {
      await ben.evaluate((quality) => window.harness.askQuality('ana', quality), quality);
      await ben.waitForFunction(async ([width, height]) => {
        const { frameWidth, frameHeight } = (await window.harness.receivedVideo('ana')) ?? {};
        return frameWidth === width && frameHeight === height;
      }, [width, height], { polling: 200 }).catch(async (error) => {
        const state = { received: await ben.evaluate(() => window.harness.receivedVideo('ana')), sent: await ana.evaluate(() => window.harness.sentLayers()) };
        throw new Error(`${quality} is not ${width}x${height}: ${JSON.stringify(state)}`, { cause: error });
      });
      await seesFrames(ben, 'ana', 8);
      t.diagnostic(`${connections}: ${quality} is ${width}x${height}`);
    }
    const layers = await ana.evaluate(() => window.harness.sentLayers());
    assert.deepEqual(layers.map((layer) => layer.rid).sort(), ['f', 'h', 'q']);

    for (const page of [ana, ben]) {
      assert.deepEqual(page.problems, []);
      await page.context().close();
    }
  });
}
