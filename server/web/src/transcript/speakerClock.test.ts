import { expect, it } from 'vitest';
import { SpeakerClock } from './speakerClock';

it('places words by the update that came soonest', () => {
  const clock = new SpeakerClock();
  expect(clock.place(1_000, 1_500, 50_900)).toEqual({ startMs: 50_400, endMs: 50_900 });
  // 400 ms after its words: the best so far. A slow final does not move anything.
  expect(clock.place(1_000, 2_000, 51_300)).toEqual({ startMs: 50_300, endMs: 51_300 });
  expect(clock.place(1_000, 2_400, 53_000)).toEqual({ startMs: 50_300, endMs: 51_700 });
});

it('starts again when the speaker’s audio is counted from zero again', () => {
  const clock = new SpeakerClock();
  clock.place(60_000, 61_000, 161_400);
  expect(clock.place(200, 900, 200_900)).toEqual({ startMs: 200_200, endMs: 200_900 });
});
