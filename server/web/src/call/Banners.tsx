// Strips above the stage: the state of the connection, and what everyone must know about captions.

import { useAudioPlayback } from '@livekit/components-react';
import type { Room } from 'livekit-client';
import { CaptionsIcon, CaptionsOffIcon } from '../icons';
import type { CaptionsControl } from './captions';
import type { Connection } from './connection';

export function ConnectionBanner({ connection, onLeave }: { connection: Connection; onLeave: () => void }) {
  switch (connection) {
    case 'fine':
      return null;
    case 'lost':
      return (
        <div className="banner trouble" role="status" data-testid="banner" data-state="reconnecting">
          <span className="spinner" aria-hidden="true" /> <span>The connection was lost. Reconnecting<span className="tall-only">: you need not do anything</span>.</span>
        </div>
      );
    case 'gone':
      return (
        <div className="banner trouble" role="status" data-testid="banner" data-state="gone">
          <span className="spinner" aria-hidden="true" />
          <span>
            {navigator.onLine ? 'The server has not answered for more than 10 seconds' : 'This computer is offline'}
            <span className="tall-only">{navigator.onLine ? ': it may have stopped, or the network between is cut' : ', so the server cannot be reached'}</span>. Still trying.
          </span>
          <button type="button" className="small" data-testid="banner-leave" onClick={onLeave}>Leave</button>
        </div>
      );
    case 'back':
      return <div className="banner fine" role="status" data-testid="banner" data-state="reconnected">Connected again.</div>;
  }
}

/** Browsers play no sound on a page that nobody has touched. */
export function SoundBanner({ room }: { room: Room }) {
  const { canPlayAudio, startAudio } = useAudioPlayback(room);
  if (canPlayAudio) return null;
  return (
    <div className="banner trouble" role="status" data-testid="sound-banner">
      <span>The browser holds the sound back<span className="tall-only"> until you allow it</span>.</span>
      <button type="button" className="small" onClick={() => void startAudio()}>Turn the sound on</button>
    </div>
  );
}

export function CaptionsNotice({ captions }: { captions: CaptionsControl }) {
  if (!captions.on) return null;
  const state = captions.optedOut ? 'opted-out' : captions.refused ? 'refused' : 'on';
  const [what, more] = {
    'opted-out': ['You are left out of captions', 'what you say is not turned into text.'],
    refused: ['Captions are on, but you are not captioned', `${captions.reason || 'the server cannot hear you'}.`],
    on: ['Captions are on', captions.reason ? `${captions.reason}.` : 'the server turns what you say into text.'],
  }[state];
  return (
    <div className={`banner captions-notice${state === 'refused' ? ' trouble' : ''}`} role="status" data-testid="captions-notice" data-state={state} data-opted-out={captions.optedOut}>
      {state === 'on' ? <CaptionsIcon /> : <CaptionsOffIcon />}
      <span>
        {what}
        <span className={state === 'refused' ? '' : 'tall-only'}>: {more}</span>
      </span>
      <button type="button" className="small" data-testid="captions-opt-out" disabled={captions.pending} onClick={() => captions.setOptedOut(!captions.optedOut)}>
        {captions.optedOut ? 'Caption me again' : 'Leave me out'}
      </button>
    </div>
  );
}
