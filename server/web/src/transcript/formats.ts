// The transcript as files: plain text, SubRip (.srt) and WebVTT (.vtt, W3C WebVTT section 4). Pure functions.
// Cue times count from `originMs`, the moment of joining, so that they fit a recording begun with the meeting.

import type { TranscriptLine } from './transcript';

/** Shortest time that a cue stays readable, milliseconds. */
const SHORTEST_CUE_MS = 1000;

type Line = Pick<TranscriptLine, 'name' | 'text' | 'startMs' | 'endMs' | 'note'>;

export function toText(lines: readonly Line[]): string {
  return lines.map((line) => `[${clockTime(line.startMs)}] ${line.note ? '' : `${line.name}: `}${line.text}\n`).join('');
}

export function toSrt(lines: readonly Line[], originMs: number): string {
  const cues = lines.filter(isSaid).map((line, index) => {
    const [start, end] = cueTimes(line, originMs, ',');
    return `${index + 1}\n${start} --> ${end}\n${oneLine(line.name)}: ${oneLine(line.text)}\n`;
  });
  return cues.join('\n');
}

export function toVtt(lines: readonly Line[], originMs: number): string {
  const cues = lines.filter(isSaid).map((line) => {
    const [start, end] = cueTimes(line, originMs, '.');
    return `${start} --> ${end}\n<v ${escapeCue(oneLine(line.name))}>${escapeCue(oneLine(line.text))}</v>\n`;
  });
  return ['WEBVTT\n', ...cues].join('\n');
}

/** Subtitles hold what was said; the text holds also what happened. */
const isSaid = (line: Line) => !line.note;

/** Local time of day, HH:MM:SS. */
export function clockTime(ms: number): string {
  const date = new Date(ms);
  return [date.getHours(), date.getMinutes(), date.getSeconds()].map((part) => String(part).padStart(2, '0')).join(':');
}

/** `transcript-lobby-2026-11-21-1502.srt`, safe on every file system. */
export function fileName(room: string, atMs: number, extension: 'txt' | 'srt' | 'vtt'): string {
  const date = new Date(atMs);
  const pad = (part: number) => String(part).padStart(2, '0');
  const day = `${date.getFullYear()}-${pad(date.getMonth() + 1)}-${pad(date.getDate())}`;
  const safe = room.replace(/[^\p{L}\p{N}]+/gu, '-').replace(/^-|-$/g, '').slice(0, 60) || 'room';
  return `transcript-${safe}-${day}-${pad(date.getHours())}${pad(date.getMinutes())}.${extension}`;
}

function cueTimes(line: Line, originMs: number, point: ',' | '.'): [string, string] {
  const start = Math.max(0, line.startMs - originMs);
  const end = Math.max(start + SHORTEST_CUE_MS, line.endMs - originMs);
  return [cueTime(start, point), cueTime(end, point)];
}

function cueTime(ms: number, point: ',' | '.'): string {
  const whole = Math.round(ms);
  const pad = (part: number, digits: number) => String(part).padStart(digits, '0');
  const hours = pad(Math.floor(whole / 3_600_000), 2);
  const minutes = pad(Math.floor(whole / 60_000) % 60, 2);
  const seconds = pad(Math.floor(whole / 1000) % 60, 2);
  return `${hours}:${minutes}:${seconds}${point}${pad(whole % 1000, 3)}`;
}

/** An empty line ends a cue and an arrow begins one, in both formats. */
function oneLine(text: string): string {
  return text.replace(/\s+/g, ' ').replaceAll('-->', '→').trim();
}

function escapeCue(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');
}
