// What the page offers in a call, and what it says when something is missing: mute, captions for all and for oneself, the
// transcript to take along, screen sharing, the keyboard alone, a narrow phone, no permission, no server.

import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { chromium } from 'playwright-core';
import { startBrowser, token } from './fixture/browser.mjs';
import { speechFile } from './fixture/microphone.mjs';
import { auralinkOnly, startServer } from './fixture/server.mjs';
import { startSignalProxy } from './fixture/signal_proxy.mjs';

const only = { skip: auralinkOnly };
let server;
let browser;
let folder;

before(async () => {
  if (auralinkOnly) return;
  folder = await mkdtemp(join(tmpdir(), 'auralink-page-'));
  const speech = await speechFile(folder, ['good morning everyone thanks for joining', 'the team finished the project on time'], { leadS: 2 });
  server = await startServer({ config: { captions: { default: true } } });
  browser = await startBrowser({ speech: speech.path });
});
after(async () => {
  await browser?.close();
  await server?.stop();
  if (folder) await rm(folder, { recursive: true, force: true });
});

/** A page in a call, by a token of its own. */
async function enter(room, identity, { name = identity[0].toUpperCase() + identity.slice(1), grant, context, ...rest } = {}) {
  const search = new URLSearchParams({ token: await token(server, room, identity, { name, grant }), autojoin: '1', video: '0', ...rest });
  const page = await browser.openPage(`${server.http}/#${search}`, context);
  await page.getByTestId('people').waitFor();
  return page;
}

const tile = (page, identity, source = 'camera') => page.locator(`[data-testid="tile"][data-identity="${identity}"][data-source="${source}"]`);
const notice = (page, state) => page.locator(`[data-testid="captions-notice"][data-state="${state}"]`);
const note = (page, text) => page.getByTestId('transcript-note').filter({ hasText: text });

async function closed(...pages) {
  for (const page of pages) {
    assert.deepEqual(page.problems, []);
    await page.context().close();
  }
}

test('two in a call', only, async (t) => {
  const ben = await enter('call', 'ben', { audio: '0', context: { permissions: ['camera', 'microphone', 'clipboard-read', 'clipboard-write'] } });
  await ben.keyboard.press('t');
  const ana = await enter('call', 'ana');

  await t.test('readers are told that the model is a demonstrator', () =>
    ben.getByTestId('demonstrator').filter({ hasText: 'trained on synthetic speech' }).waitFor());

  await t.test('the transcript is copied and downloaded as text, SubRip and WebVTT', async () => {
    await ben.waitForFunction(() => document.querySelectorAll('[data-testid="transcript-line"][data-final="true"]').length >= 2);
    const lines = await ben.getByTestId('transcript-text').allTextContents();
    await ben.getByTestId('transcript-copy').click();
    await ben.getByText('Copied.').waitFor();
    const copied = await ben.evaluate(() => navigator.clipboard.readText());
    assert.deepEqual(copied.trim().split('\n').map((line) => line.replace(/^\[\d\d:\d\d:\d\d\] /, '')), lines.map((line) => `Ana: ${line}`));
    for (const [extension, pattern] of [['txt', /^\[\d\d:\d\d:\d\d\] Ana: /], ['srt', /^1\n\d\d:\d\d:\d\d,\d{3} --> [\d:,]+\nAna: /], ['vtt', /^WEBVTT\n\n[\d:.]+ --> [\d:.]+\n<v Ana>/]]) {
      const [download] = await Promise.all([ben.waitForEvent('download'), ben.getByTestId(`transcript-download-${extension}`).click()]);
      assert.match(download.suggestedFilename(), new RegExp(`^transcript-call-.*\\.${extension}$`));
      const text = await readFile(await download.path(), 'utf8');
      assert.match(text, pattern);
      for (const line of lines) assert.ok(text.includes(line), `${extension}: ${line}`);
    }
  });

  await t.test('mute is seen by the other', async () => {
    await ana.getByTestId('mic-toggle').click();
    await tile(ben, 'ana').and(ben.locator('[aria-label*="microphone off"]')).waitFor();
    assert.equal(await ana.getByTestId('mic-toggle').getAttribute('aria-pressed'), 'false');
    await ana.getByTestId('mic-toggle').click();
    await tile(ben, 'ana').and(ben.locator('[aria-label*="microphone on"]')).waitFor();
  });

  await t.test('who leaves herself out is seen to be left out, and comes back', async () => {
    await ana.getByTestId('captions-opt-out').click();
    await notice(ana, 'opted-out').waitFor();
    await tile(ben, 'ana').getByTestId('not-captioned').waitFor();
    await ana.getByTestId('captions-opt-out').click();
    await notice(ana, 'on').waitFor();
    await tile(ben, 'ana').getByTestId('not-captioned').waitFor({ state: 'detached' });
  });

  await t.test('captions are turned off and on for everyone, and everyone reads by whom', async () => {
    await ana.getByTestId('captions-toggle').click();
    await note(ben, 'Ana turned captions off for everyone.').waitFor();
    await notice(ben, 'on').waitFor({ state: 'detached' });
    assert.equal(await ben.getByTestId('captions-toggle').getAttribute('aria-pressed'), 'false');
    await ben.keyboard.press('c');
    await notice(ana, 'on').waitFor();
    await ana.keyboard.press('t');
    await note(ana, 'Ben turned captions on for everyone.').waitFor();
  });

  await t.test('who may only watch does not decide for the others', async () => {
    const watcher = await token(server, 'call', 'watcher', { grant: { canPublish: false } });
    const response = await fetch(`${server.http}/api/v1/rooms/call/captions`, {
      method: 'PUT', body: '{"enabled":false}', headers: { 'content-type': 'application/json', authorization: `Bearer ${watcher}` },
    });
    assert.equal(response.status, 403);
    assert.match((await response.json()).error.message, /canPublish/);
  });

  await t.test('a shared screen is seen and ends', async () => {
    await ana.getByTestId('share-toggle').click();
    await ben.waitForFunction(() => {
      const video = document.querySelector('[data-testid="tile"][data-identity="ana"][data-source="screen_share"] video');
      return video && video.videoWidth > 0 && video.currentTime > 0;
    });
    await ana.getByTestId('share-toggle').click();
    await tile(ben, 'ana', 'screen_share').waitFor({ state: 'detached' });
  });

  await closed(ana, ben);
});

test('who may only watch is told so when she presses C', only, async () => {
  const page = await enter('watching', 'eve', { grant: { canPublish: false }, audio: '0' });
  await notice(page, 'on').waitFor();
  await page.keyboard.press('c');
  await page.getByTestId('error').filter({ hasText: 'those who may speak' }).waitFor();
  assert.equal(await notice(page, 'on').count(), 1);
  await closed(page);
});

test('the keyboard alone is enough', only, async (t) => {
  const page = await browser.openPage(await server.link());
  await page.getByTestId('join-name').and(page.locator(':focus')).waitFor();
  await page.keyboard.type('Kim');
  await page.keyboard.press('Enter');
  await page.getByTestId('people').waitFor();
  const pressed = (testid) => page.getByTestId(testid).getAttribute('aria-pressed');

  await t.test('every control is reached by Tab', async () => {
    const reached = new Set();
    for (let step = 0; step < 30; step++) {
      await page.keyboard.press('Tab');
      reached.add(await page.evaluate(() => document.activeElement?.dataset.testid));
    }
    for (const control of ['copy-link', 'captions-opt-out', 'mic-toggle', 'cam-toggle', 'share-toggle', 'captions-toggle', 'transcript-toggle', 'chat-toggle', 'settings-toggle', 'leave']) {
      assert.ok(reached.has(control), `${control} is not reached: ${[...reached].join(', ')}`);
    }
  });

  await t.test('letters act, Escape closes', async () => {
    await page.locator('[data-testid="mic-toggle"][aria-pressed="true"]').waitFor();
    await page.keyboard.press('m');
    await page.locator('[data-testid="mic-toggle"][aria-pressed="false"]').waitFor();
    await page.keyboard.press('h');
    await page.getByTestId('chat-panel').waitFor();
    await page.keyboard.press('Escape');
    await page.getByTestId('chat-panel').waitFor({ state: 'detached' });
  });

  await t.test('letters can be turned off', async () => {
    await page.keyboard.press('d');
    await page.getByTestId('letter-keys').focus();
    await page.keyboard.press('Space');
    await page.keyboard.press('Escape');
    await page.getByTestId('settings').waitFor({ state: 'detached' });
    await page.keyboard.press('h');
    await page.keyboard.press('m');
    assert.equal(await page.getByTestId('chat-panel').count(), 0);
    assert.equal(await pressed('mic-toggle'), 'false');
    assert.equal(await page.getByTestId('mic-toggle').getAttribute('aria-keyshortcuts'), null);
  });

  await t.test('and the way out is there', async () => {
    await page.getByTestId('leave').focus();
    await page.keyboard.press('Enter');
    await page.getByTestId('rejoin').and(page.locator(':focus')).waitFor();
  });
  await closed(page);
});

test('at 320 pixels nothing scrolls sideways', only, async () => {
  const viewport = { width: 320, height: 640 };
  const fits = async (page, where) => {
    const width = await page.evaluate(() => Math.max(document.documentElement.scrollWidth, document.body.scrollWidth));
    assert.ok(width <= viewport.width, `${where}: ${width} pixels wide`);
  };
  const other = await enter('narrow', 'a-person-with-a-long-identity', { name: 'Maximiliana Featherstonehaugh-Cholmondeley', audio: '0' });
  const page = await browser.openPage(await server.link(), { viewport });
  await page.getByTestId('join-submit').waitFor();
  await fits(page, 'join form');
  await page.getByTestId('join-name').fill('Kim');
  await page.getByTestId('join-room').fill('narrow');
  await page.getByTestId('join-submit').click();
  await tile(page, 'a-person-with-a-long-identity').waitFor();
  await fits(page, 'call');
  for (const [control, shown] of [['transcript-toggle', 'transcript-panel'], ['chat-toggle', 'chat-panel'], ['settings-toggle', 'settings']]) {
    await page.getByTestId(control).click();
    await page.getByTestId(shown).waitFor();
    await fits(page, shown);
  }
  await page.keyboard.press('Escape');
  await page.getByTestId('leave').click();
  await page.getByTestId('left-screen').waitFor();
  await fits(page, 'left screen');
  await closed(page, other);
});

test('without permission one is told what to do, and joins to listen', only, async () => {
  // The shared browser says yes to every question: this one says no.
  const refusing = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    args: ['--no-sandbox', '--disable-gpu', '--use-fake-device-for-media-stream', '--deny-permission-prompts'],
  });
  const page = await refusing.newPage();
  await page.goto(await server.link());
  const problem = page.getByTestId('error').filter({ hasText: /camera and microphone/i });
  await problem.waitFor();
  assert.match(await problem.textContent(), /allow/i);
  await page.getByTestId('join-name').fill('Kim');
  await page.getByTestId('join-submit').click();
  await page.getByTestId('people').waitFor();
  assert.equal(await page.getByTestId('mic-toggle').getAttribute('aria-pressed'), 'false');
  await page.getByTestId('mic-toggle').click();
  await page.getByTestId('error').filter({ hasText: /microphone/i }).waitFor();
  await refusing.close();
});

test('when the server is gone for long, that is said, nothing old is shown, and one may leave', only, async () => {
  const proxy = await startSignalProxy(server);
  const page = await enter('gone', 'kim', { audio: '0', url: proxy.ws });
  await tile(page, 'kim').getByTestId('quality').waitFor();
  proxy.hold();
  await page.locator('[data-testid="banner"][data-state="reconnecting"]').waitFor();
  await page.locator('[data-testid="banner"][data-state="gone"]').waitFor();
  assert.match(await page.getByTestId('banner').textContent(), /not answered for more than 10 seconds/);
  assert.equal(await tile(page, 'kim').getByTestId('quality').getAttribute('aria-label'), 'Connection: not known');
  await page.getByTestId('banner-leave').click();
  await page.getByTestId('left-screen').waitFor();
  proxy.close();
  await page.context().close();
});

test('eight people have eight colours', only, async () => {
  const page = await enter('colours', 'kim', { audio: '0' });
  const others = await browser.openPage('about:blank');
  const tokens = await Promise.all(Array.from({ length: 7 }, (_, i) => token(server, 'colours', `person-${i}`)));
  await others.goto(`${server.http}/health`);
  await others.addScriptTag({ path: new URL('../node_modules/livekit-client/dist/livekit-client.umd.js', import.meta.url).pathname });
  await others.evaluate(async ([url, all]) => {
    window.rooms = all.map(() => new window.LivekitClient.Room());
    for (const [i, access] of all.entries()) await window.rooms[i].connect(url, access);
  }, [server.ws, tokens]);
  await page.waitForFunction(() => document.querySelectorAll('[data-testid="tile"]').length === 8);
  const hues = await page.getByTestId('tile').evaluateAll((tiles) => tiles.map((one) => one.className.match(/hue-\d/)[0]));
  assert.equal(new Set(hues).size, 8, hues.join(' '));
  await closed(page);
  await others.context().close();
});
