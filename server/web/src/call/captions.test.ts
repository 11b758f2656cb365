import { expect, it } from 'vitest';
import { captionsState } from './captions';

it.each([
  ['off', ['off'], { on: false, optedOut: false, known: true }],
  ['on', ['on', 'opted-out'], { on: true, optedOut: false, known: true }],
  ['opted-out', ['on'], { on: true, optedOut: true, known: true }],
  ['opted-out', ['off'], { on: false, optedOut: true, known: true }],
  ['opted-out', [], { on: true, optedOut: true, known: true }],
  [undefined, [], { on: false, optedOut: false, known: false }],
  [undefined, ['on'], { on: true, optedOut: false, known: true }],
] as const)('own %s, others %s', (own, others, expected) => {
  expect(captionsState(own, others)).toEqual(expected);
});
