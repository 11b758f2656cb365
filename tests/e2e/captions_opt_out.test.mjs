// Who said "leave me out" stays out: over a full reconnect, which is a leaving and a joining for the server, and on the page
// also over a rejoin, which brings a new identity.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { heard, joinRoom, startBrowser, token } from './fixture/browser.mjs';
import { auralinkOnly, startServer } from './fixture/server.mjs';

const only = { skip: auralinkOnly };
let server;
let browser;
before(async () => {
  if (auralinkOnly) return;
  server = await startServer({ config: { captions: { default: true } } });
  browser = await startBrowser();
});
after(async () => {
  await browser?.close();
  await server?.stop();
});

const captionsOf = (page, identity) => page.evaluate((who) => window.harness.room.getParticipantByIdentity(who)?.attributes['auralink.captions'], identity);
const waitForCaptions = (page, identity, state) =>
  page.waitForFunction(([who, wanted]) => window.harness.room.getParticipantByIdentity(who)?.attributes['auralink.captions'] === wanted, [identity, state]);

/** What `identity`'s state was, as this page was told, from its `from`th event on. */
const toldOf = (page, identity, from) => page.evaluate(([who, first]) =>
  window.harness.log.slice(first).filter((entry) => entry.event === 'attributes' && entry.identity === who).map((entry) => entry.changed['auralink.captions']), [identity, from]);

test('a full reconnect keeps who opted out unheard', only, async () => {
  const [ana, ben] = [await browser.openHarness(), await browser.openHarness()];
  await joinRoom(ben, server, 'again', 'ben');
  await joinRoom(ana, server, 'again', 'ana');
  await ana.evaluate(() => window.harness.publishMicrophone());
  await waitForCaptions(ben, 'ana', 'on');
  const response = await fetch(`${server.http}/api/v1/rooms/again/captions/me`, {
    method: 'PUT', body: JSON.stringify({ opted_out: true }),
    headers: { 'content-type': 'application/json', authorization: `Bearer ${await token(server, 'again', 'ana')}` },
  });
  assert.equal(response.status, 204);
  await waitForCaptions(ben, 'ana', 'opted-out');

  const before = await ben.evaluate(() => window.harness.log.length);
  await ana.evaluate(() => window.harness.room.simulateScenario('full-reconnect'));
  await heard(ana, 'reconnected');
  await ben.waitForFunction((from) => window.harness.log.slice(from).some((entry) => entry.event === 'trackSubscribed' && entry.identity === 'ana'), before);
  await waitForCaptions(ben, 'ana', 'opted-out');
  assert.ok((await toldOf(ben, 'ana', before)).every((state) => state !== 'on'), 'at no moment was she on');
  await Promise.all([ana, ben].map((page) => page.context().close()));
});

test('the page says the wish again when it rejoins under a new identity, before its microphone is heard', only, async () => {
  const link = await server.link();
  const ben = await browser.openHarness();
  await joinRoom(ben, server, 'lobby', 'ben');
  const ana = await browser.openPage(link);
  await ana.getByTestId('join-name').fill('Ana');
  await ana.getByTestId('join-submit').click();
  await ana.getByTestId('captions-opt-out').click();
  await ana.locator('[data-testid="captions-notice"][data-opted-out="true"]').waitFor();
  const identities = () => ben.evaluate(() => [...window.harness.room.remoteParticipants.keys()]);
  const [first] = await identities();
  assert.equal(await captionsOf(ben, first), 'opted-out');

  await ana.getByTestId('leave').click();
  // Notes the state at the moment when her microphone is there.
  await ben.evaluate(() => window.harness.room.on('trackPublished', (publication, participant) => {
    if (publication.kind === 'audio') window.stateWhenPublished = participant.attributes['auralink.captions'];
  }));
  await ana.getByTestId('rejoin').click();
  await ana.locator('[data-testid="captions-notice"][data-opted-out="true"]').waitFor();
  await ben.waitForFunction(() => window.stateWhenPublished !== undefined);
  assert.equal(await ben.evaluate(() => window.stateWhenPublished), 'opted-out');
  const again = (await identities()).find((identity) => identity !== first);
  assert.match(again, /^ana-/, 'she has a new identity');

  // Taking the wish back is remembered too.
  await ana.getByTestId('captions-opt-out').click();
  await ana.locator('[data-testid="captions-notice"][data-opted-out="false"]').waitFor();
  await ana.getByTestId('leave').click();
  await ana.getByTestId('rejoin').click();
  await ana.locator('[data-testid="captions-notice"][data-opted-out="false"]').waitFor();
  assert.deepEqual(ana.problems, []);
  await Promise.all([ana, ben].map((page) => page.context().close()));
});
