// The call: header, banners, stage, side panel and controls, around one connected LiveKit room.

import { RoomAudioRenderer, RoomContext, useChat, useParticipants } from '@livekit/components-react';
import { RoomEvent } from 'livekit-client';
import { useCallback, useEffect, useRef, useState } from 'react';
import type { Meeting } from '../App';
import { CloseIcon, LinkIcon, Mark, PeopleIcon } from '../icons';
import { shareLink } from '../invitation';
import { Notice } from '../Notice';
import { Problem } from '../problems';
import { demonstratorCaution, type ServerInfo } from '../server';
import { loadSettings } from '../settings';
import { copyText } from '../transcript/TranscriptActions';
import { TranscriptPanel } from '../transcript/TranscriptPanel';
import { Announcer } from './Announcer';
import { CaptionsNotice, ConnectionBanner, SoundBanner } from './Banners';
import { useCaptions } from './captions';
import { ServerGone, useConnection } from './connection';
import { ChatPanel } from './ChatPanel';
import { ControlBar, type Panel } from './ControlBar';
import { HuesContext } from './hue';
import { useLocalMedia } from './localMedia';
import { SettingsDialog } from './SettingsDialog';
import { useShortcuts } from './shortcuts';
import { Stage } from './Stage';

interface Props {
  meeting: Meeting;
  info: ServerInfo | null;
  invite: string | null;
}

export function CallScreen(props: Props) {
  return (
    <RoomContext.Provider value={props.meeting.room}>
      <HuesContext.Provider value={props.meeting.hues}>
        <Call {...props} />
      </HuesContext.Provider>
      <RoomAudioRenderer />
    </RoomContext.Provider>
  );
}

const NOTICE_LIMIT = 3;

function Call({ meeting, info, invite }: Props) {
  const { room, admission, transcript } = meeting;
  const [problems, setProblems] = useState<Problem[]>([]);
  const [panel, setPanel] = useState<Panel | null>(null);
  const [settingsOpen, setSettingsOpen] = useState(false);
  const [settings, setSettings] = useState(loadSettings);
  const [linkTold, setLinkTold] = useState('');

  const tell = useCallback((problem: Problem) => {
    setProblems((shown) => [...shown.filter((other) => other.what !== problem.what), problem].slice(-NOTICE_LIMIT));
  }, []);
  useEffect(() => meeting.problems.forEach(tell), [meeting.problems, tell]);

  const media = useLocalMedia(room, tell);
  const captions = useCaptions(room, admission, info, transcript, tell);
  const connection = useConnection(room);
  const participants = useParticipants({ room, updateOnlyOn: [RoomEvent.ParticipantConnected, RoomEvent.ParticipantDisconnected] });
  const chat = useChat();

  const [read, setRead] = useState(0);
  useEffect(() => {
    if (panel === 'chat') setRead(chat.chatMessages.length);
  }, [panel, chat.chatMessages.length]);

  const send = async (text: string) => {
    try {
      await chat.send(text);
    } catch (error) {
      tell(new Problem('The message was not sent.', 'Wait until the connection is back, then send it again.'));
      throw error;
    }
  };

  const togglePanel = (wanted: Panel) => setPanel((open) => (open === wanted ? null : wanted));
  const leave = () => void room.disconnect();
  useShortcuts({
    m: media.toggleMicrophone,
    v: media.toggleCamera,
    ...(media.canShareScreen && { s: media.toggleScreen }),
    c: () => captions.setOn(!captions.on),
    t: () => togglePanel('transcript'),
    h: () => togglePanel('chat'),
    d: () => setSettingsOpen(true),
    Escape: () => setPanel(null),
  }, settings.letterKeys);

  const main = useRef<HTMLElement>(null);
  useEffect(() => main.current?.focus(), []);

  const copyLink = async () => {
    const copied = await copyText(shareLink(location.origin, invite!, admission.room));
    setLinkTold(copied ? 'Link copied' : 'Copy it from the address bar');
    setTimeout(() => setLinkTold(''), 2500);
  };

  return (
    <div className={`call${panel ? ' with-panel' : ''}`}>
      <header className="call-head">
        <span className="brand"><Mark /><h1 data-testid="room-name">{admission.room}</h1></span>
        <span className="call-head-end">
          {invite && (
            <button type="button" className="quiet" data-testid="copy-link" onClick={() => void copyLink()} title="Copy the link to this room">
              <LinkIcon /> <span className="wide-only" aria-live="polite">{linkTold || 'Copy link'}</span>
            </button>
          )}
          <span className="people" title={`${participants.length} in the room`} aria-label={`${participants.length} in the room`} data-testid="people">
            <PeopleIcon /> {participants.length}
          </span>
        </span>
      </header>

      <div className="banners">
        <ConnectionBanner connection={connection} onLeave={leave} />
        <SoundBanner room={room} />
        <CaptionsNotice captions={captions} />
        {participants.length === 1 && (
          <div className="banner quiet" data-testid="alone">
            <span>You are the first one here.{invite && ' Send the others the link to this room.'}</span>
          </div>
        )}
        {problems.map((problem) => (
          <Notice key={problem.what} problem={problem} onDismiss={() => setProblems((shown) => shown.filter((other) => other !== problem))} />
        ))}
      </div>

      <main className="call-main" ref={main} tabIndex={-1} aria-label={`Room ${admission.room}`}>
        <ServerGone.Provider value={connection === 'gone'}>
          <Stage transcript={settings.captionsOverTiles ? transcript : null} />
        </ServerGone.Provider>
      </main>

      {panel && (
        <aside className="panel" aria-label={panel === 'chat' ? 'Chat' : 'Transcript'}>
          <div className="panel-head">
            <h2>{panel === 'chat' ? 'Chat' : 'Transcript'}</h2>
            <button type="button" className="quiet round" aria-label="Close this panel" onClick={() => setPanel(null)}>
              <CloseIcon />
            </button>
          </div>
          {panel === 'chat' ? (
            <ChatPanel messages={chat.chatMessages} sending={chat.isSending} onSend={send} />
          ) : (
            <TranscriptPanel transcript={transcript} hint={transcriptHint(info, captions.on)} caution={captions.on ? demonstratorCaution(info) : null} languages={info?.captions.translations ?? []} language={captions.language} onLanguage={captions.setLanguage} />
          )}
        </aside>
      )}

      <footer className="call-foot">
        <ControlBar media={media} captions={captions} letterKeys={settings.letterKeys} panel={panel} unread={panel === 'chat' ? 0 : Math.max(0, chat.chatMessages.length - read)} onPanel={togglePanel} onSettings={() => setSettingsOpen(true)} onLeave={leave} />
      </footer>

      {settingsOpen && <SettingsDialog room={room} settings={settings} onSettings={setSettings} onClose={() => setSettingsOpen(false)} tell={tell} />}
      <Announcer room={room} transcript={transcript} messages={panel === 'chat' ? [] : chat.chatMessages} />
    </div>
  );
}

function transcriptHint(info: ServerInfo | null, captionsOn: boolean): string {
  if (info && !info.captions.available) return `This server cannot caption: ${info.captions.reason ?? 'it has no speech model.'}`;
  if (!captionsOn) return 'Captions are off. Turn them on below, and what is said from then on appears here.';
  return 'Nothing has been said yet.';
}
