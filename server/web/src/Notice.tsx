// A problem on the page: what happened, what to do, and what can be done here.

import type { ReactNode } from 'react';
import { CloseIcon } from './icons';
import type { Problem } from './problems';

export function Notice({ problem, onDismiss, children }: { problem: Problem; onDismiss?: () => void; children?: ReactNode }) {
  return (
    <div className="notice" role="alert" data-testid="error">
      <p>
        <strong>{problem.what}</strong> {problem.todo}
      </p>
      {(children || onDismiss) && (
        <div className="notice-actions">
          {children}
          {onDismiss && (
            <button type="button" className="quiet round" aria-label="Dismiss" onClick={onDismiss}>
              <CloseIcon />
            </button>
          )}
        </div>
      )}
    </div>
  );
}
