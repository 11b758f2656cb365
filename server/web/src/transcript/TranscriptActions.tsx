// Copy and download of a transcript, in three formats.

import { useState } from 'react';
import { CopyIcon, DownloadIcon } from '../icons';
import { fileName, toSrt, toText, toVtt } from './formats';
import { type TranscriptStore, useTranscriptLines } from './store';

const FORMATS = {
  txt: { type: 'text/plain', label: 'text', write: (store: TranscriptStore) => toText(store.getLines()) },
  srt: { type: 'application/x-subrip', label: 'SubRip subtitles', write: (store: TranscriptStore) => toSrt(store.getLines(), store.originMs) },
  vtt: { type: 'text/vtt', label: 'WebVTT subtitles', write: (store: TranscriptStore) => toVtt(store.getLines(), store.originMs) },
} as const;

export function TranscriptActions({ transcript }: { transcript: TranscriptStore }) {
  const empty = useTranscriptLines(transcript).length === 0;
  const [told, setTold] = useState('');

  const copy = async () => {
    const copied = await copyText(toText(transcript.getLines()));
    setTold(copied ? 'Copied.' : 'The browser does not allow copying here: download the text instead.');
  };
  return (
    <div className="transcript-actions">
      <button type="button" data-testid="transcript-copy" disabled={empty} onClick={() => void copy()}>
        <CopyIcon /> Copy
      </button>
      <span className="button-group" role="group" aria-label="Download the transcript">
        <DownloadIcon />
        {(Object.keys(FORMATS) as (keyof typeof FORMATS)[]).map((extension) => (
          <button
            key={extension}
            type="button"
            data-testid={`transcript-download-${extension}`}
            disabled={empty}
            title={`Download as ${FORMATS[extension].label}`}
            aria-label={`.${extension}: ${FORMATS[extension].label}`}
            onClick={() => download(FORMATS[extension].write(transcript), FORMATS[extension].type, fileName(transcript.roomName, Date.now(), extension))}
          >
            .{extension}
          </button>
        ))}
      </span>
      <span className="told" role="status">{told}</span>
    </div>
  );
}

/** The clipboard interface exists in secure contexts only; false where copying is refused. */
export async function copyText(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false;
  }
}

function download(text: string, type: string, name: string): void {
  const url = URL.createObjectURL(new Blob([text], { type: `${type};charset=utf-8` }));
  const anchor = document.createElement('a');
  anchor.href = url;
  anchor.download = name;
  anchor.click();
  // Safari reads the blob after the click returns.
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
