// One of eight calm hues per person: nobody shares one in a room while hues are left, and everyone keeps theirs as long as
// their words stand in the transcript. Where it is free, an identity's hue is always the same.

import { type Participant, type Room, RoomEvent } from 'livekit-client';
import { createContext, useContext } from 'react';

const HUES = 8;
/** Identities whose hue is remembered; the oldest of those who are gone go first. */
const REMEMBERED_LIMIT = 500;

export class Hues {
  private readonly given = new Map<string, number>();
  private readonly gone = new Set<string>();

  /** The hue of an identity, which is here or has spoken. */
  of(identity: string): number {
    const known = this.given.get(identity);
    if (known !== undefined) return known;
    const hue = this.choose(identity);
    this.given.set(identity, hue);
    for (const oldest of this.given.size > REMEMBERED_LIMIT ? this.gone : []) {
      this.given.delete(oldest);
      this.gone.delete(oldest);
      break;
    }
    return hue;
  }

  /** Whoever leaves keeps the hue in the transcript, and gives it up when no other is left. */
  left(identity: string): void {
    if (this.given.has(identity)) this.gone.add(identity);
  }

  /** Whoever comes back has the old hue, unless somebody who is here was given it meanwhile. */
  joined(identity: string): void {
    if (!this.gone.delete(identity)) return;
    const hue = this.given.get(identity);
    this.given.delete(identity);
    if (hue !== undefined && !this.here().has(hue)) this.given.set(identity, hue);
  }

  follow(room: Room): void {
    const change = (act: 'joined' | 'left') => (participant: Participant) => this[act](participant.identity);
    room.on(RoomEvent.ParticipantConnected, change('joined')).on(RoomEvent.ParticipantDisconnected, change('left'));
  }

  private choose(identity: string): number {
    const first = hashOf(identity) % HUES;
    const inOrder = Array.from({ length: HUES }, (_, step) => (first + step) % HUES);
    const ever = new Set(this.given.values());
    const here = this.here();
    return inOrder.find((hue) => !ever.has(hue)) ?? inOrder.find((hue) => !here.has(hue)) ?? first;
  }

  /** Hues of those who have not left. */
  private here(): Set<number> {
    return new Set([...this.given].filter(([identity]) => !this.gone.has(identity)).map(([, hue]) => hue));
  }
}

/** The hues of the meeting. */
export const HuesContext = createContext(new Hues());

export function useHueClass(): (identity: string) => string {
  const hues = useContext(HuesContext);
  return (identity) => `hue-${hues.of(identity)}`;
}

/** The hue of somebody who is in no room. */
export function hueClass(identity: string): string {
  return `hue-${hashOf(identity) % HUES}`;
}

function hashOf(identity: string): number {
  let hash = 0;
  for (const character of identity) hash = (hash * 31 + character.codePointAt(0)!) >>> 0;
  return hash;
}

/** Up to two initials. */
export function initials(name: string): string {
  const words = name.trim().split(/\s+/).filter(Boolean);
  const first = (word: string | undefined) => (word ? (Array.from(word)[0] ?? '') : '');
  const last = words.length > 1 ? words[words.length - 1] : undefined;
  return (first(words[0]) + first(last)).toLocaleUpperCase() || '?';
}
