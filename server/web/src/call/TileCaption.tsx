// A speaker's words over the speaker's tile: the newest two lines, what may still change dimmer. Hidden from
// screen readers, which hear finished sentences from `Announcer` instead of every change.

import { useEffect, useState } from 'react';
import { splitCommitted } from '../transcript/transcript';
import { type Roll, type TranscriptStore, useLatestLine } from '../transcript/store';

/** How long words stay after the last change, milliseconds. */
const LINGER_MS = 5000;

export function TileCaption({ transcript, identity }: { transcript: TranscriptStore; identity: string }) {
  const roll = useLatestLine(transcript, identity);
  const [hidden, setHidden] = useState<Roll | null>(null);
  useEffect(() => {
    if (!roll) return;
    const timer = setTimeout(() => setHidden(roll), LINGER_MS);
    return () => clearTimeout(timer);
  }, [roll]);

  if (!roll || hidden === roll) return null;
  const { previous, current } = roll;
  const [stays, mayChange] = splitCommitted(current);
  const recent = previous && current.startMs - previous.endMs < LINGER_MS ? previous.text : null;
  return (
    <div className="caption" aria-hidden="true" data-testid="caption" data-identity={identity} data-final={current.final}>
      <div className="caption-window">
        <p>
          {recent && `${recent} `}
          <span data-testid="caption-text">
            {stays}
            {mayChange && <span className="may-change">{mayChange}</span>}
          </span>
        </p>
      </div>
    </div>
  );
}
