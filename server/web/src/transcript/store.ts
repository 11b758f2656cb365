// Holds one meeting's transcript: reads LiveKit's text streams on `lk.transcription` (each update is a stream of
// its own under the speaker's identity) and tells React what changed. It outlives the call screen, so that the
// transcript can still be saved after leaving.

import type { Room, TextStreamReader } from 'livekit-client';
import { useSyncExternalStore } from 'react';
import { SpeakerClock } from './speakerClock';
import { addNote, applyUpdate, segmentKey, TEXT_LIMIT, type TranscriptLine } from './transcript';

const TOPIC = 'lk.transcription';
/** Segments whose newest stream is remembered (the least recently updated go first), and tracks whose clock is. */
const REMEMBERED_LIMIT = 500;

export class TranscriptStore {
  /** Moment of joining: cue times count from here. Milliseconds since 1970. */
  readonly originMs = Date.now();
  private lines: readonly TranscriptLine[] = [];
  private latestBySpeaker = new Map<string, Roll>();
  private clocks = new Map<string, SpeakerClock>();
  private streams = 0;
  /** Ordinal of the newest stream shown per segment: an older one that completes late is skipped. */
  private newestStream = new Map<string, number>();
  private listeners = new Set<() => void>();

  constructor(readonly roomName: string) {}

  attach(room: Room): void {
    room.registerTextStreamHandler(TOPIC, (reader, sender) => {
      // Names are looked up at once: the speaker may be gone when the text is complete.
      const participant = room.getParticipantByIdentity(sender.identity);
      void this.read(reader, sender.identity, participant?.name || sender.identity);
    });
  }

  detach(room: Room): void {
    room.unregisterTextStreamHandler(TOPIC);
  }

  getLines = (): readonly TranscriptLine[] => this.lines;
  getLatest = (identity: string): Roll | null => this.latestBySpeaker.get(identity) ?? null;
  subscribe = (listener: () => void): (() => void) => {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  };

  /** Something happened that readers of the transcript must know. */
  note(text: string): void {
    this.lines = addNote(this.lines, text, Date.now());
    for (const listener of this.listeners) listener();
  }

  private async read(reader: TextStreamReader, identity: string, name: string): Promise<void> {
    const stream = ++this.streams;
    const attribute = (key: string) => reader.info.attributes?.[key];
    const segment = attribute('lk.segment_id') || reader.info.id;
    const committed = Number.parseInt(attribute('auralink.committed') ?? '', 10) || 0;
    const key = segmentKey(identity, segment);
    const spoken = this.whenSpoken(segmentKey(identity, attribute('lk.transcribed_track_id') ?? ''), attribute);
    const update = (text: string, final: boolean) => {
      if (this.isNewest(key, stream)) this.apply({ identity, name, segment, text, committed, final, atMs: Date.now(), spoken });
    };
    let text = '';
    try {
      for await (const chunk of reader) {
        text = (text + chunk).slice(0, TEXT_LIMIT);
        // The first chunks of a long update are shorter than what is shown already.
        const shown = this.latestBySpeaker.get(identity)?.current;
        if (shown?.key !== key || text.length > shown.text.length) update(text, false);
      }
      // A sender that writes a growing segment into one stream sets the attribute with its end, or not at all.
      update(text, (attribute('lk.transcription_final') ?? 'true') === 'true');
    } catch {
      // The sender went away in the middle of a stream: what was said until then stands.
      if (text) update(text, true);
    }
  }

  private whenSpoken(track: string, attribute: (key: string) => string | undefined) {
    const startMs = Number(attribute('auralink.start_ms'));
    const endMs = Number(attribute('auralink.end_ms'));
    if (!(startMs >= 0 && endMs > startMs)) return null;
    let clock = this.clocks.get(track);
    if (!clock) {
      if (this.clocks.size >= REMEMBERED_LIMIT) this.clocks.clear();
      this.clocks.set(track, (clock = new SpeakerClock()));
    }
    return clock.place(startMs, endMs, Date.now());
  }

  private isNewest(key: string, stream: number): boolean {
    if ((this.newestStream.get(key) ?? 0) > stream) return false;
    this.newestStream.delete(key);
    this.newestStream.set(key, stream);
    if (this.newestStream.size > REMEMBERED_LIMIT) this.newestStream.delete(this.newestStream.keys().next().value!);
    return true;
  }

  private apply(update: Parameters<typeof applyUpdate>[1]): void {
    const before = this.lines;
    this.lines = applyUpdate(before, update);
    if (this.lines === before) return;
    const latest = this.lines.findLast((line) => line.identity === update.identity);
    const roll = this.latestBySpeaker.get(update.identity);
    if (!latest) this.latestBySpeaker.delete(update.identity);
    else {
      const previous = roll?.current.key === latest.key ? roll.previous : (roll?.current ?? null);
      this.latestBySpeaker.set(update.identity, { previous, current: latest });
    }
    for (const listener of this.listeners) listener();
  }
}

/** A speaker's last two lines: captions roll up, so that the end of a sentence can be read while the next begins. */
export interface Roll {
  previous: TranscriptLine | null;
  current: TranscriptLine;
}

export function useTranscriptLines(store: TranscriptStore): readonly TranscriptLine[] {
  return useSyncExternalStore(store.subscribe, store.getLines);
}

export function useLatestLine(store: TranscriptStore, identity: string): Roll | null {
  return useSyncExternalStore(store.subscribe, () => store.getLatest(identity));
}
