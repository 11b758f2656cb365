// Whether captions run here, and for whom. The server says so in the participant attributes `auralink.captions` (on, off,
// opted-out, refused) and `auralink.captions.reason` of everyone.

import type { Participant, Room } from 'livekit-client';
import { ConnectionState, EngineEvent, RoomEvent } from 'livekit-client';
import { useParticipants } from '@livekit/components-react';
import { useEffect, useRef, useState } from 'react';
import type { Admission, ServerInfo } from '../server';
import { setOwnLanguage, setRoomCaptions } from '../server';
import { loadSettings, saveSettings } from '../settings';
import { sayAgain, sayLeftOut } from '../leftOut';
import { captionsAreOthers, leftOutUnsaid, Problem } from '../problems';
import type { TranscriptStore } from '../transcript/store';

export const CAPTIONS_ATTRIBUTE = 'auralink.captions';
export const REASON_ATTRIBUTE = 'auralink.captions.reason';
export const LANGUAGE_ATTRIBUTE = 'auralink.captions.language';

export interface CaptionsState {
  /** Captions run in this room. */
  on: boolean;
  /** I left myself out. */
  optedOut: boolean;
  /** The server would hear me and cannot. */
  refused: boolean;
  /** The server told us at all; a server that is not AuraLink does not. */
  known: boolean;
}

/** `own` and `others`: values of the attribute, undefined where it is not set. */
export function captionsState(own: string | undefined, others: readonly (string | undefined)[]): CaptionsState {
  const all = [own, ...others];
  const known = all.some((value) => value !== undefined);
  // Someone left out says nothing about the room: only where everyone is left out do we assume it is on.
  const on = all.includes('on') || all.includes('refused') || (all.includes('opted-out') && !all.includes('off'));
  return { on, optedOut: own === 'opted-out', refused: own === 'refused', known };
}

/** A sentence of the server's, without a full stop, as the end of one of ours. */
export function asClause(reason: string | undefined): string {
  return (reason ?? '').trim().replace(/\.$/, '').slice(0, 240);
}

export interface CaptionsControl extends CaptionsState {
  /** Why I am not heard, or heard less well; may be empty. */
  reason: string;
  pending: boolean;
  setOn: (on: boolean) => void;
  setOptedOut: (optedOut: boolean) => void;
  /** The language in which I read; empty: as it was said. */
  language: string;
  setLanguage: (language: string) => void;
}

/** Topic of the data packets by which the server says who turned captions on or off. */
const SWITCH_TOPIC = 'auralink.captions';

/** What a packet of the server's says; null for anybody else's, and for what is none. */
export function readSwitch(payload: Uint8Array, topic: string | undefined, fromParticipant: boolean): string | null {
  if (topic !== SWITCH_TOPIC || fromParticipant || payload.length > 4096) return null;
  try {
    const { enabled, by } = JSON.parse(new TextDecoder().decode(payload)) as { enabled?: unknown; by?: { name?: unknown; identity?: unknown } };
    if (typeof enabled !== 'boolean') return null;
    const who = [by?.name, by?.identity].find((name): name is string => typeof name === 'string' && name !== '')?.slice(0, 256);
    return `${who ?? 'The server'} turned captions ${enabled ? 'on' : 'off'} for everyone.`;
  } catch {
    return null;
  }
}

const WATCHED = [RoomEvent.ParticipantAttributesChanged, RoomEvent.ParticipantConnected, RoomEvent.ParticipantDisconnected, RoomEvent.Connected, RoomEvent.Reconnected];

export function useCaptions(room: Room, admission: Admission, info: ServerInfo | null, transcript: TranscriptStore, tell: (problem: Problem) => void): CaptionsControl {
  const participants = useParticipants({ room, updateOnlyOn: WATCHED });
  const token = useFreshToken(room, admission.token);
  const [pending, setPending] = useState(false);
  useEffect(() => {
    // A server that was restarted meanwhile knows nothing of a wish.
    const back = () => void sayAgain(admission.room, token.current).catch(() => tell(leftOutUnsaid()));
    room.on(RoomEvent.Reconnected, back);
    return () => void room.off(RoomEvent.Reconnected, back);
  }, [room, admission.room, token, tell]);
  useEffect(() => {
    const received = (payload: Uint8Array, sender: Participant | undefined, _kind: unknown, topic?: string) => {
      const said = readSwitch(payload, topic, sender !== undefined);
      if (said) transcript.note(said);
    };
    room.on(RoomEvent.DataReceived, received);
    return () => void room.off(RoomEvent.DataReceived, received);
  }, [room, transcript]);
  useEffect(() => {
    // The language of the last visit, once I am there and the server can.
    const wanted = loadSettings().captionsLanguage;
    if (!wanted || !info?.captions.translations?.includes(wanted)) return;
    const say = () => void setOwnLanguage(admission.room, token.current, wanted).catch(() => undefined);
    if (room.state === ConnectionState.Connected) say();
    room.on(RoomEvent.Connected, say).on(RoomEvent.Reconnected, say);
    return () => void room.off(RoomEvent.Connected, say).off(RoomEvent.Reconnected, say);
  }, [room, admission.room, token, info]);
  const value = (participant: Participant) => participant.attributes[CAPTIONS_ATTRIBUTE];
  const state = captionsState(
    value(room.localParticipant),
    participants.filter((participant) => !participant.isLocal).map(value),
  );
  const request = async (send: () => Promise<void>) => {
    if (pending) return;
    if (info && !info.captions.available) {
      tell(new Problem('This server cannot caption.', info.captions.reason ?? 'It has no speech model.'));
      return;
    }
    setPending(true);
    try {
      await send();
    } catch (error) {
      tell(error instanceof Problem ? error : new Problem('Captions could not be switched.', 'Try again.'));
    } finally {
      setPending(false);
    }
  };
  return {
    ...state,
    reason: asClause(room.localParticipant.attributes[REASON_ATTRIBUTE]),
    pending,
    setOn: (on) => {
      if (room.localParticipant.permissions?.canPublish === false) return tell(captionsAreOthers());
      void request(() => setRoomCaptions(admission.room, token.current, on));
    },
    setOptedOut: (optedOut) => void request(() => sayLeftOut(admission.room, token.current, optedOut)),
    language: room.localParticipant.attributes[LANGUAGE_ATTRIBUTE] ?? '',
    setLanguage: (language) => {
      saveSettings({ captionsLanguage: language });
      void request(() => setOwnLanguage(admission.room, token.current, language));
    },
  };
}

/** The server renews the token during long calls; requests carry the newest. */
function useFreshToken(room: Room, first: string) {
  const token = useRef(first);
  useEffect(() => {
    const engine = room.engine;
    const renewed = (fresh: string) => {
      token.current = fresh;
    };
    engine?.on(EngineEvent.TokenRefreshed, renewed);
    return () => void engine?.off(EngineEvent.TokenRefreshed, renewed);
  }, [room]);
  return token;
}
