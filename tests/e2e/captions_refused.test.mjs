// What people are told of captions is true: who cannot be heard is told so and why, and is heard as soon as that is possible,
// in the order of asking.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { joinRoom, startBrowser, token } from './fixture/browser.mjs';
import { auralinkOnly, startServer } from './fixture/server.mjs';

const only = { skip: auralinkOnly };
let server;
let browser;
before(async () => {
  if (auralinkOnly) return;
  server = await startServer({ config: { captions: { default: true }, ai: { max_streams: 1 } } });
  browser = await startBrowser();
});
after(async () => {
  await browser?.close();
  await server?.stop();
});

const told = (page, identity) => page.evaluate((who) => {
  const { attributes } = window.harness.room.getParticipantByIdentity(who);
  return [attributes['auralink.captions'], attributes['auralink.captions.reason'] ?? ''];
}, identity);
const becomes = (page, identity, state) =>
  page.waitForFunction(([who, wanted]) => window.harness.room.getParticipantByIdentity(who)?.attributes['auralink.captions'] === wanted, [identity, state]);

test('over ai.max_streams one is told why, waits in line, and is heard when a stream ends', only, async () => {
  const pages = [];
  for (const identity of ['ana', 'ben']) {
    const page = await browser.openHarness();
    await joinRoom(page, server, 'full', identity);
    await page.evaluate(() => window.harness.publishMicrophone());
    await becomes(page, identity, identity === 'ana' ? 'on' : 'refused');
    pages.push(page);
  }
  const [ana, ben] = pages;
  assert.match((await told(ana, 'ben'))[1], /as many microphones are captioned as this server can/);

  // The third one is on the page: it reads what the others are told, and what it is told itself.
  const search = new URLSearchParams({ token: await token(server, 'full', 'cleo', { name: 'Cleo' }), autojoin: '1', video: '0' });
  const cleo = await browser.openPage(`${server.http}/#${search}`);
  const notice = cleo.locator('[data-testid="captions-notice"]');
  await cleo.locator('[data-testid="captions-notice"][data-state="refused"]').waitFor();
  assert.match(await notice.textContent(), /you are not captioned.*as many microphones/i);
  await cleo.locator('[data-testid="tile"][data-identity="ben"] [data-testid="not-captioned"]').waitFor();
  assert.equal(await cleo.locator('[data-testid="tile"][data-identity="ana"] [data-testid="not-captioned"]').count(), 0);

  await ana.evaluate(() => window.harness.room.localParticipant.setMicrophoneEnabled(false).then(() => window.harness.room.disconnect()));
  await becomes(ben, 'ben', 'on');
  assert.deepEqual(await told(ben, 'ben'), ['on', '']);
  assert.equal((await told(ben, 'cleo'))[0], 'refused', 'she asked later, and one stream was freed');
  await ben.evaluate(() => window.harness.room.disconnect());
  await cleo.locator('[data-testid="captions-notice"][data-state="on"]').waitFor();
  assert.match(await notice.textContent(), /the server turns what you say into text/);
  assert.deepEqual(cleo.problems, []);
  await Promise.all([...pages, cleo].map((page) => page.context().close()));
});
