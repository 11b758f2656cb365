// How loud a microphone is, as a row of lights. Drawn straight into the style, 12 times a second: React need
// not know.

import { createAudioAnalyser, type LocalAudioTrack } from 'livekit-client';
import { useEffect, useRef } from 'react';

const INTERVAL_MS = 80;

export function LevelMeter({ track }: { track: LocalAudioTrack | null }) {
  const fill = useRef<HTMLSpanElement>(null);
  useEffect(() => {
    if (!track) return;
    const { calculateVolume, cleanup } = createAudioAnalyser(track, { cloneTrack: false, smoothingTimeConstant: 0.6 });
    let shown = 0;
    const timer = setInterval(() => {
      // Speech sits low on the linear scale: the square root spreads it over the meter. Fast up, slow down.
      const level = Math.min(1, Math.sqrt(calculateVolume()) * 1.4);
      shown = Math.max(level, shown * 0.8);
      fill.current?.style.setProperty('--level', shown.toFixed(3));
    }, INTERVAL_MS);
    return () => {
      clearInterval(timer);
      void cleanup();
    };
  }, [track]);
  return (
    <span className="meter" aria-hidden="true" data-testid="level-meter">
      <span className="meter-fill" ref={fill} />
    </span>
  );
}
