"""auralink.v1.Vectors: collections are made, filled, asked and emptied, by their tenant alone."""

import importlib
import json

import grpc
import pytest
from auralink_grpc import bearer, channel, stubs
from conftest import auralink_only

pytestmark = auralink_only


@pytest.fixture
def messages():
    stubs()
    return importlib.import_module("auralink.v1.vectors_pb2")


@pytest.fixture
async def vectors(server):
    stubs()
    async with channel(server) as connection:
        yield importlib.import_module("auralink.v1.vectors_pb2_grpc").VectorsStub(connection)


@pytest.fixture
def as_tenant(server, room_name):
    """Metadata of a caller of a tenant of the test's own, or of another."""

    def caller(*scopes: str, tenant: str = ""):
        name = tenant or room_name.lower().replace("_", "-")[-40:].strip("-")
        claims = {"auralink": {"scopes": list(scopes), "tenant": name}, "video": None}
        return bearer(server.forged_token(**claims))

    return caller


async def refused(call) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return error.value.code(), error.value.details()


async def test_records_are_written_found_and_deleted(vectors, messages, as_tenant):
    caller = as_tenant("vectors:read", "vectors:write")
    made = await vectors.CreateCollection(messages.CreateCollectionRequest(name="talks", dimension=2), metadata=caller)
    assert (made.name, made.dimension, made.metric, made.count) == ("talks", 2, messages.METRIC_COSINE, 0)
    records = [
        messages.VectorRecord(id="east", vector=[1, 0], metadata_json='{"lang": "en", "year": 2020}', document="the east"),
        messages.VectorRecord(id="north", vector=[0, 2], metadata_json='{"lang": "de"}'),
    ]
    written = await vectors.Upsert(messages.UpsertRequest(collection="talks", records=records), metadata=caller)
    assert written.written == 2
    found = await vectors.Query(messages.QueryRequest(collection="talks", vector=[3, 3.1], k=2), metadata=caller)
    assert [match.record.id for match in found.matches] == ["north", "east"]
    assert found.matches[0].score == pytest.approx(0.7189, abs=1e-3)
    assert found.matches[1].record.document == "the east" and json.loads(found.matches[1].record.metadata_json) == {"lang": "en", "year": 2020}
    wanted = messages.QueryRequest(collection="talks", vector=[0, 1], filter_json='{"year": {"$gte": 2020}}')
    assert [match.record.id for match in (await vectors.Query(wanted, metadata=caller)).matches] == ["east"]
    got = await vectors.GetRecords(messages.GetRecordsRequest(collection="talks", ids=["none", "north"]), metadata=caller)
    assert [(record.id, list(record.vector)) for record in got.records] == [("north", [0, 2])]
    await vectors.DeleteRecords(messages.DeleteRecordsRequest(collection="talks", filter_json='{"lang": "de"}'), metadata=caller)
    listed = await vectors.ListCollections(messages.ListCollectionsRequest(), metadata=caller)
    assert [(one.name, one.count) for one in listed.collections] == [("talks", 1)]
    await vectors.DeleteCollection(messages.DeleteCollectionRequest(name="talks"), metadata=caller)
    code, _ = await refused(vectors.GetCollection(messages.GetCollectionRequest(name="talks"), metadata=caller))
    assert code == grpc.StatusCode.NOT_FOUND


async def test_lines_are_imported_and_exported(vectors, messages, as_tenant):
    caller = as_tenant("vectors:read", "vectors:write")
    await vectors.CreateCollection(messages.CreateCollectionRequest(name="lines", dimension=3), metadata=caller)
    lines = [json.dumps({"id": f"r{i}", "vector": [i + 1, 1, 0.5]}).encode() + b"\n" for i in range(700)]
    lines[5] = b"no record\n"
    whole = b"".join(lines)

    async def parts():
        yield messages.ImportRequest(collection="lines")
        for start in range(0, len(whole), 1_000):
            yield messages.ImportRequest(data=whole[start : start + 1_000])

    done = await vectors.Import(parts(), metadata=caller)
    assert (done.imported, done.rejected, done.next_line, done.stopped) == (699, 1, 700, "")
    assert [error.line for error in done.errors] == [6]
    out = b"".join([part.data async for part in vectors.Export(messages.ExportRequest(collection="lines"), metadata=caller)])
    assert sorted(json.loads(line)["id"] for line in out.splitlines()) == sorted(f"r{i}" for i in range(700) if i != 5)


async def test_tenants_and_scopes_are_kept_apart(vectors, messages, as_tenant):
    caller = as_tenant("vectors:read", "vectors:write")
    await vectors.CreateCollection(messages.CreateCollectionRequest(name="mine", dimension=2), metadata=caller)
    other = as_tenant("vectors:read", "vectors:write", tenant="somebody-else")
    code, _ = await refused(vectors.GetCollection(messages.GetCollectionRequest(name="mine"), metadata=other))
    assert code == grpc.StatusCode.NOT_FOUND
    reader = as_tenant("vectors:read")
    code, details = await refused(vectors.Upsert(messages.UpsertRequest(collection="mine"), metadata=reader))
    assert code == grpc.StatusCode.PERMISSION_DENIED and "vectors:write" in details
    code, _ = await refused(vectors.ListCollections(messages.ListCollectionsRequest()))
    assert code == grpc.StatusCode.UNAUTHENTICATED


async def test_bad_input_is_told(vectors, messages, as_tenant):
    caller = as_tenant("vectors:read", "vectors:write")
    await vectors.CreateCollection(messages.CreateCollectionRequest(name="bad", dimension=2), metadata=caller)
    for record, says in [
        (messages.VectorRecord(id="x", vector=[1, 2, 3]), "dimension 2"),
        (messages.VectorRecord(id="x", vector=[1, float("nan")]), "NaN at index 1"),
        (messages.VectorRecord(id="x"), "neither a vector nor a document"),
        (messages.VectorRecord(id="x", vector=[1, 2], metadata_json="[]"), "metadata_json"),
    ]:
        code, details = await refused(vectors.Upsert(messages.UpsertRequest(collection="bad", records=[record]), metadata=caller))
        assert code == grpc.StatusCode.INVALID_ARGUMENT and says in details, details
    query = messages.QueryRequest(collection="bad", vector=[1, 2], filter_json='{"a": {"$like": 1}}')
    code, details = await refused(vectors.Query(query, metadata=caller))
    assert code == grpc.StatusCode.INVALID_ARGUMENT and "$.a.$like" in details
