// Entry of the page: colours before the first paint, then one of three screens (App).

import { createRoot } from 'react-dom/client';
import { LogLevel, setLogLevel } from 'livekit-client';
import { App } from './App';
import { CrashScreen } from './CrashScreen';
import { applyTheme, loadSettings } from './settings';
import './styles/base.css';
import './styles/join.css';
import './styles/call.css';
import './styles/panels.css';

setLogLevel(LogLevel.warn);
applyTheme(loadSettings().theme);
createRoot(document.getElementById('root')!).render(
  <CrashScreen>
    <App />
  </CrashScreen>,
);
