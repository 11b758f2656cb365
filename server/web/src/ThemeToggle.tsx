// System, light, dark: one button that goes round.

import { useState } from 'react';
import { MoonIcon, SunIcon, SystemThemeIcon } from './icons';
import { applyTheme, loadSettings, saveSettings, type Theme } from './settings';

const NEXT: Record<Theme, Theme> = { system: 'light', light: 'dark', dark: 'system' };
const LABEL: Record<Theme, string> = { system: 'as the system', light: 'light', dark: 'dark' };
const ICON = { system: SystemThemeIcon, light: SunIcon, dark: MoonIcon };

export function ThemeToggle() {
  const [theme, setTheme] = useState(() => loadSettings().theme);
  const Icon = ICON[theme];
  const label = `Colours: ${LABEL[theme]}. Press for ${LABEL[NEXT[theme]]}.`;
  return (
    <button
      type="button"
      className="quiet round"
      data-testid="theme-toggle"
      aria-label={label}
      title={label}
      onClick={() => {
        const next = NEXT[theme];
        saveSettings({ theme: next });
        applyTheme(next);
        setTheme(next);
      }}
    >
      <Icon />
    </button>
  );
}
