"""auralink.v1.Jobs: long work is accepted, followed, cancelled, retried and purged, by its tenant alone."""

import asyncio
import importlib
import json

import grpc
import pytest
from auralink_grpc import bearer, channel, stubs
from conftest import PATIENCE_S, auralink_only

pytestmark = auralink_only


@pytest.fixture
def messages():
    stubs()
    return importlib.import_module("auralink.v1.jobs_pb2")


@pytest.fixture
async def jobs(server):
    stubs()
    async with channel(server) as connection:
        yield importlib.import_module("auralink.v1.jobs_pb2_grpc").JobsStub(connection)


@pytest.fixture
def as_tenant(server, room_name):
    """Metadata of a caller of a tenant of the test's own, or of another."""

    def caller(*scopes: str, tenant: str = ""):
        name = tenant or room_name.lower().replace("_", "-")[-40:].strip("-")
        claims = {"auralink": {"scopes": list(scopes), "tenant": name}, "video": None}
        return bearer(server.forged_token(**claims))

    return caller


async def refused(call) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return error.value.code()


async def ended(jobs, messages, id, metadata):
    """The job's changes up to its end."""
    return [job async for job in jobs.Watch(messages.WatchJobRequest(id=id), metadata=metadata, timeout=PATIENCE_S)]


async def test_a_job_is_accepted_followed_and_done(jobs, messages, as_tenant):
    caller = as_tenant("jobs:read", "jobs:write")
    accepted = await jobs.Check(messages.CheckRequest(work_ms=1_500, idempotency_key="one"), metadata=caller)
    assert (accepted.kind, accepted.attempt <= 1) == ("check", True)
    assert json.loads(accepted.payload_json) == {"work_ms": 1_500, "failures": 0}
    again = await jobs.Check(messages.CheckRequest(work_ms=9, idempotency_key="one"), metadata=caller)
    assert again.id == accepted.id
    changes = await ended(jobs, messages, accepted.id, caller)
    done = changes[-1]
    assert (done.state, done.attempt, json.loads(done.result_json)) == (messages.JOB_STATE_DONE, 1, {"attempts": 1})
    assert (done.progress.done, done.progress.total, done.progress.message) == (20, 20, "checked")
    parts = [job.progress.done for job in changes if job.state == messages.JOB_STATE_RUNNING]
    assert parts == sorted(parts) and len(changes) >= 2
    assert done.created_at_ms <= done.started_at_ms <= done.finished_at_ms
    assert await jobs.Get(messages.GetJobRequest(id=accepted.id), metadata=caller) == done
    listed = await jobs.List(messages.ListJobsRequest(state=messages.JOB_STATE_DONE, kind="check"), metadata=caller)
    assert [job.id for job in listed.jobs] == [accepted.id] and listed.next == ""


async def test_a_running_job_is_cancelled_and_a_dead_one_retried(jobs, messages, as_tenant):
    caller = as_tenant("jobs:read", "jobs:write")
    long = await jobs.Check(messages.CheckRequest(work_ms=60_000), metadata=caller)
    async for job in jobs.Watch(messages.WatchJobRequest(id=long.id), metadata=caller, timeout=PATIENCE_S):
        if job.state == messages.JOB_STATE_RUNNING:
            break
    await jobs.Cancel(messages.CancelJobRequest(id=long.id), metadata=caller)
    assert (await ended(jobs, messages, long.id, caller))[-1].state == messages.JOB_STATE_CANCELLED

    bad = await jobs.Check(messages.CheckRequest(failures=1, max_attempts=1), metadata=caller)
    dead = (await ended(jobs, messages, bad.id, caller))[-1]
    assert (dead.state, dead.attempt) == (messages.JOB_STATE_DEAD, 1)
    assert dead.error == "attempt 1 fails, as was asked for"
    again = await jobs.Retry(messages.RetryJobRequest(id=bad.id), metadata=caller)
    assert again.attempt <= 1
    assert (await ended(jobs, messages, bad.id, caller))[-1].state == messages.JOB_STATE_DEAD
    purge = messages.PurgeJobsRequest(state=messages.JOB_STATE_DEAD)
    assert (await jobs.Purge(purge, metadata=caller)).deleted == 1
    assert await refused(jobs.Get(messages.GetJobRequest(id=bad.id), metadata=caller)) == grpc.StatusCode.NOT_FOUND


async def test_a_failed_attempt_is_followed_by_another(jobs, messages, as_tenant):
    caller = as_tenant("jobs:read", "jobs:write")
    flaky = await jobs.Check(messages.CheckRequest(failures=1), metadata=caller)
    changes = await ended(jobs, messages, flaky.id, caller)
    assert (changes[-1].state, changes[-1].attempt, changes[-1].error) == (messages.JOB_STATE_DONE, 2, "")
    assert any(job.state == messages.JOB_STATE_WAITING and job.due_at_ms > 0 for job in changes)


async def test_who_may_not_is_refused(jobs, messages, as_tenant):
    owner, reader, stranger = as_tenant("jobs:read", "jobs:write"), as_tenant("jobs:read"), as_tenant("jobs:read", "jobs:write", tenant="stranger")
    job = await jobs.Check(messages.CheckRequest(), metadata=owner)
    get = messages.GetJobRequest(id=job.id)
    assert (await jobs.Get(get, metadata=reader)).id == job.id
    assert await refused(jobs.Get(get)) == grpc.StatusCode.UNAUTHENTICATED
    assert await refused(jobs.Get(get, metadata=stranger)) == grpc.StatusCode.NOT_FOUND
    assert await refused(jobs.Get(get, metadata=as_tenant("vectors:read"))) == grpc.StatusCode.PERMISSION_DENIED
    for call in (jobs.Check(messages.CheckRequest(), metadata=reader), jobs.Cancel(messages.CancelJobRequest(id=job.id), metadata=reader)):
        assert await refused(call) == grpc.StatusCode.PERMISSION_DENIED
    watch = jobs.Watch(messages.WatchJobRequest(id=job.id), metadata=stranger)
    assert await refused(watch.read()) == grpc.StatusCode.NOT_FOUND


async def test_what_cannot_be_is_refused_with_its_value(jobs, messages, as_tenant):
    caller = as_tenant("jobs:read", "jobs:write")
    calls = {
        "not-a-job": jobs.Get(messages.GetJobRequest(id="not-a-job"), metadata=caller),
        "3600001": jobs.Check(messages.CheckRequest(work_ms=3_600_001), metadata=caller),
        "101": jobs.Check(messages.CheckRequest(max_attempts=101), metadata=caller),
        "1001": jobs.List(messages.ListJobsRequest(limit=1_001), metadata=caller),
        "state": jobs.Purge(messages.PurgeJobsRequest(), metadata=caller),
    }
    for value, call in calls.items():
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call
        assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT and value in error.value.details(), error.value
    purge = messages.PurgeJobsRequest(state=messages.JOB_STATE_QUEUED)
    assert await refused(jobs.Purge(purge, metadata=caller)) == grpc.StatusCode.FAILED_PRECONDITION


async def test_work_comes_again_by_the_clock(jobs, messages, as_tenant):
    caller = as_tenant("jobs:read", "jobs:write")
    put = messages.PutScheduleRequest(name="tick", cron="* * * * * *", work_json='{"kind": "check", "work_ms": 1}')
    made = await jobs.PutSchedule(put, metadata=caller)
    assert (made.kind, json.loads(made.payload_json)) == ("check", {"work_ms": 1, "failures": 0})
    assert [one.name for one in (await jobs.ListSchedules(messages.ListSchedulesRequest(), metadata=caller)).schedules] == ["tick"]
    wanted = messages.ListJobsRequest(state=messages.JOB_STATE_DONE)
    async with asyncio.timeout(PATIENCE_S):
        while not (await jobs.List(wanted, metadata=caller)).jobs:
            await asyncio.sleep(0.1)
    await jobs.DeleteSchedule(messages.DeleteScheduleRequest(name="tick"), metadata=caller)
    assert await refused(jobs.DeleteSchedule(messages.DeleteScheduleRequest(name="tick"), metadata=caller)) == grpc.StatusCode.NOT_FOUND
    for bad in (dict(cron="x"), dict(work_json="{}"), dict(work_json='{"kind": "check", "odd": 1}'), dict(name="")):
        request = messages.PutScheduleRequest(**{"name": "bad", "cron": "@daily", "work_json": '{"kind": "check"}', **bad})
        assert await refused(jobs.PutSchedule(request, metadata=caller)) == grpc.StatusCode.INVALID_ARGUMENT, bad
    reader = as_tenant("jobs:read")
    assert await refused(jobs.PutSchedule(put, metadata=reader)) == grpc.StatusCode.PERMISSION_DENIED
