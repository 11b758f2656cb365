import { describe, expect, it } from 'vitest';
import { applyUpdate, LINE_LIMIT, type SegmentUpdate, splitCommitted, TEXT_LIMIT, type TranscriptLine } from './transcript';

const update = (fields: Partial<SegmentUpdate>): SegmentUpdate => ({
  identity: 'ana-1', name: 'Ana', segment: 'SG_1', text: 'hello', committed: 0, final: false, atMs: 1000, ...fields,
});
const apply = (...updates: SegmentUpdate[]) => updates.reduce(applyUpdate, [] as readonly TranscriptLine[]);

describe('applyUpdate', () => {
  it('replaces interim text and keeps when the segment began', () => {
    const lines = apply(
      update({ text: 'good', atMs: 1000 }),
      update({ text: 'good morning', committed: 4, atMs: 1300 }),
      update({ text: 'Good morning.', final: true, atMs: 1900 }),
    );
    expect(lines).toEqual([
      { key: 'ana-1\u0000SG_1', identity: 'ana-1', name: 'Ana', text: 'Good morning.', committed: 13, final: true, startMs: 1000, endMs: 1900 },
    ]);
  });

  it('prefers when words were spoken to when they arrived', () => {
    const lines = apply(
      update({ text: 'good', atMs: 2000, spoken: { startMs: 1200, endMs: 1500 } }),
      update({ text: 'Good.', final: true, atMs: 2600, spoken: { startMs: 1150, endMs: 1650 } }),
    );
    expect(lines[0]).toMatchObject({ startMs: 1150, endMs: 1650 });
  });

  it('ignores what comes after the final text', () => {
    const closed = apply(update({ text: 'done', final: true }));
    expect(applyUpdate(closed, update({ text: 'do' }))).toBe(closed);
  });

  it('changes nothing when an update says nothing new', () => {
    const lines = apply(update({ text: 'same', committed: 2 }));
    expect(applyUpdate(lines, update({ text: 'same', committed: 2, atMs: 9000 }))).toBe(lines);
    expect(applyUpdate(lines, update({ text: 'same', committed: 4 }))).not.toBe(lines);
  });

  it('keeps speakers apart even when segment ids collide', () => {
    const lines = apply(update({ text: 'mine' }), update({ identity: 'bo-2', name: 'Bo', text: 'yours' }));
    expect(lines.map((line) => [line.name, line.text])).toEqual([['Ana', 'mine'], ['Bo', 'yours']]);
  });

  it('keeps the order of beginnings when two people speak at once', () => {
    const lines = apply(
      update({ segment: 'a', text: 'one' }),
      update({ segment: 'b', identity: 'bo-2', text: 'two' }),
      update({ segment: 'a', text: 'one more', final: true }),
    );
    expect(lines.map((line) => line.text)).toEqual(['one more', 'two']);
  });

  it('drops an interim line that ends as nothing, and never adds an empty one', () => {
    expect(apply(update({ text: 'uh' }), update({ text: ' ', final: true }))).toEqual([]);
    expect(apply(update({ text: '' }))).toEqual([]);
  });

  it('joins broken lines, cuts long text and forgets the oldest lines', () => {
    expect(apply(update({ text: ' a\n\n b ' }))[0]!.text).toBe('a b');
    expect(apply(update({ text: 'x'.repeat(TEXT_LIMIT + 5) }))[0]!.text).toHaveLength(TEXT_LIMIT);
    const [line] = apply(update({}));
    const full = Array.from({ length: LINE_LIMIT }, (_, i): TranscriptLine => ({ ...line!, key: `k${i}`, text: `t${i}` }));
    const lines = applyUpdate(full, update({ segment: 'one more', text: 'newest' }));
    expect(lines).toHaveLength(LINE_LIMIT);
    expect([lines[0]!.text, lines.at(-1)!.text]).toEqual(['t1', 'newest']);
  });
});

it('counts committed text in code points', () => {
  expect(splitCommitted({ text: 'a😀bc', committed: 2 })).toEqual(['a😀', 'bc']);
  expect(splitCommitted({ text: 'abc', committed: 99 })).toEqual(['abc', '']);
});
