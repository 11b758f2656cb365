// In which language one reads the captions: as it was said, or translated by the server for everyone who reads that language.

interface Props {
  /** Codes of the languages that the server translates into. */
  languages: readonly string[];
  /** Empty: as it was said. */
  value: string;
  onChange: (language: string) => void;
}

export function LanguageSelect({ languages, value, onChange }: Props) {
  return (
    <label className="language-select">
      <span>Read in</span>
      <select data-testid="captions-language" value={value} onChange={(event) => onChange(event.target.value)}>
        <option value="">the language spoken</option>
        {byName(languages).map(([code, name]) => (
          <option key={code} value={code} lang={code}>{name}</option>
        ))}
      </select>
    </label>
  );
}

/** Codes with the languages' own names, in the order of those. */
export function byName(languages: readonly string[]): [string, string][] {
  return languages
    .map((code): [string, string] => [code, ownName(code)])
    .sort(([, a], [, b]) => a.localeCompare(b));
}

function ownName(code: string): string {
  try {
    return new Intl.DisplayNames([code], { type: 'language' }).of(code) ?? code;
  } catch {
    return code; // no tag that the browser knows
  }
}
