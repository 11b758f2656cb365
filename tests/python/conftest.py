"""The server under test and ways into it.

The tests read LIVEKIT_URL, LIVEKIT_API_KEY and LIVEKIT_API_SECRET, as every LiveKit SDK does, and AURALINK_GRPC;
`scripts/e2e.sh` starts a server and sets them. Time limits here only end a hanging test; nothing is measured by them.
"""

import asyncio
import datetime
import itertools
import os
import time
from dataclasses import dataclass

import aiohttp
import jwt
import pytest
import pytest_asyncio
from livekit import api, rtc

PATIENCE_S = 30

on_auralink = os.environ.get("E2E_TARGET", "auralink") == "auralink"
auralink_only = pytest.mark.skipif(not on_auralink, reason="AuraLink only")


@dataclass(frozen=True)
class Server:
    ws: str
    key: str
    secret: str
    grpc: str | None

    @property
    def http(self) -> str:
        return "http" + self.ws.removeprefix("ws")

    def token(self, room: str, identity: str, *, attributes: dict | None = None, kind: str = "standard", **grants) -> str:
        """An access token as an application makes it, by LiveKit's own library."""
        grants = {"room_join": True, "can_update_own_metadata": True, **grants}
        token = (
            api.AccessToken(self.key, self.secret)
            .with_identity(identity)
            .with_kind(kind)
            .with_grants(api.VideoGrants(room=room, **grants))
            .with_ttl(datetime.timedelta(minutes=10))
        )
        return (token.with_attributes(attributes) if attributes else token).to_jwt()

    def forged_token(self, *, key: str | None = None, secret: str | None = None, algorithm: str = "HS256", **claims) -> str:
        """A token that no SDK would make: a claim given as None is left out."""
        now = int(time.time())
        everything = {
            "iss": key or self.key,
            "sub": "ana",
            "nbf": now - 10,
            "exp": now + 600,
            "video": {"roomJoin": True, "room": "forged"},
            **claims,
        }
        return jwt.encode(
            {name: value for name, value in everything.items() if value is not None},
            None if algorithm == "none" else secret or self.secret,
            algorithm=algorithm,
        )


@pytest.fixture(scope="session")
def server() -> Server:
    missing = [name for name in ("LIVEKIT_URL", "LIVEKIT_API_KEY", "LIVEKIT_API_SECRET") if not os.environ.get(name)]
    if missing:
        pytest.exit(f"{', '.join(missing)} not set: run these tests by scripts/e2e.sh", returncode=2)
    environment = os.environ
    return Server(
        environment["LIVEKIT_URL"],
        environment["LIVEKIT_API_KEY"],
        environment["LIVEKIT_API_SECRET"],
        environment.get("AURALINK_GRPC"),
    )


_numbers = itertools.count(1)


@pytest.fixture
def room_name(request) -> str:
    """A room of the test's own."""
    return f"{request.node.originalname or request.node.name}-{next(_numbers)}"


@pytest_asyncio.fixture
async def join(server, room_name):
    """Joins the test's room by the native SDK; everyone leaves at the end. Subscribe to events before: `prepare(room)`."""
    joined: list[rtc.Room] = []

    async def join_as(identity: str, *, prepare=None, token: str | None = None, **options) -> rtc.Room:
        room = rtc.Room()
        if prepare is not None:
            prepare(room)
        await asyncio.wait_for(
            room.connect(server.ws, token or server.token(room_name, identity), rtc.RoomOptions(**options)), PATIENCE_S
        )
        joined.append(room)
        return room

    yield join_as
    for room in joined:
        await room.disconnect()


@pytest_asyncio.fixture
async def room_service(server):
    async with api.LiveKitAPI(server.http, server.key, server.secret) as client:
        yield client.room


@pytest_asyncio.fixture
async def http():
    async with aiohttp.ClientSession() as session:
        yield session


async def until(condition, what: str):
    """Waits for an event loop's state to become true, and returns what `condition` returned."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            pytest.fail(f"waited {PATIENCE_S} s in vain: {what}")
        await asyncio.sleep(0.02)
