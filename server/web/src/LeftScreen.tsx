// After the call: why it ended, the way back, and the transcript to take along.

import type { Meeting } from './App';
import { Mark } from './icons';
import { Notice } from './Notice';
import type { Problem } from './problems';
import { TranscriptActions } from './transcript/TranscriptActions';
import { useTranscriptLines } from './transcript/store';

interface Props {
  meeting: Meeting;
  reason: Problem | null;
  problem: Problem | null;
  busy: boolean;
  onRejoin: () => void;
  onBack: () => void;
}

export function LeftScreen({ meeting, reason, problem, busy, onRejoin, onBack }: Props) {
  const lines = useTranscriptLines(meeting.transcript);
  const shown = problem ?? reason;
  return (
    <main className="left" data-testid="left-screen">
      <div className="card">
        <Mark />
        <h1>{reason ? 'The call ended' : 'You left the room'}</h1>
        <p className="muted">{meeting.admission.room}</p>
        {shown && <Notice problem={shown} />}
        <div className="left-actions">
          <button type="button" className="primary" data-testid="rejoin" onClick={onRejoin} disabled={busy} autoFocus>
            {busy ? 'Joining…' : 'Rejoin'}
          </button>
          <button type="button" onClick={onBack} disabled={busy}>
            Change name or devices
          </button>
        </div>
        {lines.length > 0 && (
          <section className="left-transcript" aria-labelledby="left-transcript-title">
            <h2 id="left-transcript-title">Transcript of this call</h2>
            <p className="muted">{lines.length === 1 ? '1 line' : `${lines.length} lines`}. It is kept nowhere else: save it now if you need it.</p>
            <TranscriptActions transcript={meeting.transcript} />
          </section>
        )}
      </div>
    </main>
  );
}
