// A signal connection that breaks is resumed: same participant, media flowing all the while, what happened meanwhile is
// caught up. Where the server or the client asks for it, everything is set up anew, and media flows again.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { heard, hearsSound, joinRoom, seesFrames, startBrowser } from './fixture/browser.mjs';
import { startServer } from './fixture/server.mjs';
import { startSignalProxy } from './fixture/signal_proxy.mjs';

let server;
let browser;
let proxy;
before(async () => {
  server = await startServer();
  proxy = await startSignalProxy(server);
  browser = await startBrowser();
});
after(async () => {
  await browser?.close();
  proxy?.close();
  await server?.stop();
});

/** Ana comes through the proxy, Ben straight; both send and receive. */
async function meeting(room, single) {
  const [ana, ben] = [await browser.openHarness(), await browser.openHarness()];
  await joinRoom(ana, server, room, 'ana', { single, url: proxy.ws });
  await joinRoom(ben, server, room, 'ben', { single });
  for (const page of [ana, ben]) {
    await page.evaluate(async () => {
      await window.harness.publishCamera();
      await window.harness.publishMicrophone();
    });
  }
  await bothWays(ana, ben);
  return { ana, ben, close: () => Promise.all([ana, ben].map((page) => page.context().close())) };
}

async function bothWays(ana, ben) {
  await seesFrames(ana, 'ben', 15);
  await seesFrames(ben, 'ana', 15);
  await hearsSound(ana, 'ben');
  await hearsSound(ben, 'ana');
}

const sid = (page) => page.evaluate(() => window.harness.room.localParticipant.sid);

for (const single of [true, false]) {
  const connections = single ? 'one peer connection' : 'two peer connections';

  test(`a broken signal connection is resumed (${connections})`, async (t) => {
    const { ana, ben, close } = await meeting(`resume-${single}`, single);
    const before = await sid(ana);
    const framesBefore = await ana.evaluate(() => window.harness.frames.ben.length);
    const started = await ana.evaluate(() => Date.now());
    proxy.cut();
    await heard(ana, 'reconnected');
    assert.equal(await sid(ana), before, 'the participant is the same');
    assert.equal(await ben.evaluate(() => window.harness.has('participantDisconnected')), false, 'nobody saw her leave');
    const during = await ana.evaluate(([from]) => {
      const { at } = window.harness.log.find((entry) => entry.event === 'reconnected');
      return { took: at, frames: window.harness.frames.ben.slice(from).filter((frame) => frame.at < at).length };
    }, [framesBefore]);
    assert.ok(during.frames > 0, 'video flowed while the signal connection was gone');
    t.diagnostic(`${connections}: resumed in ${during.took - started} ms, ${during.frames} frames seen meanwhile`);
    await bothWays(ana, ben);

    // After a resume everything still works: a mute is signalled, data is delivered.
    await ana.evaluate(() => window.harness.room.localParticipant.setMicrophoneEnabled(false));
    await heard(ben, 'trackMuted', { identity: 'ana', kind: 'audio' });
    await ben.evaluate(() => window.harness.room.localParticipant.publishData(new TextEncoder().encode('back?'), { reliable: true, topic: 'test' }));
    await heard(ana, 'data', { identity: 'ben', text: 'back?' });
    await close();
  });

  test(`what happened while the signal connection was gone is caught up (${connections})`, async () => {
    const { ana, ben, close } = await meeting(`caught-up-${single}`, single);
    proxy.hold();
    await ana.waitForFunction(() => window.harness.has('signalReconnecting') || window.harness.has('reconnecting'));
    await ben.evaluate(async () => {
      await window.harness.room.localParticipant.setMicrophoneEnabled(false);
      await window.harness.room.localParticipant.setMetadata('met meanwhile');
    });
    proxy.restore();
    await heard(ana, 'reconnected');
    await ana.waitForFunction(() => window.harness.room.getParticipantByIdentity('ben').metadata === 'met meanwhile');
    await ana.waitForFunction(() => !window.harness.room.getParticipantByIdentity('ben').isMicrophoneEnabled);
    await seesFrames(ana, 'ben', 15);
    await close();
  });

  test(`data sent while the signal connection was gone arrives once and in order (${connections})`, async () => {
    const [ana, ben] = [await browser.openHarness(), await browser.openHarness()];
    await joinRoom(ana, server, `data-${single}`, 'ana', { single, url: proxy.ws });
    await joinRoom(ben, server, `data-${single}`, 'ben', { single });
    const say = (page, texts) => page.evaluate((all) => {
      for (const text of all) window.harness.room.localParticipant.publishData(new TextEncoder().encode(text), { reliable: true });
    }, texts);
    const heardBy = (page, texts) => page.waitForFunction((all) => {
      const got = window.harness.log.filter((entry) => entry.event === 'data').map((entry) => entry.text);
      return got.includes(all.at(-1)) && got;
    }, texts).then((handle) => handle.jsonValue());
    const numbers = (name, from, to) => Array.from({ length: to - from }, (_, i) => `${name} ${from + i}`);
    await say(ana, numbers('ana', 0, 3));
    await say(ben, numbers('ben', 0, 3));
    await heardBy(ana, numbers('ben', 0, 3));
    await heardBy(ben, numbers('ana', 0, 3));
    proxy.hold();
    await ana.waitForFunction(() => window.harness.has('signalReconnecting') || window.harness.has('reconnecting'));
    await say(ana, numbers('ana', 3, 40));
    await say(ben, numbers('ben', 3, 40));
    proxy.restore();
    await heard(ana, 'reconnected');
    await say(ana, numbers('ana', 40, 43));
    await say(ben, numbers('ben', 40, 43));
    assert.deepEqual(await heardBy(ben, numbers('ana', 0, 43)), numbers('ana', 0, 43));
    assert.deepEqual(await heardBy(ana, numbers('ben', 0, 43)), numbers('ben', 0, 43));
    await Promise.all([ana, ben].map((page) => page.context().close()));
  });

  test(`a full reconnect sets everything up anew (${connections})`, async () => {
    const { ana, ben, close } = await meeting(`full-${single}`, single);
    const before = await sid(ana);
    await ana.evaluate(() => window.harness.room.simulateScenario('full-reconnect'));
    await heard(ana, 'reconnected');
    assert.notEqual(await sid(ana), before, 'she is a new participant');
    await bothWays(ana, ben);
    await close();
  });
}
