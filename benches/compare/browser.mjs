// Join to first media in a browser, on LiveKit and on AuraLink in turn (fresh servers, A B A B): how long after
// `room.connect` a page that joins a running meeting is connected, shows the first picture, and hears the first sound.
//
//   node benches/compare/browser.mjs [PAIRS] [JOINS]     default: 2 pairs of servers, 5 joins each
//   A=livekit B=livekit node benches/compare/browser.mjs shows how far from 1 a ratio is by chance

import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { joinRoom, seesFrames, startBrowser } from '../../tests/e2e/fixture/browser.mjs';
import { percentile } from '../../tests/e2e/fixture/captions.mjs';
import { startServer } from '../../tests/e2e/fixture/server.mjs';

const self = fileURLToPath(import.meta.url);

if (process.argv[2] === '--one') {
  console.log(JSON.stringify(await measure(Number(process.argv[3]))));
  process.exit(0);
}

const [pairs, joins] = [Number(process.argv[2] ?? 2), Number(process.argv[3] ?? 5)];
const names = [process.env.A ?? 'livekit', process.env.B ?? 'auralink'];
const runs = [[], []];
for (let pair = 0; pair < pairs; pair++) {
  for (const [i, name] of names.entries()) {
    const { stdout } = await promisify(execFile)(process.execPath, [self, '--one', String(joins)], { env: { ...process.env, E2E_TARGET: name } });
    runs[i].push(...JSON.parse(stdout));
  }
}
console.log(`\n### Joining a running meeting in Chromium: ${runs[0].length} joins each, over one and over two peer connections\n`);
console.log(`| ms after \`connect\`, p50 (p95) | ${names[0]} (A) | ${names[1]} (B) | B / A of the medians |\n|---|---|---|---|`);
for (const single of [true, false]) {
  for (const what of ['connected', 'sound', 'picture']) {
    const [a, b] = runs.map((list) => list.filter((run) => run.single === single).map((run) => run[what]));
    const cell = (values) => `${percentile(values, 50).toFixed(0)} (${percentile(values, 95).toFixed(0)})`;
    console.log(`| ${what}, ${single ? 'one connection' : 'two connections'} | ${cell(a)} | ${cell(b)} | ${(percentile(b, 50) / percentile(a, 50)).toFixed(2)} |`);
  }
}

/** One server and one browser: Ana sends camera and microphone, Ben joins again and again. */
async function measure(joins) {
  const server = await startServer({ config: process.env.E2E_TARGET === 'auralink' ? { captions: { default: false } } : {} });
  const browser = await startBrowser();
  try {
    const ana = await browser.openHarness();
    await joinRoom(ana, server, 'bench', 'ana');
    await ana.evaluate(async () => {
      await window.harness.publishCamera();
      await window.harness.publishMicrophone();
    });
    await seesFrames(ana, 'ana', 30); // her camera and her encoder run
    const results = [];
    for (let n = 0; n < 2 * joins; n++) {
      const single = n % 2 === 0;
      const ben = await browser.openHarness();
      const sound = firstSound(ben);
      await joinRoom(ben, server, 'bench', `ben-${n}`, { single });
      await seesFrames(ben, 'ana', 1);
      const times = await ben.evaluate(() => ({
        start: window.harness.connectStarted,
        connected: window.harness.log.find((entry) => entry.event === 'connected').at,
        picture: window.harness.frames.ana.find((frame) => frame.number !== null).at,
      }));
      const at = { ...times, sound: await sound };
      results.push({ single, ...Object.fromEntries(['connected', 'sound', 'picture'].map((what) => [what, at[what] - at.start])) });
      await ben.context().close();
    }
    return results;
  } finally {
    await browser.close();
    await server.stop();
  }
}

/** When the page has received the first audio packet of Ana. */
function firstSound(page) {
  return page.evaluate(() => new Promise((resolve) => {
    const timer = setInterval(async () => {
      if (!window.harness.room || !(await window.harness.received('ana')).audioPackets) return;
      clearInterval(timer);
      resolve(Date.now());
    }, 5);
  }));
}
