// One person, or one shared screen.

import {
  isTrackReference, type TrackReferenceOrPlaceholder, useConnectionQualityIndicator, useIsMuted, useIsSpeaking,
  useParticipantAttributes, useParticipantInfo, VideoTrack,
} from '@livekit/components-react';
import { ConnectionQuality, Track } from 'livekit-client';
import { useContext } from 'react';
import type { TranscriptStore } from '../transcript/store';
import { CaptionsOffIcon, MicrophoneOffIcon, PinIcon } from '../icons';
import { asClause, CAPTIONS_ATTRIBUTE, REASON_ATTRIBUTE } from './captions';
import { ServerGone } from './connection';
import { initials, useHueClass } from './hue';
import { TileCaption } from './TileCaption';

interface Props {
  track: TrackReferenceOrPlaceholder;
  /** Null hides captions on this tile. */
  transcript: TranscriptStore | null;
  pinned: boolean;
  onPin: () => void;
}

export function Tile({ track, transcript, pinned, onPin }: Props) {
  const { participant, source } = track;
  const screen = source === Track.Source.ScreenShare;
  const speaking = useIsSpeaking(participant);
  const { name } = useParticipantInfo({ participant });
  const { attributes } = useParticipantAttributes({ participant });
  const { quality } = useConnectionQualityIndicator({ participant });
  const microphoneMuted = useIsMuted({ participant, source: Track.Source.Microphone });
  const pictureMuted = useIsMuted({ participant, source });

  const hueClass = useHueClass();
  const identity = participant.identity;
  const shownName = name || identity;
  const label = screen ? `${shownName}’s screen` : shownName;
  const you = participant.isLocal ? ' (you)' : '';
  const hasPicture = isTrackReference(track) && !pictureMuted;
  const classes = ['tile', hueClass(identity), speaking && !screen && 'speaking', screen && 'screen', pinned && 'pinned'];

  return (
    <article
      className={classes.filter(Boolean).join(' ')}
      aria-label={describe(label + you, screen, microphoneMuted, hasPicture)}
      data-testid="tile"
      data-identity={identity}
      data-source={source}
      data-speaking={speaking}
    >
      {hasPicture ? (
        <VideoTrack trackRef={track} className={participant.isLocal && !screen ? 'mirrored' : ''} data-testid="tile-video" data-identity={identity} />
      ) : (
        <span className="avatar" aria-hidden="true">{initials(shownName)}</span>
      )}
      <div className="tile-foot">
        {transcript && !screen && <TileCaption transcript={transcript} identity={identity} />}
        <div className="tile-bar">
          <span className="tile-name">
            {!screen && microphoneMuted && <span className="tile-muted" title="Microphone is off"><MicrophoneOffIcon /></span>}
            <span className="tile-label">{label}{you && <span className="tile-you">{you}</span>}</span>
            {!screen && <NotCaptioned state={attributes?.[CAPTIONS_ATTRIBUTE]} reason={asClause(attributes?.[REASON_ATTRIBUTE])} />}
          </span>
          {!screen && <QualityMark quality={quality} />}
        </div>
      </div>
      <button type="button" className="tile-pin round glass" aria-pressed={pinned} aria-label={pinned ? `Show everyone, not only ${label}` : `Show ${label} large`} title={pinned ? 'Show everyone' : 'Show large'} onClick={onPin}>
        <PinIcon />
      </button>
    </article>
  );
}

/** Readers of captions must know whose words they will not read. */
function NotCaptioned({ state, reason }: { state: string | undefined; reason: string }) {
  if (state !== 'opted-out' && state !== 'refused') return null;
  const label = state === 'opted-out' ? 'Left out of captions by own wish' : `Not captioned${reason && `: ${reason}`}`;
  return <span role="img" aria-label={label} title={label} data-testid="not-captioned"><CaptionsOffIcon /></span>;
}

const QUALITY: Record<ConnectionQuality, { bars: number; label: string }> = {
  [ConnectionQuality.Excellent]: { bars: 3, label: 'Connection: good' },
  [ConnectionQuality.Good]: { bars: 2, label: 'Connection: fair' },
  [ConnectionQuality.Poor]: { bars: 1, label: 'Connection: poor' },
  [ConnectionQuality.Lost]: { bars: 0, label: 'Connection: lost' },
  [ConnectionQuality.Unknown]: { bars: -1, label: '' },
};

/** Nobody has said anything of a connection for a while. */
const STALE = { bars: 0, label: 'Connection: not known' };

function QualityMark({ quality }: { quality: ConnectionQuality }) {
  const gone = useContext(ServerGone);
  const { bars, label } = gone ? STALE : (QUALITY[quality] ?? QUALITY[ConnectionQuality.Unknown]);
  if (bars < 0) return null;
  return (
    <span className={`quality bars-${bars}`} role="img" aria-label={label} title={label} data-testid="quality">
      <i /><i /><i />
    </span>
  );
}

function describe(label: string, screen: boolean, muted: boolean, picture: boolean): string {
  if (screen) return label;
  return `${label}, microphone ${muted ? 'off' : 'on'}, camera ${picture ? 'on' : 'off'}`;
}
