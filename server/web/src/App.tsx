// The page's flow: join form -> call -> leave screen -> (rejoin) call. This file owns what outlives a screen:
// the invitation, the LiveKit room and the transcript.

import { type LocalTrack, Room, RoomEvent, Track, VideoPresets } from 'livekit-client';
import { useCallback, useEffect, useRef, useState } from 'react';
import { CallScreen } from './call/CallScreen';
import { Hues } from './call/hue';
import { hasMediaDevices, openCamera, openMicrophone } from './devices';
import { parseFragment } from './invitation';
import { type Choices, JoinScreen } from './join/JoinScreen';
import { LeftScreen } from './LeftScreen';
import { sayAgain } from './leftOut';
import { connectProblem, departure, deviceProblem, leftOutUnsaid, listenOnly, Problem } from './problems';
import { type Admission, fetchInfo, join, type ServerInfo } from './server';
import { loadSettings } from './settings';
import { TranscriptStore } from './transcript/store';

export interface Meeting {
  room: Room;
  admission: Admission;
  transcript: TranscriptStore;
  hues: Hues;
  /** What went wrong while camera and microphone were published. */
  problems: Problem[];
}

type Screen =
  | { at: 'join'; problem: Problem | null; busy: boolean }
  | { at: 'call'; meeting: Meeting }
  | { at: 'left'; meeting: Meeting; reason: Problem | null; busy: boolean; problem: Problem | null };

export function App() {
  const [invitation, setInvitation] = useState(() => parseFragment(location.hash));
  const [info, setInfo] = useState<ServerInfo | null>(null);
  const [screen, setScreen] = useState<Screen>({ at: 'join', problem: null, busy: invitation.autojoin });
  const lastChoices = useRef<Choices | null>(null);

  useEffect(() => void fetchInfo().then(setInfo), []);
  useEffect(() => {
    const changed = () => setInvitation(parseFragment(location.hash));
    addEventListener('hashchange', changed);
    return () => removeEventListener('hashchange', changed);
  }, []);

  const enter = useCallback(async (choices: Choices) => {
    lastChoices.current = { ...choices, cameraTrack: null, microphoneTrack: null };
    setScreen((screen) => (screen.at === 'call' ? screen : { ...screen, busy: true, problem: null }));
    try {
      const meeting = await connect(choices);
      meeting.room.once(RoomEvent.Disconnected, (reason) => {
        meeting.transcript.detach(meeting.room);
        setScreen({ at: 'left', meeting, reason: departure(reason), busy: false, problem: null });
      });
      setScreen({ at: 'call', meeting });
      const problems = await publish(meeting, choices);
      if (problems.length > 0) {
        setScreen((screen) => (screen.at === 'call' && screen.meeting === meeting ? { at: 'call', meeting: { ...meeting, problems } } : screen));
      }
    } catch (error) {
      choices.cameraTrack?.stop();
      choices.microphoneTrack?.stop();
      const problem = connectProblem(error);
      setScreen((screen) => (screen.at === 'call' ? screen : { ...screen, busy: false, problem }));
    }
  }, []);

  const roomName = screen.at === 'call' ? screen.meeting.admission.room : null;
  useEffect(() => {
    document.title = roomName ? `${roomName} · AuraLink` : 'AuraLink';
  }, [roomName]);

  const autojoined = useRef(false);
  useEffect(() => {
    if (!invitation.autojoin || autojoined.current) return;
    autojoined.current = true;
    const settings = loadSettings();
    void enter({
      invitation,
      name: invitation.name || settings.name || 'Guest',
      room: invitation.room,
      camera: invitation.video,
      microphone: invitation.audio,
      cameraId: settings.cameraId,
      microphoneId: settings.microphoneId,
      cameraTrack: null,
      microphoneTrack: null,
    });
  }, [invitation, enter]);

  switch (screen.at) {
    case 'join':
      return <JoinScreen invitation={invitation} info={info} busy={screen.busy} problem={screen.problem} onJoin={enter} />;
    case 'call':
      return <CallScreen meeting={screen.meeting} info={info} invite={invitation.invite} />;
    case 'left':
      return (
        <LeftScreen
          meeting={screen.meeting}
          reason={screen.reason}
          problem={screen.problem}
          busy={screen.busy}
          onRejoin={() => lastChoices.current && void enter(lastChoices.current)}
          onBack={() => {
            setInvitation({ ...invitation, autojoin: false });
            setScreen({ at: 'join', problem: null, busy: false });
          }}
        />
      );
  }
}

async function connect(choices: Choices): Promise<Meeting> {
  const { invitation, name, room: roomName } = choices;
  let admission: Admission;
  if (invitation.token) admission = { token: invitation.token, room: roomName, identity: '', name };
  else if (invitation.invite) admission = await join(invitation.invite, roomName, name);
  else throw new Problem('This link carries no invitation.', 'Open the link that the server printed: it ends in #invite=… .');

  const settings = loadSettings();
  const room = new Room({
    adaptiveStream: true,
    dynacast: true,
    videoCaptureDefaults: { resolution: VideoPresets.h720.resolution, ...(choices.cameraId && { deviceId: choices.cameraId }) },
    audioCaptureDefaults: { ...(choices.microphoneId && { deviceId: choices.microphoneId }) },
    audioOutput: { ...(settings.speakerId && { deviceId: settings.speakerId }) },
  });
  const transcript = new TranscriptStore(admission.room);
  transcript.attach(room);
  const hues = new Hues();
  hues.follow(room);
  await room.connect(invitation.url ?? location.origin, admission.token);
  admission = { ...admission, identity: room.localParticipant.identity };
  return { room, admission, transcript, hues, problems: [] };
}

/** Joining never fails for want of a device: each is published by itself, and what failed is told. */
async function publish({ room, admission }: Meeting, choices: Choices): Promise<Problem[]> {
  if (room.localParticipant.permissions?.canPublish === false) {
    choices.cameraTrack?.stop();
    choices.microphoneTrack?.stop();
    return choices.camera || choices.microphone ? [listenOnly()] : [];
  }
  const problems: Problem[] = [];
  const publishOne = async (device: 'camera' | 'microphone', open: () => Promise<LocalTrack>, source: Track.Source) => {
    let track: LocalTrack | null = null;
    try {
      track = await open();
      await room.localParticipant.publishTrack(track, { source });
    } catch (error) {
      track?.stop();
      problems.push(deviceProblem(device, error));
    }
  };
  const wanted = hasMediaDevices();
  let mayBeHeard = true;
  try {
    await sayAgain(admission.room, admission.token);
  } catch {
    mayBeHeard = false;
    choices.microphoneTrack?.stop();
    if (choices.microphone) problems.push(leftOutUnsaid());
  }
  // The microphone goes first: being heard matters before being seen.
  if (mayBeHeard && choices.microphone && (choices.microphoneTrack || wanted)) {
    await publishOne('microphone', async () => choices.microphoneTrack ?? openMicrophone(choices.microphoneId), Track.Source.Microphone);
  }
  if (choices.camera && (choices.cameraTrack || wanted)) {
    await publishOne('camera', async () => choices.cameraTrack ?? openCamera(choices.cameraId), Track.Source.Camera);
  }
  return problems;
}
