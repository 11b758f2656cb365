import { ConnectionError, DisconnectReason } from 'livekit-client';
import { describe, expect, it } from 'vitest';
import { connectProblem, departure, deviceProblem, insecureOrigin, previewProblems, Problem, problemFromResponse, screenShareProblem } from './problems';

const named = (name: string) => Object.assign(new Error('raw browser text'), { name });
const answer = (status: number, body: unknown) => new Response(JSON.stringify(body), { status });

describe('devices', () => {
  it.each([
    ['NotAllowedError', /blocked/, /allow the camera/],
    ['NotFoundError', /No camera/, /Connect one/],
    ['NotReadableError', /does not start/, /other programs/],
    ['OverconstrainedError', /not connected/, /Choose another/],
    ['SomethingNew', /could not be started/, /reload/],
  ])('%s says what happened and what to do', (name, what, todo) => {
    const problem = deviceProblem('camera', named(name));
    expect(problem.what).toMatch(what);
    expect(problem.todo).toMatch(todo);
    expect(problem.message).not.toContain('raw browser text');
  });

  it('says once what stopped both, and apart what differs', () => {
    const once = previewProblems(named('NotAllowedError'), named('NotAllowedError'));
    expect(once.map((problem) => problem.what)).toEqual(['Camera and microphone are blocked for this page.']);
    expect(once[0]!.todo).toMatch(/join without/);
    expect(previewProblems(named('NotFoundError'), named('NotReadableError'))).toHaveLength(2);
    expect(previewProblems(insecureOrigin(), insecureOrigin())).toHaveLength(1);
    expect(previewProblems(null, named('NotFoundError')).map((problem) => problem.what)).toEqual(['No microphone was found.']);
    expect(previewProblems(null, null)).toEqual([]);
  });

  it('takes a closed chooser for a decision, not for an error', () => {
    expect(screenShareProblem(named('NotAllowedError'))).toBeNull();
    expect(screenShareProblem(named('NotReadableError'))?.todo).toMatch(/system/);
  });
});

describe('answers of the server', () => {
  it('shows its sentence', async () => {
    const problem = await problemFromResponse(answer(403, { error: { code: 'invite_invalid', message: 'The link has expired. Ask for a new one. Or wait.' } }));
    expect(problem).toMatchObject({ what: 'The link has expired.', todo: 'Ask for a new one. Or wait.' });
  });

  it('finds a sentence where there is none', async () => {
    expect((await problemFromResponse(new Response('<html>', { status: 403 }))).todo).toMatch(/newest link/);
    expect((await problemFromResponse(answer(502, {}))).what).toContain('502');
  });
});

describe('connections', () => {
  it('tells a bad token from a silent server and from blocked media', () => {
    expect(connectProblem(ConnectionError.notAllowed('x', 401)).what).toMatch(/token/);
    const refused = 'could not establish signal connection: invalid token: eyJh.eyJu.sig-_, error: token is expired';
    expect(connectProblem(ConnectionError.serverUnreachable(refused, 401)).what).toBe('The server refused the access token: token is expired.');
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
