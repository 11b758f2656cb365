// Everyone in the room. A shared screen, or whoever is pinned, is shown large with the others in a strip.

import { type TrackReferenceOrPlaceholder, useTracks } from '@livekit/components-react';
import { Track } from 'livekit-client';
import { type CSSProperties, useLayoutEffect, useRef, useState } from 'react';
import type { TranscriptStore } from '../transcript/store';
import { bestGrid } from './grid';
import { Tile } from './Tile';

const GAP = 10;

interface Props {
  transcript: TranscriptStore | null;
}

export function Stage({ transcript }: Props) {
  const tracks = useTracks(
    [
      { source: Track.Source.Camera, withPlaceholder: true },
      { source: Track.Source.ScreenShare, withPlaceholder: false },
    ],
    { onlySubscribed: false },
  );
  const [pinned, setPinned] = useState<string | null>(null);
  /** A shared screen that the viewer has sent back into the strip. */
  const [unfocused, setUnfocused] = useState<string | null>(null);
  const { ref, width, height } = useSize();

  const ordered = [...tracks].sort(byArrival);
  const screen = ordered.find((track) => track.source === Track.Source.ScreenShare && !track.participant.isLocal && keyOf(track) !== unfocused);
  const large = ordered.find((track) => keyOf(track) === pinned) ?? screen;

  const tile = (track: TrackReferenceOrPlaceholder) => {
    const key = keyOf(track);
    const isLarge = large !== undefined && keyOf(large) === key;
    return (
      <Tile
        key={key}
        track={track}
        transcript={transcript}
        pinned={isLarge}
        onPin={() => {
          setPinned(isLarge ? null : key);
          setUnfocused(isLarge && track.source === Track.Source.ScreenShare ? key : null);
        }}
      />
    );
  };

  if (large && ordered.length > 1) {
    return (
      <section className="stage focus" ref={ref} aria-label="Participants">
        <div className="stage-large">{tile(large)}</div>
        <div className="stage-strip">{ordered.filter((track) => track !== large).map(tile)}</div>
      </section>
    );
  }
  const grid = bestGrid(ordered.length, width, height, GAP);
  const size = { '--tile-width': `${grid.width}px`, '--tile-height': `${grid.height}px` } as CSSProperties;
  return (
    <section className="stage grid" ref={ref} style={size} aria-label="Participants">
      {ordered.map(tile)}
    </section>
  );
}

const keyOf = (track: TrackReferenceOrPlaceholder) => `${track.participant.identity}/${track.source}`;

/** Other people first, in the order of joining; oneself last. */
function byArrival(a: TrackReferenceOrPlaceholder, b: TrackReferenceOrPlaceholder): number {
  const local = Number(a.participant.isLocal) - Number(b.participant.isLocal);
  return local || (a.participant.joinedAt?.getTime() ?? 0) - (b.participant.joinedAt?.getTime() ?? 0);
}

function useSize() {
  const ref = useRef<HTMLElement>(null);
  const [size, setSize] = useState({ width: 0, height: 0 });
  useLayoutEffect(() => {
    const element = ref.current!;
    const measure = () => {
      const style = getComputedStyle(element);
      setSize({
        width: element.clientWidth - Number.parseFloat(style.paddingLeft) - Number.parseFloat(style.paddingRight),
        height: element.clientHeight - Number.parseFloat(style.paddingTop) - Number.parseFloat(style.paddingBottom),
      });
    };
    const observer = new ResizeObserver(measure);
    observer.observe(element);
    measure();
    return () => observer.disconnect();
  }, []);
  return { ref, ...size };
}
