// How the connection to the server is, for people: lost connections usually come back within seconds; after ten, people are
// told what is known and may leave.

import { useConnectionState } from '@livekit/components-react';
import { ConnectionState, type Room } from 'livekit-client';
import { createContext, useEffect, useRef, useState } from 'react';

/** fine; lost a moment ago; gone for longer than `GONE_AFTER_MS`; back a moment ago. */
export type Connection = 'fine' | 'lost' | 'gone' | 'back';

export const GONE_AFTER_MS = 10_000;
const BACK_SHOWN_MS = 2_500;

/** True while the server is gone: what it said last of anybody's connection is old. */
export const ServerGone = createContext(false);

export function useConnection(room: Room): Connection {
  const state = useConnectionState(room);
  const lost = state === ConnectionState.Reconnecting || state === ConnectionState.SignalReconnecting;
  const connected = state === ConnectionState.Connected;
  const [connection, setConnection] = useState<Connection>('fine');
  const wasLost = useRef(false);
  useEffect(() => {
    if (lost) {
      wasLost.current = true;
      setConnection('lost');
      const timer = setTimeout(() => setConnection('gone'), GONE_AFTER_MS);
      return () => clearTimeout(timer);
    }
    if (!wasLost.current || !connected) return;
    wasLost.current = false;
    setConnection('back');
    const timer = setTimeout(() => setConnection('fine'), BACK_SHOWN_MS);
    return () => clearTimeout(timer);
  }, [lost, connected]);
  return connection;
}
