// The page's own line icons, 24 x 24, drawn in the colour of the text around them.

import type { ReactNode } from 'react';

const icon = (shape: ReactNode) =>
  function Icon() {
    return (
      <svg className="icon" viewBox="0 0 24 24" fill="none" stroke="currentColor" strokeWidth="1.8" strokeLinecap="round" strokeLinejoin="round" aria-hidden="true" focusable="false">
        {shape}
      </svg>
    );
  };

const microphone = (
  <>
    <rect x="9" y="3" width="6" height="11" rx="3" />
    <path d="M5.5 11.5a6.5 6.5 0 0 0 13 0M12 18v3" />
  </>
);
const camera = (
  <>
    <rect x="3" y="6.5" width="12.5" height="11" rx="2.5" />
    <path d="m15.5 10.5 5-2.5v8l-5-2.5" />
  </>
);
const captions = (
  <>
    <rect x="3" y="5" width="18" height="14" rx="3" />
    <path d="M10.5 10.4a2 2 0 1 0 0 3.2M17 10.4a2 2 0 1 0 0 3.2" />
  </>
);
const struckOut = <path d="M4 4l16 16" />;

export const MicrophoneIcon = icon(microphone);
export const MicrophoneOffIcon = icon(<>{microphone}{struckOut}</>);
export const CameraIcon = icon(camera);
export const CameraOffIcon = icon(<>{camera}{struckOut}</>);
export const CaptionsIcon = icon(captions);
export const CaptionsOffIcon = icon(<>{captions}{struckOut}</>);
export const ScreenIcon = icon(
  <>
    <rect x="3" y="4.5" width="18" height="12" rx="2.5" />
    <path d="M8.5 20h7M12 13.5v-5m-2.4 2.2L12 8.3l2.4 2.4" />
  </>,
);
export const ChatIcon = icon(<path d="M4 6.5A2.5 2.5 0 0 1 6.5 4h11A2.5 2.5 0 0 1 20 6.5v7a2.5 2.5 0 0 1-2.5 2.5H11l-4.6 4v-4A2.4 2.4 0 0 1 4 13.6Z" />);
export const TranscriptIcon = icon(
  <>
    <path d="M6.5 3.5h8L19 8v10.5a2 2 0 0 1-2 2H6.5a2 2 0 0 1-2-2v-13a2 2 0 0 1 2-2Z" />
    <path d="M8.3 11h7M8.3 14h7M8.3 17h4" />
  </>,
);
export const SettingsIcon = icon(
  <>
    <path d="M4 7h9m5 0h2M4 17h2m5 0h9" />
    <circle cx="15.5" cy="7" r="2.5" />
    <circle cx="8.5" cy="17" r="2.5" />
  </>,
);
export const LeaveIcon = icon(<path d="M3.6 14.8c-.9-1.2-.8-2.7.3-3.7 4.7-3.9 11.5-3.9 16.2 0 1.1 1 1.2 2.5.3 3.7l-.5.7c-.4.5-1 .6-1.5.4l-2.7-1.1a1.2 1.2 0 0 1-.7-1.1v-1.6a11 11 0 0 0-6 0v1.6c0 .5-.3.9-.7 1.1l-2.7 1.1c-.5.2-1.1.1-1.5-.4Z" />);
export const CloseIcon = icon(<path d="m6 6 12 12M18 6 6 18" />);
export const CopyIcon = icon(
  <>
    <rect x="8.5" y="8.5" width="11.5" height="11.5" rx="2.5" />
    <path d="M15.5 8.5v-2A2.5 2.5 0 0 0 13 4H6.5A2.5 2.5 0 0 0 4 6.5V13a2.5 2.5 0 0 0 2.5 2.5h2" />
  </>,
);
export const LinkIcon = icon(<path d="M10 14a4 4 0 0 0 5.7 0l3-3A4 4 0 0 0 13 5.3l-1 1m2 3.7a4 4 0 0 0-5.7 0l-3 3A4 4 0 0 0 11 18.7l1-1" />);
export const DownloadIcon = icon(<path d="M12 4v11m-4.5-4.5L12 15l4.5-4.5M5 19.5h14" />);
export const SendIcon = icon(<path d="M5 12h13m-5.5-5.5L18 12l-5.5 5.5" />);
export const PinIcon = icon(<path d="M4 9V6.5A2.5 2.5 0 0 1 6.5 4H9m6 0h2.5A2.5 2.5 0 0 1 20 6.5V9m0 6v2.5a2.5 2.5 0 0 1-2.5 2.5H15m-6 0H6.5A2.5 2.5 0 0 1 4 17.5V15" />);
export const PeopleIcon = icon(
  <>
    <circle cx="9.5" cy="8" r="3.5" />
    <path d="M3 19.5c.5-3.6 3-5.5 6.5-5.5s6 1.9 6.5 5.5M15.5 4.9a3.5 3.5 0 0 1 0 6.2m2 3.4c2 .8 3.2 2.5 3.5 5" />
  </>,
);
export const SunIcon = icon(
  <>
    <circle cx="12" cy="12" r="4" />
    <path d="M12 3v1.5m0 15V21m9-9h-1.5m-15 0H3m15.4-6.4-1.1 1.1M6.7 17.3l-1.1 1.1m12.8 0-1.1-1.1M6.7 6.7 5.6 5.6" />
  </>,
);
export const MoonIcon = icon(<path d="M19.5 14.5A8 8 0 0 1 9.5 4.5a8 8 0 1 0 10 10Z" />);
export const SystemThemeIcon = icon(
  <>
    <circle cx="12" cy="12" r="8" />
    <path d="M12 4v16a8 8 0 0 0 0-16Z" fill="currentColor" />
  </>,
);

/** The mark: two rings that hold each other. */
export function Mark() {
  return (
    <svg className="mark" viewBox="0 0 32 32" fill="none" strokeWidth="3.2" aria-hidden="true" focusable="false">
      <circle cx="11.6" cy="16" r="7.6" className="mark-near" />
      <circle cx="20.4" cy="16" r="7.6" className="mark-far" />
      <path d="M12.9 8.5a7.6 7.6 0 0 1 5.7 4.5" className="mark-near" />
    </svg>
  );
}
