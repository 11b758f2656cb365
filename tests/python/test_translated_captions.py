"""Captions in the language that each listener reads: made once for each language, and the original for everyone else."""

from conftest import auralink_only, until
from sound import RATE
from speech import check, spoken, unseen_sentences
from test_captions import Reader, microphone, say

pytestmark = auralink_only

LANGUAGE = "auralink.captions.language"


def in_language(reader: Reader, language: str) -> list[dict]:
    return [stream for stream in reader.streams if stream["auralink.language"] == language]


async def translated_texts(server, http) -> int:
    async with http.get(f"{server.http}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    return sum(int(float(line.split()[-1])) for line in lines if line.startswith("auralink_translation_texts_total"))


async def test_everyone_reads_their_own_language(join, server, room_name, http):
    plain, one, two, french = Reader(), Reader(), Reader(), Reader()
    speaker = await join("speaker")
    await join("plain", prepare=plain.prepare)
    await join("one", prepare=one.prepare, token=server.token(room_name, "one", attributes={LANGUAGE: "de"}))
    other = await join("two", prepare=two.prepare)
    await other.local_participant.set_attributes({LANGUAGE: "de-AT"})
    wish = await join("french", prepare=french.prepare)
    mine = {"url": f"{server.http}/api/v1/rooms/{room_name}/captions/me"}
    mine["headers"] = {"Authorization": f"Bearer {server.token(room_name, 'french')}"}
    async with http.put(**mine, json={"language": "fr"}) as answer:
        assert answer.status == 204, await answer.text()
    async with http.put(**mine, json={"language": "not a language"}) as answer:
        assert answer.status == 400 and "BCP 47" in await answer.text()
    await until(lambda: wish.local_participant.attributes.get(LANGUAGE) == "fr", "the wish to be told to everyone")
    source, _ = await microphone(speaker)
    await until(lambda: speaker.local_participant.attributes.get("auralink.captions") == "on", "to be told that captions run")
    before = await translated_texts(server, http)
    sentences = unseen_sentences(2)
    await say(source, spoken(tuple(sentences), RATE))
    await until(lambda: all(len(reader.finals()) >= len(sentences) for reader in (plain, one, two, french)), "every language's closed segments")

    check(sentences, plain.finals(), "who reads no other language reads what was said")
    assert {stream["auralink.language"] for stream in plain.streams} == {"en"}
    for reader, language in ((one, "de"), (two, "de"), (french, "fr")):
        assert {stream["auralink.language"] for stream in reader.streams} == {language}
        assert {stream["identity"] for stream in reader.streams} == {"speaker"}
        grown = {}
        for stream in reader.streams:
            text = grown.get(stream["lk.segment_id"], "")
            assert stream["text"].startswith(text), "what was shown is not taken back"
            grown[stream["lk.segment_id"]] = stream["text"]
    assert one.finals() == two.finals() and one.finals() != french.finals()
    # Each clause once for each of two languages, though three people read them.
    made = await translated_texts(server, http) - before
    clauses = len(in_language(one, "de"))
    assert made % 2 == 0 and 2 * len(sentences) <= made <= 2 * (clauses + len(sentences)), (made, clauses)
    await wish.local_participant.set_attributes({LANGUAGE: ""})
    await until(lambda: not wish.local_participant.attributes.get(LANGUAGE), "the wish to be taken back")
    count = len(plain.finals())
    await say(source, spoken(tuple(sentences[:1]), RATE))
    await until(lambda: len(plain.finals()) > count and plain.finals()[-1] in french.finals(), "what was said, as it was said")
