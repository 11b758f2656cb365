import { expect, it } from 'vitest';
import { Hues, initials } from './hue';

const people = (count: number) => Array.from({ length: count }, (_, number) => `person-${number}`);

it('gives eight people eight hues, whatever their names are', () => {
  for (const prefix of ['a', 'bb', 'zoë-']) {
    const hues = new Hues();
    expect(new Set(people(8).map((person) => hues.of(prefix + person))).size).toBe(8);
  }
});

it('keeps a hue for the whole meeting, also after leaving', () => {
  const hues = new Hues();
  const before = people(8).map((person) => hues.of(person));
  hues.left('person-3');
  expect(people(8).map((person) => hues.of(person))).toEqual(before);
});

it('gives the hue of one who left to the ninth, and another to the one who comes back then', () => {
  const hues = new Hues();
  const before = people(8).map((person) => hues.of(person));
  hues.left('person-3');
  hues.left('person-5');
  expect([before[3], before[5]]).toContain(hues.of('ninth'));
  hues.joined('person-3');
  const here = ['ninth', ...people(8).filter((person) => person !== 'person-5')];
  expect(new Set(here.map((person) => hues.of(person))).size).toBe(8);
});

it('goes on when all hues are taken, and forgets those who are gone when they are too many', () => {
  const hues = new Hues();
  for (const person of people(2000)) {
    expect(hues.of(person)).toBeLessThan(8);
    hues.left(person);
  }
  expect(hues.of('person-1999')).toBe(hues.of('person-1999'));
});

it('takes initials of names in any script', () => {
  expect([initials('Ana Lima'), initials('zoë'), initials('  '), initials('李 小龙')]).toEqual(['AL', 'Z', '?', '李小']);
});
