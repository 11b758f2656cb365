// What the page remembers between visits, on this device only. Storage may be forbidden (private windows):
// then nothing is remembered and everything else works.

export interface Settings {
  name: string;
  cameraOn: boolean;
  microphoneOn: boolean;
  cameraId: string;
  microphoneId: string;
  speakerId: string;
  theme: Theme;
  /** Whether captions lie over the tiles; the transcript fills either way. */
  captionsOverTiles: boolean;
  /** The language in which captions are read where the server can translate; empty: as it was said. */
  captionsLanguage: string;
  /** Whether one letter alone does something (WCAG 2.1.4: such keys can be turned off). */
  letterKeys: boolean;
}

export type Theme = 'system' | 'light' | 'dark';

const KEY = 'auralink.settings';

const DEFAULTS: Settings = {
  name: '',
  cameraOn: true,
  microphoneOn: true,
  cameraId: '',
  microphoneId: '',
  speakerId: '',
  theme: 'system',
  captionsOverTiles: true,
  captionsLanguage: '',
  letterKeys: true,
};

export function loadSettings(): Settings {
  try {
    return { ...DEFAULTS, ...(JSON.parse(localStorage.getItem(KEY) ?? '{}') as Partial<Settings>) };
  } catch {
    return { ...DEFAULTS };
  }
}

export function saveSettings(change: Partial<Settings>): Settings {
  const settings = { ...loadSettings(), ...change };
  try {
    localStorage.setItem(KEY, JSON.stringify(settings));
  } catch {
    // Not remembered; nothing else depends on it.
  }
  return settings;
}

export function applyTheme(theme: Theme): void {
  if (theme === 'system') delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
}
