// The join form: who, where, and with which devices; the preview shows and measures them before anyone else does.

import { type LocalAudioTrack, type LocalVideoTrack } from 'livekit-client';
import { type FormEvent, useEffect, useId, useState } from 'react';
import { hasMediaDevices, useDeviceList, usePreviewCamera, usePreviewMicrophone } from '../devices';
import { Mark } from '../icons';
import { DEFAULT_ROOM, type Invitation, NAME_LIMIT, readPasted } from '../invitation';
import { Notice } from '../Notice';
import { previewProblems, Problem } from '../problems';
import { demonstratorCaution, type ServerInfo } from '../server';
import { loadSettings, saveSettings } from '../settings';
import { ThemeToggle } from '../ThemeToggle';
import { DeviceSelect } from './DeviceSelect';
import { Preview } from './Preview';

export interface Choices {
  invitation: Invitation;
  name: string;
  room: string;
  camera: boolean;
  microphone: boolean;
  cameraId: string;
  microphoneId: string;
  /** Tracks of the preview, handed over; null means: open the device when joining. */
  cameraTrack: LocalVideoTrack | null;
  microphoneTrack: LocalAudioTrack | null;
}

interface Props {
  invitation: Invitation;
  info: ServerInfo | null;
  busy: boolean;
  problem: Problem | null;
  onJoin: (choices: Choices) => void;
}

export function JoinScreen({ invitation, info, busy, problem, onJoin }: Props) {
  const [settings] = useState(loadSettings);
  const [name, setName] = useState(invitation.name || settings.name);
  const [room, setRoom] = useState(invitation.room);
  const [cameraOn, setCameraOn] = useState(invitation.video && settings.cameraOn);
  const [microphoneOn, setMicrophoneOn] = useState(invitation.audio && settings.microphoneOn);
  const [cameraId, setCameraId] = useState(settings.cameraId);
  const [microphoneId, setMicrophoneId] = useState(settings.microphoneId);
  const [pasted, setPasted] = useState('');
  const [pasteProblem, setPasteProblem] = useState<Problem | null>(null);
  const nameField = useId();
  const roomField = useId();
  const linkField = useId();

  useEffect(() => setRoom(invitation.room), [invitation.room]);

  // A page that joins by itself opens its devices once, while joining.
  const camera = usePreviewCamera(cameraOn && !invitation.autojoin, cameraId);
  const microphone = usePreviewMicrophone(microphoneOn && !invitation.autojoin, microphoneId);
  const cameras = useDeviceList('videoinput', camera.track);
  const microphones = useDeviceList('audioinput', microphone.track);
  // A join that failed has used the preview's tracks up.
  const { retry: retryCamera } = camera;
  const { retry: retryMicrophone } = microphone;
  useEffect(() => {
    if (!problem) return;
    retryCamera();
    retryMicrophone();
  }, [problem, retryCamera, retryMicrophone]);
  const hasLink = Boolean(invitation.invite || invitation.token);
  const deviceProblems = previewProblems(camera.error, microphone.error);

  const paste = (text: string) => {
    setPasted(text);
    setPasteProblem(null);
    const linkedRoom = readPasted(text)?.room;
    if (linkedRoom) setRoom(linkedRoom);
  };

  const submit = (event: FormEvent) => {
    event.preventDefault();
    let admitted = invitation;
    if (!hasLink) {
      const found = readPasted(pasted);
      if (!found) {
        setPasteProblem(new Problem('That is not an invitation.', 'Paste the whole link that the server printed: it contains #invite=… .'));
        return;
      }
      admitted = { ...invitation, ...found };
    }
    saveSettings({ name, cameraId, microphoneId, cameraOn, microphoneOn });
    onJoin({
      invitation: admitted,
      name: name.trim(),
      room: room.trim() || DEFAULT_ROOM,
      camera: cameraOn && !camera.error,
      microphone: microphoneOn && !microphone.error,
      cameraId,
      microphoneId,
      cameraTrack: camera.take(),
      microphoneTrack: microphone.take(),
    });
  };

  return (
    <div className="join">
      <header className="join-head">
        <span className="brand"><Mark /> AuraLink</span>
        <ThemeToggle />
      </header>
      <main className="join-main">
        <Preview
          name={name}
          camera={camera.track}
          microphone={microphone.track}
          cameraOn={cameraOn}
          microphoneOn={microphoneOn}
          onCamera={setCameraOn}
          onMicrophone={setMicrophoneOn}
        />
        <form className="join-form" onSubmit={submit}>
          <h1>Ready to join?</h1>
          {hasLink ? null : (
            <div className="field">
              <label htmlFor={linkField}>Invitation</label>
              <input id={linkField} data-testid="join-link" value={pasted} onChange={(event) => paste(event.target.value)} required autoFocus autoComplete="off" spellCheck={false} placeholder="http://…/#invite=…" />
              <p className="hint">This address carries no invitation. Paste the link that the server printed when it started.</p>
            </div>
          )}
          <div className="field">
            <label htmlFor={nameField}>Your name</label>
            <input id={nameField} data-testid="join-name" value={name} onChange={(event) => setName(event.target.value)} required maxLength={NAME_LIMIT} autoComplete="name" autoFocus={hasLink} placeholder="How others see you" disabled={Boolean(invitation.token)} />
          </div>
          <div className="field">
            <label htmlFor={roomField}>Room</label>
            <input id={roomField} data-testid="join-room" value={room} onChange={(event) => setRoom(event.target.value)} required={!invitation.token} maxLength={NAME_LIMIT} autoComplete="off" spellCheck={false} disabled={Boolean(invitation.token)} />
          </div>
          <div className="field-pair">
            <DeviceSelect label="Microphone" devices={microphones} value={microphoneId} onChange={setMicrophoneId} disabled={!microphoneOn} testid="select-microphone" />
            <DeviceSelect label="Camera" devices={cameras} value={cameraId} onChange={setCameraId} disabled={!cameraOn} testid="select-camera" />
          </div>
          {deviceProblems.map((deviceProblem) => (
            <Notice key={deviceProblem.what} problem={deviceProblem}>
              {hasMediaDevices() && (
                <button type="button" className="small" onClick={() => { if (camera.error) retryCamera(); if (microphone.error) retryMicrophone(); }}>
                  Try again
                </button>
              )}
            </Notice>
          ))}
          {pasteProblem && <Notice problem={pasteProblem} />}
          {problem && <Notice problem={problem} />}
          <button type="submit" className="primary wide" data-testid="join-submit" disabled={busy}>
            {busy ? 'Joining…' : 'Join'}
          </button>
          <p className="hint captions-hint">{captionsHint(info)} {demonstratorCaution(info)}</p>
        </form>
      </main>
    </div>
  );
}

function captionsHint(info: ServerInfo | null): string {
  if (!info) return '';
  if (!info.captions.available) return `No captions on this server: ${info.captions.reason ?? 'it has no speech model.'}`;
  return info.captions.default
    ? 'Captions start with the room: the server turns what is said into text. You can leave yourself out at any time.'
    : 'Captions can be turned on in the room; everyone is told when they are.';
}
