// The server's HTTP interface, as far as the page uses it. Every failure becomes a `Problem` that can be shown.

import { Problem, problemFromResponse, serverUnreachable } from './problems';

export interface ServerInfo {
  name: string;
  version: string;
  captions: { available: boolean; reason: string | null; default: boolean; languages: string[]; translations: string[] };
  /** What turns speech into text; null without captions. */
  model: { name: string; demonstrator: boolean } | null;
}

export interface Admission {
  token: string;
  room: string;
  identity: string;
  name: string;
}

/** What readers must know of a model that is no product; null for any other. */
export function demonstratorCaution(info: ServerInfo | null): string | null {
  if (!info?.model?.demonstrator) return null;
  return `The speech model (${info.model.name}) is a demonstrator trained on synthetic speech: expect wrong words.`;
}

/** Null when the server behind the page is not AuraLink (a LiveKit server during development). */
export async function fetchInfo(): Promise<ServerInfo | null> {
  try {
    const response = await fetch('/api/v1/info');
    return response.ok ? ((await response.json()) as ServerInfo) : null;
  } catch {
    return null;
  }
}

/** Exchanges an invitation for an access token. The secret travels in the body, never in the address. */
export async function join(invite: string, room: string, name: string): Promise<Admission> {
  const response = await request('/api/v1/join', { method: 'POST', body: { invite, room, name } });
  const admission = (await response.json().catch(() => null)) as Partial<Admission> | null;
  if (!admission?.token) {
    throw new Problem('The server admitted you but its answer holds no token.', 'Check that page and server are of the same version, then reload the page.');
  }
  return { token: admission.token, room: admission.room ?? room, identity: admission.identity ?? '', name: admission.name ?? name };
}

/** Turns captions on or off for everyone in the room. */
export async function setRoomCaptions(room: string, token: string, enabled: boolean): Promise<void> {
  await request(`/api/v1/rooms/${encodeURIComponent(room)}/captions`, { method: 'PUT', token, body: { enabled } });
}

/** Leaves oneself out of captions, or comes back in. */
export async function setOwnCaptions(room: string, token: string, optedOut: boolean): Promise<void> {
  await request(`/api/v1/rooms/${encodeURIComponent(room)}/captions/me`, { method: 'PUT', token, body: { opted_out: optedOut } });
}

/** The language in which one reads captions; empty: as it was said. Only for somebody who is in the room. */
export async function setOwnLanguage(room: string, token: string, language: string): Promise<void> {
  await request(`/api/v1/rooms/${encodeURIComponent(room)}/captions/me`, { method: 'PUT', token, body: { language } });
}

async function request(path: string, options: { method: string; body: object; token?: string }): Promise<Response> {
  const headers: Record<string, string> = { 'Content-Type': 'application/json' };
  if (options.token) headers.Authorization = `Bearer ${options.token}`;
  let response: Response;
  try {
    response = await fetch(path, { method: options.method, headers, body: JSON.stringify(options.body) });
  } catch {
    throw serverUnreachable();
  }
  if (!response.ok) throw await problemFromResponse(response);
  return response;
}
