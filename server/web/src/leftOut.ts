// The wish to be left out of captions. The server keeps it for an identity, but whoever rejoins by an invitation gets a
// new one: so this tab keeps it too (not beyond: the next person at this computer decides anew) and says it again.

import { setOwnCaptions } from './server';

const KEY = 'auralink.left-out';

export function wantsToBeLeftOut(): boolean {
  try {
    return sessionStorage.getItem(KEY) === '1';
  } catch {
    return false;
  }
}

export function rememberLeftOut(leftOut: boolean): void {
  try {
    if (leftOut) sessionStorage.setItem(KEY, '1');
    else sessionStorage.removeItem(KEY);
  } catch {
    // Storage is forbidden: the server remembers as long as the identity stays.
  }
}

/** Tells the server, remembering first and forgetting first, so that no reconnect in between says the opposite. */
export async function sayLeftOut(room: string, token: string, leftOut: boolean): Promise<void> {
  rememberLeftOut(leftOut);
  try {
    await setOwnCaptions(room, token, leftOut);
  } catch (error) {
    rememberLeftOut(!leftOut);
    throw error;
  }
}

/** To be called before a microphone is published. */
export async function sayAgain(room: string, token: string): Promise<void> {
  if (wantsToBeLeftOut()) await setOwnCaptions(room, token, true);
}
