"""auralink.v1.Sandboxes: programs, files, ports and images of sandboxes, each tenant's own."""

import asyncio
import io
import tarfile
import time

import grpc
import pytest
from auralink_grpc import bearer, channel, sandbox_stubs
from conftest import PATIENCE_S, auralink_only

pytestmark = auralink_only

SMALL = {"memory_bytes": 128 << 20, "disk_bytes": 64 << 20}


@pytest.fixture
def pb():
    return sandbox_stubs()[0]


@pytest.fixture
async def stub(server):
    async with channel(server) as connection:
        yield sandbox_stubs()[1].SandboxesStub(connection)


def token(server, *scopes: str, tenant: str = "default") -> list[tuple[str, str]]:
    return bearer(server.forged_token(video=None, sub="tester", auralink={"scopes": list(scopes), "tenant": tenant}))


@pytest.fixture
def writer(server):
    return token(server, "sandboxes:read", "sandboxes:write")


@pytest.fixture
async def sandbox(stub, pb, writer):
    """A running one; gone at the end."""
    made = await stub.Create(pb.CreateSandboxRequest(limits=pb.SandboxLimits(**SMALL)), metadata=writer, timeout=PATIENCE_S)
    yield made
    await stub.Delete(pb.SandboxRequest(sandbox=made.id), metadata=writer, timeout=PATIENCE_S)


class Run:
    """A program and all that came of it."""

    def __init__(self):
        self.stdout, self.stderr, self.exit, self.number = bytearray(), bytearray(), None, 0


async def run(stub, pb, metadata, sandbox, *argv, stdin=b"", later=(), quiet=False, **program) -> Run:
    async def requests():
        yield pb.SandboxExecRequest(program=pb.SandboxProgram(sandbox=sandbox, argv=argv, **program))
        if quiet:
            # For refusals: grpc.aio makes "Internal error from Core" of one that arrives while it writes.
            await asyncio.sleep(4 * PATIENCE_S)
        if stdin:
            yield pb.SandboxExecRequest(stdin=stdin)
        for message in later:
            yield message
        if not later:
            yield pb.SandboxExecRequest(close_stdin=True)

    done = Run()
    async for answer in stub.Exec(requests(), metadata=metadata, timeout=4 * PATIENCE_S):
        match answer.WhichOneof("response"):
            case "started":
                done.number = answer.started
            case "stdout":
                done.stdout += answer.stdout
            case "stderr":
                done.stderr += answer.stderr
            case "exit":
                done.exit = answer.exit
    return done


async def refused(call) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details()


async def test_a_program_has_input_outputs_and_an_exit(stub, pb, writer, sandbox):
    assert (sandbox.status, sandbox.source) == ("running", "host")
    done = await run(stub, pb, writer, sandbox.id, "sh", "-c", "cat; echo err >&2; exit 5", stdin=b"in")
    assert (bytes(done.stdout), bytes(done.stderr), done.exit.code) == (b"in", b"err\n", 5)
    ended = await run(stub, pb, writer, sandbox.id, "sh", "-c", "sleep 600", timeout_ms=300)
    assert ended.exit.timed_out
    killed = await run(stub, pb, writer, sandbox.id, "sleep", "600", later=[pb.SandboxExecRequest(signal=15)])
    assert (killed.exit.code, killed.exit.signal) == (143, 15)
    logs = (await stub.Logs(pb.SandboxLogsRequest(sandbox=sandbox.id, exec=done.number), metadata=writer)).logs
    assert b"".join(chunk.content for chunk in logs[0].chunks if not chunk.stderr) == b"in"


async def test_a_terminal_is_one_and_changes_its_size(stub, pb, writer, sandbox):
    later = [pb.SandboxExecRequest(resize=pb.SandboxTtySize(rows=50, columns=132)), pb.SandboxExecRequest(stdin=b"stty size; exit 3\n")]
    size = pb.SandboxTtySize(rows=24, columns=80)
    done = await run(stub, pb, writer, sandbox.id, "sh", "-c", "test -t 0 && exec sh", tty=size, later=later)
    assert b"50 132" in done.stdout and done.exit.code == 3


async def test_a_missing_program_is_named(stub, pb, writer, sandbox):
    code, words = await refused(run(stub, pb, writer, sandbox.id, "no-such-program", quiet=True))
    assert code == grpc.StatusCode.NOT_FOUND and "no-such-program" in words, words


async def test_a_gigabyte_of_output_passes_in_bounded_memory(stub, pb, writer, sandbox):
    async def requests():
        yield pb.SandboxExecRequest(program=pb.SandboxProgram(sandbox=sandbox.id, argv=["head", "-c", str(1 << 30), "/dev/zero"]))

    passed, code = 0, None
    async for answer in stub.Exec(requests(), metadata=writer):
        passed += len(answer.stdout)
        if answer.WhichOneof("response") == "exit":
            code = answer.exit.code
    assert (passed, code) == (1 << 30, 0)


async def test_files_go_in_and_come_out(stub, pb, writer, sandbox):
    content = bytes(range(256)) * 4_000

    async def pieces():
        yield pb.WriteSandboxFileRequest(file=pb.SandboxFile(sandbox=sandbox.id, path="/workspace/a/b", mode=0o600, size=len(content)))
        for start in range(0, len(content), 50_000):
            yield pb.WriteSandboxFileRequest(content=content[start : start + 50_000])

    await stub.WriteFile(pieces(), metadata=writer, timeout=PATIENCE_S)
    wanted = pb.ReadSandboxFileRequest(sandbox=sandbox.id, path="/workspace/a/b")
    answers = [answer async for answer in stub.ReadFile(wanted, metadata=writer, timeout=PATIENCE_S)]
    assert answers[0].size == len(content) and b"".join(answer.content for answer in answers) == content
    listed = await stub.ListFolder(pb.ListSandboxFolderRequest(sandbox=sandbox.id, path="/workspace/a"), metadata=writer)
    assert [(entry.name, entry.kind, entry.size) for entry in listed.entries] == [("b", "file", len(content))]
    folder = pb.DownloadFromSandboxRequest(sandbox=sandbox.id, path="/workspace")
    archive = b"".join([answer.archive async for answer in stub.Download(folder, metadata=writer, timeout=PATIENCE_S)])
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        assert tar.extractfile("a/b").read() == content
    for path in ("relative", "/a/../../etc/passwd"):
        code, _ = await refused(stub.ListFolder(pb.ListSandboxFolderRequest(sandbox=sandbox.id, path=path), metadata=writer))
        assert code == grpc.StatusCode.INVALID_ARGUMENT


async def test_an_upload_that_leads_out_is_refused(stub, pb, writer, sandbox):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        info = tarfile.TarInfo("../../escaped")
        info.size = 1
        tar.addfile(info, io.BytesIO(b"x"))

    async def pieces():
        yield pb.UploadToSandboxRequest(folder=pb.SandboxFolder(sandbox=sandbox.id, path="/workspace"))
        yield pb.UploadToSandboxRequest(archive=out.getvalue())

    code, words = await refused(stub.Upload(pieces(), metadata=writer, timeout=PATIENCE_S))
    assert code == grpc.StatusCode.INVALID_ARGUMENT and ".." in words


async def test_a_port_is_forwarded(stub, pb, writer, sandbox):
    script = "import socket\ns=socket.create_server(('127.0.0.1',8080))\nprint('up',flush=True)\nc,_=s.accept()\nc.sendall(c.recv(9)[::-1])"
    serving = stub.Exec(metadata=writer)
    await serving.write(pb.SandboxExecRequest(program=pb.SandboxProgram(sandbox=sandbox.id, argv=["python3", "-c", script])))
    while (await asyncio.wait_for(serving.read(), PATIENCE_S)).stdout != b"up\n":
        pass
    connection = stub.Forward(metadata=writer)
    await connection.write(pb.ForwardSandboxRequest(port=pb.SandboxPort(sandbox=sandbox.id, port=8080)))
    await connection.write(pb.ForwardSandboxRequest(data=b"abc"))
    assert (await asyncio.wait_for(connection.read(), PATIENCE_S)).data == b"cba"
    connection.cancel()
    serving.cancel()


async def test_a_stranger_is_refused_and_tenants_are_apart(stub, pb, server, writer, sandbox):
    named = pb.SandboxRequest(sandbox=sandbox.id)
    assert (await refused(stub.Get(named)))[0] == grpc.StatusCode.UNAUTHENTICATED
    reader = token(server, "sandboxes:read")
    assert (await stub.Get(named, metadata=reader)).id == sandbox.id
    code, words = await refused(stub.Delete(named, metadata=reader))
    assert code == grpc.StatusCode.PERMISSION_DENIED and "sandboxes:write" in words
    other = token(server, "sandboxes:read", "sandboxes:write", tenant="other")
    theirs, nobodys = await refused(stub.Get(named, metadata=other)), await refused(
        stub.Get(pb.SandboxRequest(sandbox="sb-aaaaaaaaaaaaaaaaaaaa"), metadata=other)
    )
    assert theirs[0] == nobodys[0] == grpc.StatusCode.NOT_FOUND
    assert theirs[1].replace(sandbox.id, "ID") == nobodys[1].replace("sb-aaaaaaaaaaaaaaaaaaaa", "ID")
    assert not (await stub.List(pb.ListSandboxesRequest(), metadata=other)).sandboxes
    code, words = await refused(run(stub, pb, other, sandbox.id, "true", quiet=True))
    assert code == grpc.StatusCode.NOT_FOUND, words


async def test_events_tell_what_happened(stub, pb, writer, sandbox):
    await run(stub, pb, writer, sandbox.id, "true")
    kinds = []
    following = stub.Events(pb.SandboxEventsRequest(sandbox=sandbox.id), metadata=writer)
    deadline = time.monotonic() + PATIENCE_S
    async for event in following:
        kinds.append(event.kind)
        if event.kind == "exec_ended" or time.monotonic() > deadline:
            break
    assert kinds == ["created", "started", "exec_started", "exec_ended"]


async def test_what_is_not_right_is_refused_with_its_name(stub, pb, writer):
    wrong = {
        "memory_bytes": pb.CreateSandboxRequest(limits=pb.SandboxLimits(memory_bytes=1)),
        "engine": pb.CreateSandboxRequest(engine="xen"),
        "image": pb.CreateSandboxRequest(image="absent"),
        "rootfs_folders": pb.CreateSandboxRequest(rootfs="/etc"),
        "destination": pb.CreateSandboxRequest(network=pb.SandboxNetwork(kind="ALLOW", allow=[pb.SandboxDestination(address="x")])),
    }
    for word, request in wrong.items():
        code, words = await refused(stub.Create(request, metadata=writer))
        assert code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND) and word in words, words


async def test_a_hostile_image_is_refused(stub, pb, writer):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        link = tarfile.TarInfo("out")
        link.type, link.linkname = tarfile.SYMTYPE, "/"
        tar.addfile(link)
        tar.addfile(tarfile.TarInfo("out/tmp/escaped"))

    async def pieces():
        yield pb.ImportImageRequest(target=pb.ImportImageTarget(name="hostile"))
        yield pb.ImportImageRequest(archive=out.getvalue())

    code, words = await refused(stub.ImportImage(pieces(), metadata=writer, timeout=PATIENCE_S))
    assert code == grpc.StatusCode.INVALID_ARGUMENT and "symbolic link" in words
    assert "hostile" not in [image.name for image in (await stub.ListImages(pb.ListImagesRequest(), metadata=writer)).images]


async def test_what_all_tenants_share_is_changed_by_the_operator_alone(stub, pb, server):
    admin = token(server, "sandboxes:read", "sandboxes:write", "keys:admin", tenant="other")

    async def requests():
        yield pb.ImportImageRequest(target=pb.ImportImageTarget(name="common", shared=True))
        await asyncio.sleep(4 * PATIENCE_S)

    for call in (stub.ImportImage(requests(), metadata=admin), stub.DeleteImage(pb.DeleteImageRequest(name="common", shared=True), metadata=admin)):
        code, words = await refused(call)
        assert code == grpc.StatusCode.PERMISSION_DENIED and "operator" in words, words
    assert not (await stub.ListImages(pb.ListImagesRequest(), metadata=admin)).images
