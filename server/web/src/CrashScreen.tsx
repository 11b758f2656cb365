// What stands where the page was, if a fault of its own brings it down: never an empty window.

import { Component, type ReactNode } from 'react';
import { Mark } from './icons';
import { Notice } from './Notice';
import { Problem } from './problems';

export class CrashScreen extends Component<{ children: ReactNode }, { crashed: boolean }> {
  override state = { crashed: false };

  static getDerivedStateFromError() {
    return { crashed: true };
  }

  override render() {
    if (!this.state.crashed) return this.props.children;
    return (
      <main className="left">
        <div className="card">
          <Mark />
          <h1>This page broke</h1>
          <Notice problem={new Problem('A fault in the page stopped it.', 'Reload it to join again. If it happens again, please report what the browser’s console shows.')} />
          <button type="button" className="primary" onClick={() => location.reload()}>Reload</button>
        </div>
      </main>
    );
  }
}
