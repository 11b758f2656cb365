// The page, as two people use it: the printed link, the form, a meeting with picture and sound, chat, leaving; and what
// is said when something is wrong.

import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { startBrowser } from './fixture/browser.mjs';
import { auralinkOnly, root, startServer } from './fixture/server.mjs';

const only = { skip: auralinkOnly };
let server;
let browser;
let link;
let watchNumbers;

before(async () => {
  if (auralinkOnly) return;
  server = await startServer();
  browser = await startBrowser();
  link = await server.link();
  const source = await readFile(join(root, 'tests', 'e2e', 'fixture', 'harness', 'frame-number.js'), 'utf8');
  watchNumbers = `(() => { ${source.replace('export function', 'window.watchNumbers = function')} })()`;
});
after(async () => {
  await browser?.close();
  await server?.stop();
});

/** Fills the form in and joins. */
async function enter(name) {
  const page = await browser.openPage(link);
  await page.getByTestId('join-name').fill(name);
  await page.getByTestId('join-submit').click();
  await page.getByTestId('people').waitFor();
  return page;
}

const otherTile = (name) => `[data-testid="tile-video"][data-identity^="${name}"]`;

test('two people meet by the printed link', only, async (t) => {
  const ana = await enter('Ana');
  const ben = await enter('Ben');

  await t.test('each sees the other, frame after frame', async () => {
    for (const [page, other] of [[ana, 'ben'], [ben, 'ana']]) {
      await page.waitForSelector(otherTile(other));
      await page.evaluate(watchNumbers);
      await page.evaluate((selector) => {
        window.numbers = [];
        window.watchNumbers(document.querySelector(selector), ({ number }) => number !== null && window.numbers.push(number));
      }, otherTile(other));
      await page.waitForFunction(() => new Set(window.numbers).size >= 20);
    }
  });

  await t.test('each hears the other', async () => {
    for (const page of [ana, ben]) {
      await page.waitForFunction(() => [...document.querySelectorAll('audio')].some((audio) => audio.srcObject?.getAudioTracks().some((track) => track.readyState === 'live' && !track.muted)));
    }
  });

  await t.test('chat reaches the other', async () => {
    await ana.keyboard.press('h');
    await ana.getByTestId('chat-input').fill('Hello Ben');
    await ana.getByTestId('chat-send').click();
    await ben.keyboard.press('h');
    await ben.getByTestId('chat-text').filter({ hasText: 'Hello Ben' }).waitFor();
  });

  await t.test('leaving is seen, and the way back is there', async () => {
    await ben.getByTestId('leave').click();
    await ben.getByTestId('left-screen').waitFor();
    await ana.waitForFunction(() => document.querySelector('[data-testid="people"]').textContent.trim() === '1');
    await ben.getByTestId('rejoin').click();
    await ben.getByTestId('people').waitFor();
    await ana.waitForFunction(() => document.querySelector('[data-testid="people"]').textContent.trim() === '2');
  });

  for (const page of [ana, ben]) {
    assert.deepEqual(page.problems, []);
    await page.context().close();
  }
});

test('a link that is not valid is answered with what to do', only, async () => {
  const page = await browser.openPage(link.replace(/invite=[^&]+/, 'invite=not-this-one') + '&name=Eve&autojoin=1');
  await page.getByTestId('error').waitFor();
  assert.match(await page.getByTestId('error').first().textContent(), /invitation|link/i);
  await page.context().close();
});

test('the page loads nothing from elsewhere', only, async () => {
  const page = await browser.openPage('about:blank');
  const elsewhere = [];
  page.on('request', (request) => {
    if (!/^(data|blob):/.test(request.url()) && new URL(request.url()).host !== new URL(server.http).host) elsewhere.push(request.url());
  });
  await page.goto(link);
  await page.getByTestId('join-submit').waitFor();
  assert.deepEqual(elsewhere, []);
  await page.context().close();
});
