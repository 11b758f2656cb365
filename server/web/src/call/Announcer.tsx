// What a screen reader hears without going anywhere: finished sentences, messages while the chat is closed,
// who comes and goes. Polite: it waits for the reader to finish.

import type { ReceivedChatMessage } from '@livekit/components-react';
import { type Participant, type Room, RoomEvent } from 'livekit-client';
import { useEffect, useState } from 'react';
import { type TranscriptStore, useTranscriptLines } from '../transcript/store';

interface Props {
  room: Room;
  transcript: TranscriptStore;
  messages: readonly ReceivedChatMessage[];
}

const KEPT = 4;

export function Announcer({ room, transcript, messages }: Props) {
  const finished = useTranscriptLines(transcript).filter((line) => line.final).slice(-KEPT);
  const received = messages.filter((message) => !message.from?.isLocal).slice(-KEPT);
  const arrivals = useArrivals(room);
  return (
    <div className="visually-hidden">
      <div role="log" aria-live="polite" aria-label="Captions" data-testid="announcer">
        {finished.map((line) => <p key={line.key}>{line.note ? line.text : `${line.name}: ${line.text}`}</p>)}
      </div>
      <div role="log" aria-live="polite" aria-label="New messages">
        {received.map((message) => <p key={message.id}>Message from {message.from?.name || message.from?.identity || 'someone'}: {message.message}</p>)}
      </div>
      <div role="status">{arrivals}</div>
    </div>
  );
}

function useArrivals(room: Room): string {
  const [told, setTold] = useState('');
  useEffect(() => {
    const came = (participant: Participant) => setTold(`${participant.name || participant.identity} joined.`);
    const went = (participant: Participant) => setTold(`${participant.name || participant.identity} left.`);
    room.on(RoomEvent.ParticipantConnected, came).on(RoomEvent.ParticipantDisconnected, went);
    return () => void room.off(RoomEvent.ParticipantConnected, came).off(RoomEvent.ParticipantDisconnected, went);
  }, [room]);
  return told;
}
