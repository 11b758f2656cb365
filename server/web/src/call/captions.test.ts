import { expect, it } from 'vitest';
import { asClause, captionsState, readSwitch } from './captions';

it.each([
  ['off', ['off'], { on: false, optedOut: false, refused: false, known: true }],
  ['on', ['on', 'opted-out'], { on: true, optedOut: false, refused: false, known: true }],
  ['opted-out', ['on'], { on: true, optedOut: true, refused: false, known: true }],
  ['opted-out', ['off'], { on: false, optedOut: true, refused: false, known: true }],
  ['opted-out', [], { on: true, optedOut: true, refused: false, known: true }],
  [undefined, [], { on: false, optedOut: false, refused: false, known: false }],
  ['refused', ['off'], { on: true, optedOut: false, refused: true, known: true }],
  ['on', ['refused'], { on: true, optedOut: false, refused: false, known: true }],
  ['opted-out', ['refused'], { on: true, optedOut: true, refused: false, known: true }],
  [undefined, ['on'], { on: true, optedOut: false, refused: false, known: true }],
] as const)('own %s, others %s', (own, others, expected) => {
  expect(captionsState(own, others)).toEqual(expected);
});

it('makes a clause of a sentence, bounded', () => {
  expect(asClause('the machine is busy. ')).toBe('the machine is busy');
  expect(asClause(undefined)).toBe('');
  expect(asClause('x'.repeat(1000))).toHaveLength(240);
});

it('reads who turned captions on or off from the server alone', () => {
  const packet = (value: unknown) => new TextEncoder().encode(typeof value === 'string' ? value : JSON.stringify(value));
  const off = packet({ enabled: false, by: { identity: 'ana-1', name: 'Ana' } });
  expect(readSwitch(off, 'auralink.captions', false)).toBe('Ana turned captions off for everyone.');
  expect(readSwitch(packet({ enabled: true, by: { identity: 'backend', name: '' } }), 'auralink.captions', false)).toBe('backend turned captions on for everyone.');
  expect(readSwitch(packet({ enabled: true, by: null }), 'auralink.captions', false)).toBe('The server turned captions on for everyone.');
  expect(readSwitch(off, 'auralink.captions', true)).toBeNull();
  expect(readSwitch(off, 'chat', false)).toBeNull();
  for (const none of ['', '{', '[]', 'null', '{"enabled":1}', `{"enabled":true,"x":"${'x'.repeat(5000)}"}`]) {
    expect(readSwitch(packet(none), 'auralink.captions', false)).toBeNull();
  }
});
