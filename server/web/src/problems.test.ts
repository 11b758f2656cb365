import { ConnectionError, DisconnectReason } from 'livekit-client';
import { describe, expect, it } from 'vitest';
import { connectProblem, departure, deviceProblem, Problem, problemFromResponse, screenShareProblem } from './problems';

const named = (name: string) => Object.assign(new Error('raw browser text'), { name });
const answer = (status: number, body: unknown) => new Response(JSON.stringify(body), { status });

describe('devices', () => {
  it.each([
    ['NotAllowedError', /blocked/, /allow the camera/],
    ['NotFoundError', /No camera/, /Connect one/],
    ['NotReadableError', /does not start/, /other programs/],
    ['OverconstrainedError', /not connected/, /Choose another/],
    ['SomethingNew', /SomethingNew/, /reload/],
  ])('%s says what happened and what to do', (name, what, todo) => {
    const problem = deviceProblem('camera', named(name));
    expect(problem.what).toMatch(what);
    expect(problem.todo).toMatch(todo);
    expect(problem.message).not.toContain('raw browser text');
  });

  it('takes a closed chooser for a decision, not for an error', () => {
    expect(screenShareProblem(named('NotAllowedError'))).toBeNull();
    expect(screenShareProblem(named('NotReadableError'))?.todo).toMatch(/system/);
  });
});

describe('answers of the server', () => {
  it('shows its sentence', async () => {
    const problem = await problemFromResponse(answer(403, { error: { code: 'invite_invalid', message: 'Ask for a new link.' } }));
    expect(problem.message).toBe('Ask for a new link.');
  });

  it('finds a sentence where there is none', async () => {
    expect((await problemFromResponse(new Response('<html>', { status: 403 }))).todo).toMatch(/newest link/);
    expect((await problemFromResponse(answer(502, {}))).what).toContain('502');
  });
});

describe('connections', () => {
  it('tells a bad token from a silent server and from blocked media', () => {
    expect(connectProblem(ConnectionError.notAllowed('x', 401)).what).toMatch(/token/);
    expect(connectProblem(ConnectionError.serverUnreachable('x')).what).toMatch(/does not answer/);
    expect(connectProblem(ConnectionError.internal('x')).todo).toMatch(/UDP/);
    expect(connectProblem(new Problem('a', 'b')).message).toBe('a b');
  });

  it('knows leaving from being left', () => {
    expect(departure(DisconnectReason.CLIENT_INITIATED)).toBeNull();
    expect(departure(DisconnectReason.SERVER_SHUTDOWN)?.what).toMatch(/shutting down/);
    expect(departure(undefined)?.todo).toMatch(/rejoin/);
  });
});
