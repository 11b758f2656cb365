// What a link says: everything after `#`. The fragment never leaves the browser by itself, so the secret in
// it reaches the server only in the body of the join request.
//
//   #invite=SECRET[&room=NAME]        the link that the server prints
//   #token=JWT[&url=ws://HOST:PORT]   a ready access token (also for another LiveKit server)
//   &name=Ana &autojoin=1             for kiosks and tests: fills the name in; joins without a click
//   &video=0 &audio=0                 starts without camera or microphone

export interface Invitation {
  /** Secret of the invitation; exchanged for a token by `POST /api/v1/join`. */
  invite: string | null;
  /** Ready access token; takes the place of an invitation. */
  token: string | null;
  /** WebSocket address that the token is for; null means the server that served this page. */
  url: string | null;
  room: string;
  name: string;
  autojoin: boolean;
  video: boolean;
  audio: boolean;
}

export const DEFAULT_ROOM = 'lobby';
/** LiveKit's limit on names of rooms and participants, in characters. */
export const NAME_LIMIT = 256;

export function parseFragment(fragment: string): Invitation {
  const fields = new URLSearchParams(fragment.replace(/^#/, ''));
  const text = (key: string) => fields.get(key)?.trim() || null;
  const token = text('token');
  const claims = token ? readToken(token) : null;
  return {
    invite: text('invite'),
    token,
    url: webSocketUrl(text('url')),
    room: (claims?.room ?? text('room') ?? (token ? '' : DEFAULT_ROOM)).slice(0, NAME_LIMIT),
    name: (text('name') ?? claims?.name ?? '').slice(0, NAME_LIMIT),
    autojoin: fields.get('autojoin') === '1',
    video: fields.get('video') !== '0',
    audio: fields.get('audio') !== '0',
  };
}

/** Accepts a pasted link or the bare secret; null when it can be neither. */
export function readPasted(text: string): Partial<Pick<Invitation, 'invite' | 'token' | 'room'>> | null {
  const pasted = text.trim();
  const hash = pasted.indexOf('#');
  if (hash >= 0) {
    const { invite, token, room } = parseFragment(pasted.slice(hash));
    return invite || token ? { invite, token, room } : null;
  }
  return /^[\w.~+/=-]{4,512}$/.test(pasted) ? { invite: pasted } : null;
}

/** The link to hand to others: the same invitation and this room, none of the reader's own settings. */
export function shareLink(origin: string, invite: string, room: string): string {
  return `${origin}/#${new URLSearchParams({ invite, room })}`;
}

interface TokenClaims {
  room: string | null;
  name: string | null;
  /** Seconds since 1970. */
  expires: number | null;
}

/** Reads an access token without verifying it (the server does that); null if it is not a JWT. */
export function readToken(token: string): TokenClaims | null {
  try {
    const body = token.split('.')[1]!.replace(/-/g, '+').replace(/_/g, '/');
    const bytes = Uint8Array.from(atob(body), (character) => character.charCodeAt(0));
    const claims = JSON.parse(new TextDecoder().decode(bytes)) as {
      name?: unknown; sub?: unknown; exp?: unknown; video?: { room?: unknown };
    };
    const string = (value: unknown) => (typeof value === 'string' && value ? value : null);
    return {
      room: string(claims.video?.room),
      name: string(claims.name) ?? string(claims.sub),
      expires: typeof claims.exp === 'number' ? claims.exp : null,
    };
  } catch {
    return null;
  }
}

function webSocketUrl(url: string | null): string | null {
  return url && /^(wss?|https?):\/\//.test(url) ? url : null;
}
