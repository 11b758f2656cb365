import { expect, it } from 'vitest';
import { asClause, captionsState } from './captions';

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
