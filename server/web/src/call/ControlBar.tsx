// The bar at the bottom. A button’s name is the word below it, its state is `aria-pressed`, and its title says
// what pressing it does, and its key.

import type { ReactNode } from 'react';
import {
  CameraIcon, CameraOffIcon, CaptionsIcon, ChatIcon, LeaveIcon, MicrophoneIcon, MicrophoneOffIcon, ScreenIcon,
  SettingsIcon, TranscriptIcon,
} from '../icons';
import type { CaptionsControl } from './captions';
import type { LocalMedia } from './localMedia';

export type Panel = 'chat' | 'transcript';

interface Props {
  media: LocalMedia;
  captions: CaptionsControl;
  panel: Panel | null;
  unread: number;
  /** Keys of one letter are on: they are shown. */
  letterKeys: boolean;
  onPanel: (panel: Panel) => void;
  onSettings: () => void;
  onLeave: () => void;
}

export function ControlBar({ media, captions, panel, unread, letterKeys, onPanel, onSettings, onLeave }: Props) {
  return (
    <div className="controls" role="group" aria-label="Call controls">
      <Control testid="mic-toggle" shortcut={letterKeys ? 'm' : null} text="Mic" label={media.microphone ? 'Turn the microphone off' : 'Turn the microphone on'} on={media.microphone} warn={!media.microphone} busy={media.pending} onClick={media.toggleMicrophone}>
        {media.microphone ? <MicrophoneIcon /> : <MicrophoneOffIcon />}
      </Control>
      <Control testid="cam-toggle" shortcut={letterKeys ? 'v' : null} text="Camera" label={media.camera ? 'Turn the camera off' : 'Turn the camera on'} on={media.camera} warn={!media.camera} busy={media.pending} onClick={media.toggleCamera}>
        {media.camera ? <CameraIcon /> : <CameraOffIcon />}
      </Control>
      {media.canShareScreen && (
        <Control testid="share-toggle" shortcut={letterKeys ? 's' : null} text="Share" label={media.screen ? 'Stop sharing the screen' : 'Share the screen'} on={media.screen} busy={media.pending} onClick={media.toggleScreen}>
          <ScreenIcon />
        </Control>
      )}
      <span className="controls-gap" />
      <Control testid="captions-toggle" shortcut={letterKeys ? 'c' : null} text="Captions" label={captions.on ? 'Turn captions off for everyone' : 'Turn captions on for everyone'} on={captions.on} busy={captions.pending} onClick={() => captions.setOn(!captions.on)}>
        <CaptionsIcon />
      </Control>
      <Control testid="transcript-toggle" shortcut={letterKeys ? 't' : null} text="Transcript" label={panel === 'transcript' ? 'Close the transcript' : 'Open the transcript'} on={panel === 'transcript'} onClick={() => onPanel('transcript')}>
        <TranscriptIcon />
      </Control>
      <Control testid="chat-toggle" shortcut={letterKeys ? 'h' : null} text="Chat" label={panel === 'chat' ? 'Close the chat' : 'Open the chat'} on={panel === 'chat'} badge={unread} onClick={() => onPanel('chat')}>
        <ChatIcon />
      </Control>
      <Control testid="settings-toggle" shortcut={letterKeys ? 'd' : null} text="Devices" label="Devices and settings" on={false} onClick={onSettings}>
        <SettingsIcon />
      </Control>
      <span className="controls-gap" />
      <button type="button" className="control leave" data-testid="leave" title="Leave the room" onClick={onLeave}>
        <span className="control-sign"><LeaveIcon /></span>
        <span className="control-text">Leave</span>
      </button>
    </div>
  );
}

interface ControlProps {
  testid: string;
  shortcut: string | null;
  text: string;
  label: string;
  on: boolean;
  /** Off is worth noticing: others cannot hear or see you. */
  warn?: boolean;
  busy?: boolean;
  badge?: number;
  onClick: () => void;
  children: ReactNode;
}

function Control({ testid, shortcut, text, label, on, warn, busy, badge, onClick, children }: ControlProps) {
  return (
    <button
      type="button"
      className={`control${on ? ' on' : ''}${warn ? ' warn' : ''}`}
      data-testid={testid}
      aria-pressed={on}
      aria-keyshortcuts={shortcut?.toUpperCase()}
      aria-busy={busy || undefined}
      title={shortcut ? `${label} (${shortcut.toUpperCase()})` : label}
      onClick={onClick}
    >
      <span className="control-sign">
        {children}
        {badge ? <span className="badge" aria-hidden="true">{badge > 9 ? '9+' : badge}</span> : null}
      </span>
      <span className="control-text">
        {text} {shortcut && <kbd aria-hidden="true">{shortcut.toUpperCase()}</kbd>}
        {badge ? <span className="visually-hidden">{badge} unread</span> : null}
      </span>
    </button>
  );
}
