// The transcript as a value: lines in the order in which people began to speak, changed only by `applyUpdate`.
// An update carries the whole text of one segment so far; a final one closes the segment. Everything that
// comes from outside is cut to a limit here, so that no sender can make the page grow without bound.

export interface TranscriptLine {
  /** Speaker identity and segment id: one speaker cannot rewrite another's line. */
  key: string;
  identity: string;
  /** Name at the time of speaking; it stays after the speaker has left. */
  name: string;
  text: string;
  /** How many code points of `text` will not change any more. */
  committed: number;
  final: boolean;
  /** Not said by anyone: something happened, and `text` says what. */
  note?: true;
  /** When the words began and ended, milliseconds since 1970: as spoken where the server says so, else as they arrived. */
  startMs: number;
  endMs: number;
}

export interface SegmentUpdate {
  identity: string;
  name: string;
  segment: string;
  text: string;
  committed: number;
  final: boolean;
  /** When the update arrived. */
  atMs: number;
  /** When its words were spoken, where that is known. */
  spoken?: { startMs: number; endMs: number } | null;
}

/** Some 8 hours of one lively speaker; beyond it the oldest lines go. */
export const LINE_LIMIT = 5000;
/** Code units of one segment; a spoken minute is about 900. */
export const TEXT_LIMIT = 8000;

export function segmentKey(identity: string, segment: string): string {
  return `${identity}\u0000${segment}`;
}

export function applyUpdate(lines: readonly TranscriptLine[], update: SegmentUpdate): readonly TranscriptLine[] {
  const key = segmentKey(update.identity, update.segment);
  const text = update.text.slice(0, TEXT_LIMIT).replace(/\s+/g, ' ').trim();
  // Open segments are near the end: search backwards.
  const index = lines.findLastIndex((line) => line.key === key);
  const known = lines[index];
  if (known?.final) return lines;
  if (!text) {
    // An utterance that turned out to be nothing: its interim line goes.
    return known && update.final ? lines.filter((line) => line !== known) : lines;
  }
  const committed = update.final ? Array.from(text).length : Math.max(0, update.committed);
  if (known && known.text === text && known.committed === committed && known.final === update.final) return lines;
  const line: TranscriptLine = {
    key,
    identity: update.identity,
    name: known?.name ?? (update.name || update.identity),
    text,
    committed,
    final: update.final,
    startMs: update.spoken?.startMs ?? known?.startMs ?? update.atMs,
    endMs: update.spoken?.endMs ?? update.atMs,
  };
  if (!known) return [...lines.slice(-(LINE_LIMIT - 1)), line];
  return lines.with(index, line);
}

/** Adds a line that says what happened. */
export function addNote(lines: readonly TranscriptLine[], text: string, atMs: number): readonly TranscriptLine[] {
  const noted = text.slice(0, TEXT_LIMIT);
  const key = segmentKey('', `note-${atMs}-${lines.length}`);
  const line: TranscriptLine = { key, identity: '', name: '', text: noted, committed: noted.length, final: true, note: true, startMs: atMs, endMs: atMs };
  return [...lines.slice(-(LINE_LIMIT - 1)), line];
}

/** Splits a line into the part that will stay and the part that may still change. */
export function splitCommitted(line: Pick<TranscriptLine, 'text' | 'committed'>): [stays: string, mayChange: string] {
  const characters = Array.from(line.text);
  return [characters.slice(0, line.committed).join(''), characters.slice(line.committed).join('')];
}
