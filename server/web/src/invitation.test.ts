import { describe, expect, it } from 'vitest';
import { parseFragment, readPasted, readToken, shareLink } from './invitation';

const jwt = (claims: object) => `e30.${Buffer.from(JSON.stringify(claims)).toString('base64url')}.sig`;

describe('parseFragment', () => {
  it('reads the link that the server prints', () => {
    expect(parseFragment('#invite=s3cr-et_')).toEqual({
      invite: 's3cr-et_', token: null, url: null, room: 'lobby', name: '', autojoin: false, video: true, audio: true,
    });
  });

  it('reads room, name and the switches for kiosks', () => {
    expect(parseFragment('#invite=x&room=Town%20hall&name=Ana&autojoin=1&video=0&audio=0')).toMatchObject({
      room: 'Town hall', name: 'Ana', autojoin: true, video: false, audio: false,
    });
  });

  it('takes room and name from a token', () => {
    const token = jwt({ sub: 'id-1', name: 'Zoë', video: { room: 'böhm' } });
    expect(parseFragment(`#token=${token}&url=ws://127.0.0.1:27000`)).toMatchObject({
      token, url: 'ws://127.0.0.1:27000', room: 'böhm', name: 'Zoë', invite: null,
    });
  });

  it('refuses addresses that are not WebSocket or HTTP', () => {
    expect(parseFragment('#token=a.b.c&url=javascript:alert(1)').url).toBeNull();
  });

  it('cuts over-long names and survives an empty fragment', () => {
    expect(parseFragment(`#invite=x&name=${'n'.repeat(999)}`).name).toHaveLength(256);
    expect(parseFragment('')).toMatchObject({ invite: null, token: null, room: 'lobby' });
  });
});

describe('readPasted', () => {
  it('takes a link, a secret, and nothing else', () => {
    expect(readPasted(' http://127.0.0.1:7880/#invite=abcd&room=r ')).toMatchObject({ invite: 'abcd', room: 'r' });
    expect(readPasted('abcd-1234')).toEqual({ invite: 'abcd-1234' });
    expect(readPasted('http://127.0.0.1:7880/')).toBeNull();
    expect(readPasted('two words')).toBeNull();
  });
});

it('shares secret and room in the fragment only', () => {
  const link = new URL(shareLink('https://host:7880', 'a+b', 'my room'));
  expect(link.search).toBe('');
  expect(parseFragment(link.hash)).toMatchObject({ invite: 'a+b', room: 'my room' });
});

it('reads no claims from what is not a token', () => {
  expect(readToken('nonsense')).toBeNull();
  expect(readToken('a.%%%.c')).toBeNull();
});
