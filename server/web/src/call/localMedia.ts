// Own microphone, camera and screen: what is on, and switching it with what may go wrong said.

import { useLocalParticipant } from '@livekit/components-react';
import type { Room } from 'livekit-client';
import { useState } from 'react';
import { hasMediaDevices } from '../devices';
import { deviceProblem, insecureOrigin, listenOnly, type Problem, screenShareProblem } from '../problems';

export interface LocalMedia {
  microphone: boolean;
  camera: boolean;
  screen: boolean;
  pending: boolean;
  canShareScreen: boolean;
  toggleMicrophone: () => void;
  toggleCamera: () => void;
  toggleScreen: () => void;
}

export function useLocalMedia(room: Room, tell: (problem: Problem) => void): LocalMedia {
  const { localParticipant, isMicrophoneEnabled, isCameraEnabled, isScreenShareEnabled } = useLocalParticipant({ room });
  const [pending, setPending] = useState(false);
  const change = async (action: () => Promise<unknown>, explain: (error: unknown) => Problem | null) => {
    if (pending) return;
    if (localParticipant.permissions?.canPublish === false) return tell(listenOnly());
    if (!hasMediaDevices()) return tell(insecureOrigin());
    setPending(true);
    try {
      await action();
    } catch (error) {
      const problem = explain(error);
      if (problem) tell(problem);
    } finally {
      setPending(false);
    }
  };
  return {
    microphone: isMicrophoneEnabled,
    camera: isCameraEnabled,
    screen: isScreenShareEnabled,
    pending,
    canShareScreen: hasMediaDevices() && 'getDisplayMedia' in navigator.mediaDevices,
    toggleMicrophone: () =>
      void change(() => localParticipant.setMicrophoneEnabled(!isMicrophoneEnabled), (error) => deviceProblem('microphone', error)),
    toggleCamera: () => void change(() => localParticipant.setCameraEnabled(!isCameraEnabled), (error) => deviceProblem('camera', error)),
    toggleScreen: () => void change(() => localParticipant.setScreenShareEnabled(!isScreenShareEnabled, { audio: true }), screenShareProblem),
  };
}
