"""What happens between a bot and Discord: its gateway, its REST interface, its channels."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import repeat

from benchmarks.faults import PATIENCE, Seen, Trial, answered, asked, logged
from benchmarks.host import Bench
from tests.bot.fake_discord import CHANNEL, FakeDiscord, Fault

MANY = 40


def _reconnects(
    fault: str,
    how: str,
    happens: Callable[[Bench], None],
    heard: Sequence[str],
    *,
    resumed: bool,
) -> Trial:
    """The connection breaks; it comes back by itself, with what was said meanwhile or not."""

    def run(bench: Bench) -> Seen:
        host, fake = bench.host, bench.discord.fake
        since, known, before = len(host.log), len(fake.heard), bench.discord.answers
        began = time.monotonic()
        happens(bench)
        if resumed:
            bench.discord.says("!gpu vision")
        host.wait(lambda: fake.heard[known:] == list(heard), PATIENCE)
        fake.acks = True
        said, _ = logged(bench, ["stopped responding", "invalidated", "RESUMED", "session"], since)
        noticed = time.monotonic() - began
        if resumed:
            recovered = answered(bench, before, began)
            return Seen(said, noticed, recovered, "nothing: what was written meanwhile is answered")
        host.wait(lambda: host.logged(r"on Discord as|RESUMED", since), PATIENCE)
        host.wait_for(lambda line: line["online"], PATIENCE)
        recovered = time.monotonic() - began
        asked(bench)
        return Seen(said, noticed, recovered, "what is written until it is connected again")

    return Trial(fault, how, run)


def _cut(bench: Bench) -> None:
    bench.discord.do(bench.discord.fake.drop())


def _close(bench: Bench) -> None:
    bench.discord.do(bench.discord.fake.drop(4000))


def _not_resumed(bench: Bench) -> None:
    bench.discord.fake.resumes = "invalid"
    _close(bench)


def _invalid(bench: Bench) -> None:
    bench.discord.do(bench.discord.fake.invalidate(resumable=False))


def _zombie(bench: Bench) -> None:
    bench.discord.fake.acks = False


def _repeated(fault: str, how: str, kind: Fault) -> Trial:
    """A post that goes wrong once: the answer arrives all the same, and once."""

    def run(bench: Bench) -> Seen:
        fake = bench.discord.fake
        posts, before = fake.posts, bench.discord.answers
        fake.faults.append(kind)
        recovered = asked(bench)
        bench.host.wait(lambda: fake.posts >= posts + 2, PATIENCE)
        assert bench.discord.answers == before + 1, "it came twice"
        return Seen(
            "nothing: it is posted again with the same nonce",
            None,
            recovered,
            "nothing; one answer",
        )

    return Trial(fault, how, run)


def _not_delivered(fault: str, how: str, kind: Fault) -> Trial:
    """Posts that go wrong until the cause is mended."""

    def run(bench: Bench) -> Seen:
        host, fake, since = bench.host, bench.discord.fake, len(bench.host.log)
        fake.faults.extend(repeat(kind, MANY))
        bench.discord.says("!gpu vision")
        said, noticed = logged(bench, [f"could not answer in channel {CHANNEL}"], since)
        fake.faults.clear()
        recovered = asked(bench)
        assert host.process.poll() is None
        return Seen(said, noticed, recovered, "that answer, which the log tells")

    return Trial(fault, how, run)


def _channel_gone(bench: Bench) -> Seen:
    host, fake, since = bench.host, bench.discord.fake, len(bench.host.log)
    bench.discord.do(fake.delete_channel())
    fake.faults.extend(repeat("404", MANY))
    bench.discord.says("!gpu vision")
    said, noticed = logged(bench, [f"could not answer in channel {CHANNEL}"], since)
    fake.faults.clear()
    bench.discord.do(fake.create_channel())
    recovered = asked(bench)
    assert host.process.poll() is None
    return Seen(said, noticed, recovered, "that answer, which the log tells")


def _twice(bench: Bench) -> Seen:
    recovered = asked(bench, times=3)
    return Seen("nothing", None, recovered, "nothing; one answer")


def panel(fake: FakeDiscord) -> list[str]:
    """The live panels that stand in the channel, by their message's id."""
    return [message["id"] for message in fake.messages if message["components"]]


TRIALS = (
    _reconnects("the connection is cut", "the socket is aborted", _cut, ["resume"], resumed=True),
    _reconnects(
        "Discord closes the connection", "close code 4000", _close, ["resume"], resumed=True
    ),
    _reconnects(
        "Discord does not resume the session",
        "close code 4000, then opcode 9 to the resume",
        _not_resumed,
        ["resume", "identify"],
        resumed=False,
    ),
    _reconnects("the session becomes invalid", "opcode 9", _invalid, ["identify"], resumed=False),
    _reconnects(
        "a zombie connection",
        "heartbeats are not answered (limit 60 s)",
        _zombie,
        ["resume"],
        resumed=False,
    ),
    _repeated("rate limit at an answer", "429", "rate limit"),
    _repeated("bad gateway at an answer", "502", "502"),
    _repeated("bad gateway, but it was delivered", "502 after the post", "502 but delivered"),
    _repeated("cut at an answer, but it was delivered", "cut after the post", "cut but delivered"),
    _not_delivered("Discord takes no posts", "503 to every post", "503"),
    _not_delivered("the permission to post is taken away", "403 to every post", "403"),
    Trial("the channel is deleted", "CHANNEL_DELETE, 404 to every post", _channel_gone),
    Trial("a message is delivered three times", "MESSAGE_CREATE three times", _twice),
)
