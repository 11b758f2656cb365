import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { sayAgain, sayLeftOut, wantsToBeLeftOut } from './leftOut';

const sent: { path: string; body: unknown }[] = [];
let status = 204;

beforeEach(() => {
  const items = new Map<string, string>();
  vi.stubGlobal('sessionStorage', {
    getItem: (key: string) => items.get(key) ?? null,
    setItem: (key: string, value: string) => items.set(key, value),
    removeItem: (key: string) => items.delete(key),
  });
  vi.stubGlobal('fetch', async (path: string, { body }: { body: string }) => {
    sent.push({ path, body: JSON.parse(body) });
    return new Response(status === 204 ? null : '{}', { status });
  });
});
afterEach(() => {
  vi.unstubAllGlobals();
  sent.length = 0;
  status = 204;
});

const told = (opted_out: boolean) => ({ path: '/api/v1/rooms/a%20room/captions/me', body: { opted_out } });

it('says the wish again after it was said, and not after it was taken back', async () => {
  await sayAgain('a room', 'token');
  expect(sent).toEqual([]);
  await sayLeftOut('a room', 'token', true);
  await sayAgain('a room', 'token');
  await sayLeftOut('a room', 'token', false);
  await sayAgain('a room', 'token');
  expect(sent).toEqual([told(true), told(true), told(false)]);
});

it('keeps what the server believes when it could not be told', async () => {
  status = 500;
  await expect(sayLeftOut('a room', 'token', true)).rejects.toThrow();
  expect(wantsToBeLeftOut()).toBe(false);
  status = 204;
  await sayLeftOut('a room', 'token', true);
  status = 500;
  await expect(sayLeftOut('a room', 'token', false)).rejects.toThrow();
  expect(wantsToBeLeftOut()).toBe(true);
});

it('works without storage', async () => {
  vi.stubGlobal('sessionStorage', { getItem: () => { throw new Error('forbidden'); }, setItem: () => { throw new Error('forbidden'); }, removeItem: () => { throw new Error('forbidden'); } });
  await sayLeftOut('a room', 'token', true);
  expect(wantsToBeLeftOut()).toBe(false);
  expect(sent).toEqual([told(true)]);
});
