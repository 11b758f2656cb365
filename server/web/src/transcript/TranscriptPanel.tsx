// The transcript beside the stage: who said what and when. It follows the newest line until the reader
// scrolls up, and again when the reader comes back to the end.

import { memo, type ReactNode, useEffect, useRef } from 'react';
import { useHueClass } from '../call/hue';
import { clockTime } from './formats';
import { splitCommitted, type TranscriptLine } from './transcript';
import { LanguageSelect } from './LanguageSelect';
import { TranscriptActions } from './TranscriptActions';
import { type TranscriptStore, useTranscriptLines } from './store';

/** Lines in the page; the files hold all of them. */
const SHOWN_LIMIT = 400;

interface Props {
  transcript: TranscriptStore;
  /** Shown while there are no lines. */
  hint: ReactNode;
  /** What readers must know of the text; null when there is nothing. */
  caution: string | null;
  /** In which languages the captions can be read, besides the one spoken; none: there is no choice. */
  languages: readonly string[];
  language: string;
  onLanguage: (language: string) => void;
}

export function TranscriptPanel({ transcript, hint, caution, languages, language, onLanguage }: Props) {
  const lines = useTranscriptLines(transcript);
  const scroller = useFollowEnd(lines);
  return (
    <div className="panel-body" data-testid="transcript-panel">
      <div className="panel-scroll" ref={scroller} tabIndex={0} role="region" aria-label="Transcript lines">
        {lines.length === 0 ? (
          <p className="panel-empty">{hint}</p>
        ) : (
          <ol className="transcript">
            {lines.slice(-SHOWN_LIMIT).map((line) => <Line key={line.key} line={line} />)}
          </ol>
        )}
      </div>
      {caution && <p className="hint transcript-caution" data-testid="demonstrator">{caution}</p>}
      {languages.length > 0 && <LanguageSelect languages={languages} value={language} onChange={onLanguage} />}
      <TranscriptActions transcript={transcript} />
    </div>
  );
}

const Line = memo(function Line({ line }: { line: TranscriptLine }) {
  const hueClass = useHueClass();
  if (line.note) {
    return (
      <li className="line-note" data-testid="transcript-note">
        {line.text} <time dateTime={new Date(line.startMs).toISOString()}>{clockTime(line.startMs)}</time>
      </li>
    );
  }
  const [stays, mayChange] = splitCommitted(line);
  return (
    <li className={`line ${hueClass(line.identity)}`} data-testid="transcript-line" data-speaker={line.name} data-identity={line.identity} data-final={line.final}>
      <span className="line-head">
        <span className="line-speaker">{line.name}</span>
        <time dateTime={new Date(line.startMs).toISOString()}>{clockTime(line.startMs)}</time>
      </span>
      <span className="line-text" data-testid="transcript-text">
        {stays}
        {mayChange && <span className="may-change">{mayChange}</span>}
      </span>
    </li>
  );
});

/** Keeps a scrolling element at its end as `content` grows, unless the reader has scrolled away from it. */
export function useFollowEnd(content: unknown) {
  const element = useRef<HTMLDivElement>(null);
  const following = useRef(true);
  useEffect(() => {
    const scroller = element.current!;
    const scrolled = () => {
      following.current = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 48;
    };
    scroller.addEventListener('scroll', scrolled, { passive: true });
    return () => scroller.removeEventListener('scroll', scrolled);
  }, []);
  useEffect(() => {
    if (following.current) element.current!.scrollTop = element.current!.scrollHeight;
  }, [content]);
  return element;
}
