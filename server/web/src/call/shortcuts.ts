// Single-key shortcuts of the call. They rest while someone types, while a dialog is open, and when a modifier
// is held (those combinations belong to the browser and to screen readers).

import { useEffect, useRef } from 'react';

export type Shortcuts = Record<string, () => void>;

/** `letters`: keys of one letter count (WCAG 2.1.4, Character Key Shortcuts, asks that they can be turned off). */
export function useShortcuts(shortcuts: Shortcuts, letters: boolean): void {
  const latest = useRef({ shortcuts, letters });
  latest.current = { shortcuts, letters };
  useEffect(() => {
    const pressed = (event: KeyboardEvent) => {
      if (event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
      if (document.querySelector('dialog[open]')) return;
      if (isTyping(event.target) && event.key !== 'Escape') return;
      const isLetter = event.key.length === 1;
      if (isLetter && !latest.current.letters) return;
      const action = latest.current.shortcuts[isLetter ? event.key.toLowerCase() : event.key];
      if (!action) return;
      event.preventDefault();
      action();
    };
    addEventListener('keydown', pressed);
    return () => removeEventListener('keydown', pressed);
  }, []);
}

function isTyping(target: EventTarget | null): boolean {
  return target instanceof HTMLElement && (target.isContentEditable || ['INPUT', 'TEXTAREA', 'SELECT'].includes(target.tagName));
}
