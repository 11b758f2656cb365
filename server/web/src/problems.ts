// Everything that can go wrong, said in two parts: what happened, and what to do about it. No raw error text
// of a browser or library reaches the page on its own.

import { ConnectionError, ConnectionErrorReason, DisconnectReason, PublishTrackError } from 'livekit-client';

export class Problem extends Error {
  constructor(
    /** What happened, one sentence. */
    readonly what: string,
    /** What to do, one or two sentences; empty when `what` says it already. */
    readonly todo: string = '',
  ) {
    super(todo ? `${what} ${todo}` : what);
    this.name = 'Problem';
  }
}

export type Device = 'camera' | 'microphone';

const here = () => globalThis.location?.host || 'the server';

export function serverUnreachable(): Problem {
  return new Problem(`The server at ${here()} does not answer.`, 'Check that it is running and that this computer is connected, then try again.');
}

/** AuraLink answers `{"error":{"code","message"}}`: a sentence on what happened, then what to do. */
export async function problemFromResponse(response: Response): Promise<Problem> {
  const body = (await response.json().catch(() => null)) as { error?: { message?: unknown } } | null;
  const message = body?.error?.message;
  if (typeof message === 'string' && message) {
    const [what, ...todo] = message.slice(0, 500).split(/(?<=[.!?])\s+/);
    return new Problem(what!, todo.join(' '));
  }
  if (response.status === 401 || response.status === 403) {
    return new Problem('The server refused this link.', 'It may have expired: open the newest link that the server printed, or ask for a new one.');
  }
  if (response.status === 404) {
    return new Problem('This server does not know that request (404).', 'The page expects an AuraLink server: open the address that the server printed.');
  }
  if (response.status === 429) return new Problem('The server is asked too often.', 'Wait a minute, then try again.');
  return new Problem(`The server answered with status ${response.status}.`, 'Try again; if it happens again, look into the server’s log.');
}

/** `navigator.mediaDevices` exists only in a secure context (https, or http on localhost). */
export function insecureOrigin(): Problem {
  return new Problem(
    'This address is not secure, so the browser gives it no camera and no microphone.',
    'Start the server with --tls self-signed and open its https:// address, or open the page on the server’s own machine as http://localhost.',
  );
}

/** Why a camera or microphone, or both, could not be opened (names of W3C Media Capture, section 10.3). */
export function deviceProblem(device: Device | 'both', error: unknown): Problem {
  if (error instanceof Problem) return error;
  if (error instanceof PublishTrackError) {
    return new Problem(`The server did not take the ${device === 'both' ? 'camera or microphone' : device} in.`, 'Turn it off and on again; if that does not help, leave and rejoin.');
  }
  const both = device === 'both';
  const subject = both ? 'camera and microphone' : device;
  const them = both ? 'them' : `the ${device}`;
  switch (error instanceof Error ? error.name : '') {
    case 'NotAllowedError':
    case 'SecurityError':
      return new Problem(
        both ? 'Camera and microphone are blocked for this page.' : `The ${device} is blocked for this page.`,
        `Press the sign beside the address (a lock, sliders or a ${both ? 'camera' : device}), allow ${them}, then try again.`,
      );
    case 'NotFoundError':
    case 'DevicesNotFoundError':
      return new Problem(`No ${both ? 'camera and no microphone were' : `${device} was`} found.`, 'Connect one and try again.');
    case 'NotReadableError':
    case 'TrackStartError':
    case 'AbortError':
      return new Problem(
        both ? 'Camera and microphone are there but do not start.' : `The ${device} is there but does not start.`,
        `Close other programs that use ${both ? 'them' : 'it'}, then try again.`,
      );
    case 'OverconstrainedError':
      return new Problem(`The ${subject} chosen before ${both ? 'are' : 'is'} not connected.`, 'Choose another one.');
    default:
      return new Problem(`The ${subject} could not be started.`, 'Choose another one, or reload the page.');
  }
}

/** The same for the join form: one notice where both failed for one reason, and the way on. */
export function previewProblems(cameraError: unknown, microphoneError: unknown): Problem[] {
  const reason = (error: unknown) => (error instanceof Problem ? error.what : error instanceof Error ? error.name : '');
  const problems =
    cameraError && microphoneError && reason(cameraError) === reason(microphoneError)
      ? [deviceProblem('both', cameraError)]
      : [cameraError && deviceProblem('camera', cameraError), microphoneError && deviceProblem('microphone', microphoneError)];
  return problems.filter((problem) => problem instanceof Problem).map((problem) => new Problem(problem.what, `${problem.todo} Or join without, and listen.`));
}

export function connectProblem(error: unknown): Problem {
  if (error instanceof Problem) return error;
  if (error instanceof ConnectionError) {
    // livekit-client gives some refusals the reason of a silent server, but keeps their status.
    if (error.reason === ConnectionErrorReason.NotAllowed || error.status === 401 || error.status === 403) return tokenRefused(error);
    switch (error.reason) {
      case ConnectionErrorReason.ServerUnreachable:
      case ConnectionErrorReason.WebSocket:
        return serverUnreachable();
      case ConnectionErrorReason.Timeout:
        return new Problem(`The server at ${here()} took too long to answer.`, 'Try again; if the network is slow, move closer to it.');
      case ConnectionErrorReason.Cancelled:
        return new Problem('Joining was cancelled.', 'Try again when you are ready.');
      case ConnectionErrorReason.LeaveRequest:
        return departure(error.context as DisconnectReason | undefined) ?? new Problem('The server ended the connection while you were joining.', 'Try again.');
      default:
        break;
    }
    // Signalling worked and media did not: the usual cause is a firewall between here and the UDP port.
    return new Problem(
      'The server answered, but no media connection came about.',
      'A firewall may block its UDP port (7882 unless configured otherwise): allow it, then try again.',
    );
  }
  return new Problem('Joining failed.', 'Reload the page and try again; if it happens again, look into the server’s log.');
}

function tokenRefused(error: ConnectionError): Problem {
  // The server's own sentence, without what the library wraps around it and without the token itself.
  const sentence = error.message.replace(/^.*signal connection: /, '').replace(/^.*, error: /, '').replace(/eyJ[\w.=-]*/g, '…').trim().replace(/\.$/, '');
  return new Problem(
    `The server refused the access token${sentence ? `: ${sentence.slice(0, 200)}` : ''}.`,
    'Open the newest link that the server printed, or ask for a new one.',
  );
}

/** A token may admit someone who may only watch. */
export function listenOnly(): Problem {
  return new Problem('Your link lets you watch and listen only.', 'Ask for a link that lets you speak.');
}

/** Who may only watch does not decide for those who speak. */
export function captionsAreOthers(): Problem {
  return new Problem('Your link lets you watch and listen only: captions are turned on and off by those who may speak.', 'Ask one of them.');
}

/** The server could not be told of a wish that this tab remembers. */
export function leftOutUnsaid(): Problem {
  return new Problem('You asked to be left out of captions, and the server could not be told again.', 'Turn the microphone on only if you may be captioned, or press “Leave me out” first.');
}

/** Why the meeting ended here; null when one left on one’s own. */
export function departure(reason: DisconnectReason | undefined): Problem | null {
  switch (reason) {
    case DisconnectReason.CLIENT_INITIATED:
      return null;
    case DisconnectReason.DUPLICATE_IDENTITY:
      return new Problem('You joined this room from somewhere else.', 'That other window goes on; close it before you rejoin here.');
    case DisconnectReason.SERVER_SHUTDOWN:
      return new Problem('The server is shutting down.', 'Rejoin once it is running again.');
    case DisconnectReason.PARTICIPANT_REMOVED:
      return new Problem('You were removed from the room.', 'Ask the host before you rejoin.');
    case DisconnectReason.ROOM_DELETED:
    case DisconnectReason.ROOM_CLOSED:
      return new Problem('The room was closed.', 'Rejoin to open it again.');
    case DisconnectReason.JOIN_FAILURE:
    case DisconnectReason.CONNECTION_TIMEOUT:
    case DisconnectReason.MEDIA_FAILURE:
      return new Problem('The media connection failed.', 'A firewall may block the server’s UDP port (7882 unless configured otherwise): allow it, then rejoin.');
    case DisconnectReason.STATE_MISMATCH:
      return new Problem('The server no longer knows this connection.', 'It may have been restarted: rejoin.');
    default:
      return new Problem(`The connection to ${here()} was lost.`, 'Check that the server is running and that this computer is connected, then rejoin.');
  }
}

/** Why the screen could not be shared; null when the person closed the browser’s chooser. */
export function screenShareProblem(error: unknown): Problem | null {
  const name = error instanceof Error ? error.name : '';
  if (name === 'NotAllowedError' || name === 'AbortError') return null;
  return new Problem('The screen could not be shared.', 'Allow screen recording for this browser in the system’s settings, then try again.');
}
