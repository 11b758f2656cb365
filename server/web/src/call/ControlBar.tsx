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
  onPanel: (panel: Panel) => void;
  onSettings: () => void;
  onLeave: () => void;
}

export function ControlBar({ media, captions, panel, unread, onPanel, onSettings, onLeave }: Props) {
  return (
    <div className="controls" role="group" aria-label="Call controls">
      <Control testid="mic-toggle" shortcut="m" text="Mic" label={media.microphone ? 'Turn the microphone off' : 'Turn the microphone on'} on={media.microphone} warn={!media.microphone} busy={media.pending} onClick={media.toggleMicrophone}>
        {media.microphone ? <MicrophoneIcon /> : <MicrophoneOffIcon />}
      </Control>
      <Control testid="cam-toggle" shortcut="v" text="Camera" label={media.camera ? 'Turn the camera off' : 'Turn the camera on'} on={media.camera} warn={!media.camera} busy={media.pending} onClick={media.toggleCamera}>
        {media.camera ? <CameraIcon /> : <CameraOffIcon />}
      </Control>
      {media.canShareScreen && (
        <Control testid="share-toggle" shortcut="s" text="Share" label={media.screen ? 'Stop sharing the screen' : 'Share the screen'} on={media.screen} busy={media.pending} onClick={media.toggleScreen}>
          <ScreenIcon />
        </Control>
      )}
      <span className="controls-gap" />
      <Control testid="captions-toggle" shortcut="c" text="Captions" label={captions.on ? 'Turn captions off for everyone' : 'Turn captions on for everyone'} on={captions.on} busy={captions.pending} onClick={() => captions.setOn(!captions.on)}>
        <CaptionsIcon />
      </Control>
      <Control testid="transcript-toggle" shortcut="t" text="Transcript" label={panel === 'transcript' ? 'Close the transcript' : 'Open the transcript'} on={panel === 'transcript'} onClick={() => onPanel('transcript')}>
        <TranscriptIcon />
      </Control>
      <Control testid="chat-toggle" shortcut="h" text="Chat" label={panel === 'chat' ? 'Close the chat' : 'Open the chat'} on={panel === 'chat'} badge={unread} onClick={() => onPanel('chat')}>
        <ChatIcon />
      </Control>
      <Control testid="settings-toggle" shortcut="d" text="Devices" label="Devices and settings" on={false} onClick={onSettings}>
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
  shortcut: string;
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
      aria-keyshortcuts={shortcut.toUpperCase()}
      aria-busy={busy || undefined}
      title={`${label} (${shortcut.toUpperCase()})`}
      onClick={onClick}
    >
      <span className="control-sign">
        {children}
        {badge ? <span className="badge" aria-hidden="true">{badge > 9 ? '9+' : badge}</span> : null}
      </span>
      <span className="control-text">
        {text} <kbd aria-hidden="true">{shortcut.toUpperCase()}</kbd>
        {badge ? <span className="visually-hidden">{badge} unread</span> : null}
      </span>
    </button>
  );
}
