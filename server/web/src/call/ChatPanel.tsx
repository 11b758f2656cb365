// LiveKit's standard chat (topic lk.chat): it reaches everyone who is in the room now, and is kept nowhere.

import type { ReceivedChatMessage } from '@livekit/components-react';
import { type FormEvent, useState } from 'react';
import { SendIcon } from '../icons';
import { clockTime } from '../transcript/formats';
import { useFollowEnd } from '../transcript/TranscriptPanel';
import { useHueClass } from './hue';

/** LiveKit sends a text stream of this size in one piece. */
const MESSAGE_LIMIT = 4000;

interface Props {
  messages: readonly ReceivedChatMessage[];
  sending: boolean;
  onSend: (text: string) => Promise<void>;
}

export function ChatPanel({ messages, sending, onSend }: Props) {
  const hueClass = useHueClass();
  const [text, setText] = useState('');
  const scroller = useFollowEnd(messages);
  const submit = (event: FormEvent) => {
    event.preventDefault();
    const message = text.trim();
    if (!message || sending) return;
    void onSend(message).then(() => setText(''), () => undefined);
  };
  return (
    <div className="panel-body" data-testid="chat-panel">
      <div className="panel-scroll" ref={scroller} tabIndex={0} role="region" aria-label="Chat messages">
        {messages.length === 0 ? (
          <p className="panel-empty">No messages yet. Everyone who is in the room now will see what you write.</p>
        ) : (
          <ol className="transcript">
            {messages.map((message) => {
              const identity = message.from?.identity ?? '';
              const name = message.from?.name || identity || 'Someone';
              return (
                <li key={message.id} className={`line ${hueClass(identity)}`} data-testid="chat-line" data-identity={identity}>
                  <span className="line-head">
                    <span className="line-speaker">{message.from?.isLocal ? `${name} (you)` : name}</span>
                    <time dateTime={new Date(message.timestamp).toISOString()}>{clockTime(message.timestamp)}</time>
                  </span>
                  <span className="line-text" data-testid="chat-text">{message.message}</span>
                </li>
              );
            })}
          </ol>
        )}
      </div>
      <form className="chat-form" onSubmit={submit}>
        <input data-testid="chat-input" aria-label="Message to everyone" placeholder="Message to everyone" value={text} onChange={(event) => setText(event.target.value)} maxLength={MESSAGE_LIMIT} autoComplete="off" autoFocus enterKeyHint="send" />
        <button type="submit" className="primary round" aria-label="Send" data-testid="chat-send" disabled={!text.trim() || sending}>
          <SendIcon />
        </button>
      </form>
    </div>
  );
}
