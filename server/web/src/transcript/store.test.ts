import type { Room, TextStreamHandler, TextStreamReader } from 'livekit-client';
import { expect, it } from 'vitest';
import { TranscriptStore } from './store';

/** A stream whose chunks the test hands over one by one; ending may change the attributes, as LiveKit's trailer does. */
function stream(attributes: Record<string, string>) {
  const { readable, writable } = new TransformStream<string, string>();
  const writer = writable.getWriter();
  const info = { id: crypto.randomUUID(), attributes };
  const reader = { info, [Symbol.asyncIterator]: () => readable[Symbol.asyncIterator]() } as unknown as TextStreamReader;
  return {
    reader,
    write: (text: string) => writer.write(text).then(settled),
    end: (trailer: Record<string, string> = {}) => {
      Object.assign(info.attributes, trailer);
      return writer.close().then(settled);
    },
    fail: () => writer.abort(new Error('sender left')).catch(() => undefined).then(settled),
  };
}

const settled = () => new Promise((resolve) => setTimeout(resolve));

/** A store, and the handler that it registers with a room of two people. */
function attached() {
  let handler: TextStreamHandler = () => expect.fail('not attached');
  const names: Record<string, string> = { 'ana-1': 'Ana', 'bo-2': 'Bo' };
  const store = new TranscriptStore('lobby');
  store.attach({
    registerTextStreamHandler: (topic: string, registered: TextStreamHandler) => {
      expect(topic).toBe('lk.transcription');
      handler = registered;
    },
    getParticipantByIdentity: (identity: string) => ({ name: names[identity] }),
  } as unknown as Room);
  const receive = (identity: string, attributes: Record<string, string>) => {
    const incoming = stream(attributes);
    handler(incoming.reader, { identity });
    return incoming;
  };
  const say = async (identity: string, segment: string, text: string, final: boolean, committed = 0) => {
    const incoming = receive(identity, {
      'lk.segment_id': segment, 'lk.transcription_final': String(final), 'auralink.committed': String(committed),
    });
    await incoming.write(text);
    await incoming.end();
  };
  return { store, receive, say, shown: () => store.getLines().map((line) => [line.name, line.text, line.final]) };
}

it('shows a segment growing and closing under its speaker', async () => {
  const { store, say, shown } = attached();
  await say('ana-1', 's1', 'good mor', false, 5);
  expect(store.getLines()[0]).toMatchObject({ committed: 5, final: false });
  await say('ana-1', 's1', 'good morning', true);
  await say('bo-2', 's2', 'hello', false);
  expect(shown()).toEqual([['Ana', 'good morning', true], ['Bo', 'hello', false]]);
});

it('does not go back to an older update that completes late', async () => {
  const { receive, say, shown } = attached();
  const slow = receive('ana-1', { 'lk.segment_id': 's1', 'lk.transcription_final': 'false' });
  await say('ana-1', 's1', 'one two three', false);
  await slow.write('one');
  await slow.end();
  expect(shown()).toEqual([['Ana', 'one two three', false]]);
});

it('lets text shrink when the recogniser changes its mind', async () => {
  const { say, shown } = attached();
  await say('ana-1', 's1', 'recognise speech', false);
  await say('ana-1', 's1', 'wreck', false);
  expect(shown()).toEqual([['Ana', 'wreck', false]]);
});

it('follows a sender that writes a segment into one stream, closed by its trailer', async () => {
  const { receive, shown } = attached();
  const agent = receive('bo-2', { 'lk.segment_id': 's1', 'lk.transcription_final': 'false' });
  await agent.write('to be ');
  await agent.write('or not');
  expect(shown()).toEqual([['Bo', 'to be or not', false]]);
  await agent.end({ 'lk.transcription_final': 'true' });
  expect(shown()).toEqual([['Bo', 'to be or not', true]]);
});

it('keeps what was said when the sender goes away in mid-sentence', async () => {
  const { receive, shown } = attached();
  const cut = receive('bo-2', { 'lk.segment_id': 's1', 'lk.transcription_final': 'false' });
  await cut.write('I was about to');
  await cut.fail();
  expect(shown()).toEqual([['Bo', 'I was about to', true]]);
});

it('keeps the previous line for captions that roll up', async () => {
  const { store, say } = attached();
  await say('ana-1', 's1', 'first', true);
  await say('ana-1', 's2', 'second', false);
  await say('ana-1', 's2', 'second one', false);
  expect(store.getLatest('ana-1')).toMatchObject({ previous: { text: 'first' }, current: { text: 'second one' } });
});
