// Cameras, microphones and loudspeakers of this computer: what there is, what is chosen, and a track of the
// chosen one to look at or listen to before joining.

import { createLocalAudioTrack, createLocalVideoTrack, type LocalAudioTrack, type LocalVideoTrack, Room, VideoPresets } from 'livekit-client';
import { useCallback, useEffect, useState } from 'react';
import { insecureOrigin } from './problems';

/** False on a page that is neither https nor localhost. */
export const hasMediaDevices = () => typeof navigator !== 'undefined' && Boolean(navigator.mediaDevices?.getUserMedia);

/** `refresh`: anything that changes when a permission may have been given; labels are empty before. */
export function useDeviceList(kind: MediaDeviceKind, refresh?: unknown): MediaDeviceInfo[] {
  const [devices, setDevices] = useState<MediaDeviceInfo[]>([]);
  useEffect(() => {
    if (!hasMediaDevices()) return;
    let current = true;
    const list = () =>
      Room.getLocalDevices(kind, false)
        .then((found) => current && setDevices(found.filter((device) => device.deviceId)))
        .catch(() => current && setDevices([]));
    void list();
    navigator.mediaDevices.addEventListener('devicechange', list);
    return () => {
      current = false;
      navigator.mediaDevices.removeEventListener('devicechange', list);
    };
  }, [kind, refresh]);
  return devices;
}

export interface Preview<T> {
  track: T | null;
  /** What `getUserMedia` failed with, or that it is missing; null while all is well. */
  error: unknown;
  retry: () => void;
  /** Gives the track away: it will not be stopped when the preview ends. */
  take: () => T | null;
}

export const usePreviewCamera = (on: boolean, deviceId: string) => usePreview<LocalVideoTrack>(on, deviceId, openCamera);
export const usePreviewMicrophone = (on: boolean, deviceId: string) => usePreview<LocalAudioTrack>(on, deviceId, openMicrophone);

export const openCamera = (deviceId: string) =>
  createLocalVideoTrack({ resolution: VideoPresets.h720.resolution, ...(deviceId && { deviceId }) });
export const openMicrophone = (deviceId: string) => createLocalAudioTrack(deviceId ? { deviceId } : {});

function usePreview<T extends LocalVideoTrack | LocalAudioTrack>(
  on: boolean,
  deviceId: string,
  open: (deviceId: string) => Promise<T>,
): Preview<T> {
  const [track, setTrack] = useState<T | null>(null);
  const [error, setError] = useState<unknown>(null);
  const [attempt, setAttempt] = useState(0);
  const [taken] = useState(() => new Set<T>());

  useEffect(() => {
    setError(null);
    if (!on) return;
    if (!hasMediaDevices()) {
      setError(insecureOrigin());
      return;
    }
    let current = true;
    let opened: T | null = null;
    open(deviceId)
      .then((track) => {
        if (!current) return track.stop();
        opened = track;
        setTrack(track);
      })
      .catch((error: unknown) => current && setError(error ?? new Error('unknown')));
    return () => {
      current = false;
      if (opened && !taken.has(opened)) opened.stop();
      setTrack(null);
    };
  }, [on, deviceId, open, attempt, taken]);

  const retry = useCallback(() => setAttempt((count) => count + 1), []);
  const take = useCallback(() => {
    if (track) taken.add(track);
    return track;
  }, [track, taken]);
  return { track, error, retry, take };
}
