// Devices and settings during a call. A native dialog: it keeps the focus and closes with Escape.

import { useLocalParticipant } from '@livekit/components-react';
import type { LocalAudioTrack, Room } from 'livekit-client';
import { useEffect, useRef, useState } from 'react';
import { useDeviceList } from '../devices';
import { CloseIcon } from '../icons';
import { DeviceSelect } from '../join/DeviceSelect';
import { LevelMeter } from '../LevelMeter';
import { type Device, deviceProblem, type Problem } from '../problems';
import { saveSettings, type Settings } from '../settings';
import { ThemeToggle } from '../ThemeToggle';

interface Props {
  room: Room;
  settings: Settings;
  onSettings: (settings: Settings) => void;
  onClose: () => void;
  tell: (problem: Problem) => void;
}

export function SettingsDialog({ room, settings, onSettings, onClose, tell }: Props) {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => dialog.current?.showModal(), []);

  const cameras = useDeviceList('videoinput');
  const microphones = useDeviceList('audioinput');
  const speakers = useDeviceList('audiooutput');
  const [active, setActive] = useState({
    audioinput: room.getActiveDevice('audioinput') ?? '',
    videoinput: room.getActiveDevice('videoinput') ?? '',
    audiooutput: room.getActiveDevice('audiooutput') ?? '',
  });
  const { microphoneTrack } = useLocalParticipant({ room });
  const microphone = (microphoneTrack?.isMuted ? null : (microphoneTrack?.track ?? null)) as LocalAudioTrack | null;

  const choose = async (kind: keyof typeof active, device: Device | null, deviceId: string) => {
    const key = ({ audioinput: 'microphoneId', videoinput: 'cameraId', audiooutput: 'speakerId' } as const)[kind];
    try {
      await room.switchActiveDevice(kind, deviceId || 'default', Boolean(deviceId));
      setActive({ ...active, [kind]: deviceId });
      onSettings(saveSettings({ [key]: deviceId }));
    } catch (error) {
      if (device) tell(deviceProblem(device, error));
      onClose();
    }
  };

  // Loudspeakers can be chosen where the browser allows it.
  const canChooseSpeaker = 'setSinkId' in HTMLMediaElement.prototype;
  return (
    <dialog ref={dialog} className="dialog" aria-labelledby="settings-title" onClose={onClose} data-testid="settings">
      <div className="dialog-head">
        <h2 id="settings-title">Devices and settings</h2>
        <button type="button" className="quiet round" aria-label="Close" onClick={() => dialog.current?.close()}>
          <CloseIcon />
        </button>
      </div>
      <DeviceSelect label="Microphone" devices={microphones} value={active.audioinput} onChange={(id) => void choose('audioinput', 'microphone', id)} testid="select-microphone" />
      <LevelMeter track={microphone} />
      <DeviceSelect label="Camera" devices={cameras} value={active.videoinput} onChange={(id) => void choose('videoinput', 'camera', id)} testid="select-camera" />
      {canChooseSpeaker && (
        <DeviceSelect label="Loudspeaker" devices={speakers} value={active.audiooutput} onChange={(id) => void choose('audiooutput', null, id)} testid="select-speaker" />
      )}
      <label className="check">
        <input type="checkbox" data-testid="captions-over-tiles" checked={settings.captionsOverTiles} onChange={(event) => onSettings(saveSettings({ captionsOverTiles: event.target.checked }))} />
        <span>
          Show captions over the pictures
          <small>The transcript fills either way. This is for you alone.</small>
        </span>
      </label>
      <label className="check">
        <input type="checkbox" data-testid="letter-keys" checked={settings.letterKeys} onChange={(event) => onSettings(saveSettings({ letterKeys: event.target.checked }))} />
        <span>
          Keys of one letter
          <small>
            <kbd>M</kbd> microphone, <kbd>V</kbd> camera, <kbd>S</kbd> share screen, <kbd>C</kbd> captions for everyone, <kbd>T</kbd> transcript,{' '}
            <kbd>H</kbd> chat, <kbd>D</kbd> this window. Turn them off if you speak to your computer. <kbd>Esc</kbd> closes either way.
          </small>
        </span>
      </label>
      <div className="dialog-row">
        <span>Colours</span>
        <ThemeToggle />
      </div>
    </dialog>
  );
}
