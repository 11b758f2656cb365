// What the others will see and hear: own camera, mirrored, and the microphone's level.

import type { LocalAudioTrack, LocalVideoTrack } from 'livekit-client';
import { useEffect, useRef } from 'react';
import { hueClass, initials } from '../call/hue';
import { CameraIcon, CameraOffIcon, MicrophoneIcon, MicrophoneOffIcon } from '../icons';
import { LevelMeter } from '../LevelMeter';

interface Props {
  name: string;
  camera: LocalVideoTrack | null;
  microphone: LocalAudioTrack | null;
  cameraOn: boolean;
  microphoneOn: boolean;
  onCamera: (on: boolean) => void;
  onMicrophone: (on: boolean) => void;
}

export function Preview({ name, camera, microphone, cameraOn, microphoneOn, onCamera, onMicrophone }: Props) {
  const video = useRef<HTMLVideoElement>(null);
  useEffect(() => {
    const element = video.current;
    if (!camera || !element) return;
    camera.attach(element);
    return () => void camera.detach(element);
  }, [camera]);
  return (
    <section className={`preview ${hueClass(name)}`} aria-label="Preview of camera and microphone">
      <video ref={video} className="mirrored" muted playsInline autoPlay hidden={!camera} data-testid="preview-video" />
      {!camera && (
        <div className="preview-off">
          <span className="avatar" aria-hidden="true">{name.trim() ? initials(name) : <CameraOffIcon />}</span>
          <p>{cameraOn ? 'No picture from the camera' : 'Camera is off'}</p>
        </div>
      )}
      <div className="preview-bar">
        <button type="button" className="round glass" aria-pressed={microphoneOn} aria-label={microphoneOn ? 'Turn the microphone off' : 'Turn the microphone on'} data-testid="preview-mic" onClick={() => onMicrophone(!microphoneOn)}>
          {microphoneOn ? <MicrophoneIcon /> : <MicrophoneOffIcon />}
        </button>
        <LevelMeter track={microphone} />
        <button type="button" className="round glass" aria-pressed={cameraOn} aria-label={cameraOn ? 'Turn the camera off' : 'Turn the camera on'} data-testid="preview-cam" onClick={() => onCamera(!cameraOn)}>
          {cameraOn ? <CameraIcon /> : <CameraOffIcon />}
        </button>
      </div>
    </section>
  );
}
