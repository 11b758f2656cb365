// What strangers send to the media port is dropped and counted: noise, STUN for nobody and with a wrong MAC, DTLS and SRTP
// from an address that ICE has not validated. No answer goes to them, and the meeting goes on.

import assert from 'node:assert/strict';
import { createHmac, randomBytes } from 'node:crypto';
import { createSocket } from 'node:dgram';
import { after, before, test } from 'node:test';
import { joinRoom, seesFrames, startBrowser } from './fixture/browser.mjs';
import { auralinkOnly, get, startServer } from './fixture/server.mjs';

const only = { skip: auralinkOnly };
let server;
let browser;
let ana;
let ben;

before(async () => {
  if (auralinkOnly) return;
  server = await startServer();
  browser = await startBrowser();
  [ana, ben] = [await browser.openHarness(), await browser.openHarness()];
  await joinRoom(ana, server, 'hostile', 'ana');
  await joinRoom(ben, server, 'hostile', 'ben');
  await ana.evaluate(() => window.harness.publishCamera());
  await seesFrames(ben, 'ana', 15);
});
after(async () => {
  await browser?.close();
  await server?.stop();
});

/** A STUN binding request (RFC 8489) with a USERNAME and a MESSAGE-INTEGRITY by `password`. */
function stunRequest(username, password) {
  const attribute = (type, value) => {
    const head = Buffer.alloc(4);
    head.writeUInt16BE(type, 0);
    head.writeUInt16BE(value.length, 2);
    return Buffer.concat([head, value, Buffer.alloc((4 - (value.length % 4)) % 4)]);
  };
  const head = Buffer.concat([Buffer.from([0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42]), randomBytes(12)]);
  const body = Buffer.concat([attribute(0x0006, Buffer.from(username)), attribute(0x0024, Buffer.from([0x6e, 0, 0, 0])), attribute(0x802a, randomBytes(8))]);
  head.writeUInt16BE(body.length + 24, 2); // the length that the MAC is made over counts its attribute
  const mac = createHmac('sha1', password).update(Buffer.concat([head, body])).digest();
  return Buffer.concat([head, body, attribute(0x0008, mac)]);
}

const dtlsClientHello = () => Buffer.concat([Buffer.from([22, 254, 255, 0, 0, 0, 0, 0, 0, 0, 0, 0, 100, 1, 0, 0, 88, 0, 0, 0, 0, 0, 0, 0, 88]), randomBytes(88)]);
const srtp = () => Buffer.concat([Buffer.from([0x80, 111, 0, 1, 0, 0, 0, 1, 1, 2, 3, 4]), randomBytes(100)]);

/** The server's own ICE ufrag, as Ana's browser was told. */
const serverUfrag = () => ana.evaluate(() => {
  const manager = window.harness.room.engine.pcManager;
  const sdp = manager.publisher.getRemoteDescription?.()?.sdp ?? manager.publisher._pc?.remoteDescription?.sdp ?? manager.publisher.pc?.remoteDescription?.sdp;
  return sdp.match(/a=ice-ufrag:(\S+)/)[1];
});

async function dropped() {
  const { text } = await get(`${server.http}/metrics`);
  const rows = text.split('\n').filter((line) => line.startsWith('auralink_dropped_total')).map((line) => [line.match(/why="([^"]+)"/)?.[1], Number(line.split(' ').at(-1))]);
  return (why) => rows.filter(([name]) => name === why).reduce((sum, [, value]) => sum + value, 0);
}

const COUNT = 200;
const attacks = {
  noise: [() => randomBytes(50 + Math.floor(Math.random() * 1300)), ['unknown_address', 'bad_stun']],
  'an empty datagram': [() => Buffer.alloc(0), null],
  'a datagram of 60 kB': [() => randomBytes(60_000), null],
  'STUN for nobody': [() => stunRequest('nobody:x', 'whatever'), ['bad_stun', 'unknown_address']],
  'STUN with a wrong MAC': [async () => stunRequest(`${await serverUfrag()}:x`, 'a wrong password'), ['bad_stun']],
  'DTLS from an address that ICE has not validated': [dtlsClientHello, ['unknown_address']],
  'SRTP from an address that ICE has not validated': [srtp, ['unknown_address']],
};

for (const [what, [make, counters]] of Object.entries(attacks)) {
  test(`${what} is dropped${counters ? ' and counted' : ''}, unanswered, and harms nobody`, only, async () => {
    const before = await dropped();
    const socket = createSocket('udp4');
    let answers = 0;
    socket.on('message', () => { answers++; });
    for (let n = 0; n < COUNT; n++) {
      const datagram = await make();
      await new Promise((resolve) => { socket.send(datagram, server.ports.udp, '127.0.0.1', resolve); });
    }
    await seesFrames(ben, 'ana', 15);
    if (counters) {
      const after = await dropped();
      const counted = counters.reduce((sum, why) => sum + after(why) - before(why), 0);
      assert.ok(counted >= COUNT / 2, `${counted} of ${COUNT} were counted`);
    }
    assert.equal(answers, 0);
    socket.close();
  });
}
