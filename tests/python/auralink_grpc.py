"""AuraLink's own gRPC, by stubs that are generated here from proto/auralink/v1."""

import functools
import importlib
import pathlib
import sys
import tempfile

import grpc
import pytest
from grpc_tools import protoc

PROTO = pathlib.Path(__file__).parents[2] / "proto"


@functools.cache
def stubs():
    """The generated modules: rooms_pb2, rooms_pb2_grpc, speech_pb2, speech_pb2_grpc."""
    folder = tempfile.mkdtemp(prefix="auralink-stubs-")
    files = sorted(str(path.relative_to(PROTO)) for path in (PROTO / "auralink/v1").glob("*.proto"))
    assert protoc.main(["protoc", f"-I{PROTO}", f"--python_out={folder}", f"--grpc_python_out={folder}", *files]) == 0
    sys.path.insert(0, folder)
    names = ("rooms_pb2", "rooms_pb2_grpc", "speech_pb2", "speech_pb2_grpc")
    return tuple(importlib.import_module(f"auralink.v1.{name}") for name in names)


@functools.cache
def sandbox_stubs():
    """sandboxes_pb2, sandboxes_pb2_grpc."""
    stubs()
    return tuple(importlib.import_module(f"auralink.v1.{name}") for name in ("sandboxes_pb2", "sandboxes_pb2_grpc"))


def channel(server) -> grpc.aio.Channel:
    if not server.grpc:
        pytest.skip("AURALINK_GRPC is not set")
    return grpc.aio.insecure_channel(server.grpc)


def bearer(token: str) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {token}")]
