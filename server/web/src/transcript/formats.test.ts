import { describe, expect, it } from 'vitest';
import { clockTime, fileName, toSrt, toText, toVtt } from './formats';

const ORIGIN = new Date(2026, 10, 21, 15, 2, 0).getTime();
const lines = [
  { name: 'Ana', text: 'Good morning.', startMs: ORIGIN + 1_250, endMs: ORIGIN + 3_500 },
  { name: 'Bo <b>', text: 'Tom & Jo --> here\n\nnow', startMs: ORIGIN + 3_723_004, endMs: ORIGIN + 3_723_104 },
];

it('writes plain text with the time of day', () => {
  expect(toText(lines.slice(0, 1))).toBe('[15:02:01] Ana: Good morning.\n');
});

it('writes SubRip', () => {
  expect(toSrt(lines, ORIGIN)).toBe(
    '1\n00:00:01,250 --> 00:00:03,500\nAna: Good morning.\n' +
    '\n2\n01:02:03,004 --> 01:02:04,004\nBo <b>: Tom & Jo → here now\n',
  );
});

it('writes WebVTT, with voices and what WebVTT asks to be escaped', () => {
  expect(toVtt(lines, ORIGIN)).toBe(
    'WEBVTT\n' +
    '\n00:00:01.250 --> 00:00:03.500\n<v Ana>Good morning.</v>\n' +
    '\n01:02:03.004 --> 01:02:04.004\n<v Bo &lt;b&gt;>Tom &amp; Jo → here now</v>\n',
  );
});

it('writes what happened into the text and not into subtitles', () => {
  const noted = [{ name: '', text: 'Ana turned captions off.', startMs: ORIGIN, endMs: ORIGIN, note: true as const }, ...lines.slice(0, 1)];
  expect(toText(noted)).toBe('[15:02:00] Ana turned captions off.\n[15:02:01] Ana: Good morning.\n');
  expect(toSrt(noted, ORIGIN)).toBe(toSrt(lines.slice(0, 1), ORIGIN));
  expect(toVtt(noted, ORIGIN)).toBe(toVtt(lines.slice(0, 1), ORIGIN));
});

describe('edges', () => {
  it('writes valid empty files', () => {
    expect(toText([])).toBe('');
    expect(toSrt([], ORIGIN)).toBe('');
    expect(toVtt([], ORIGIN)).toBe('WEBVTT\n');
  });

  it('never writes a negative time', () => {
    expect(toSrt([{ name: 'A', text: 'x', startMs: ORIGIN - 5000, endMs: ORIGIN - 4000 }], ORIGIN))
      .toContain('00:00:00,000 --> 00:00:01,000');
  });

  it('names files safely', () => {
    expect(fileName('Café / ../x', ORIGIN, 'srt')).toBe('transcript-Café-x-2026-11-21-1502.srt');
    expect(fileName('///', ORIGIN, 'vtt')).toBe('transcript-room-2026-11-21-1502.vtt');
  });

  it('pads the time of day', () => {
    expect(clockTime(new Date(2026, 0, 1, 7, 5, 9).getTime())).toBe('07:05:09');
  });
});
