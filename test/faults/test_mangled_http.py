"""Thousands of requests that are not quite HTTP: each has one correct answer, or none."""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from harness import Daemon
from wire import parse

SEED = 20_261_121
AT_A_TIME = 100
CLIENT_TIMEOUT_S = 60
MAX_BODY_SIZE = 300_000
MAX_HEADER_SIZE = 20_000
LIMITS = {
    "MAX_BODY_SIZE": str(MAX_BODY_SIZE),
    "MAX_HEADER_SIZE": str(MAX_HEADER_SIZE),
    "KEEP_ALIVE_SEC": "0.3",
    "REQUEST_TIMEOUT_SEC": "0.6",
    "LOG_LEVEL": "WARNING",
    "WORKERS": "2",
}
PATH = b"/v1/models/model-1:predict"

Mutation = Callable[[random.Random, bytes], bytes]


# The reference: what a reader of RFC 9112 who forgives nothing sees in the bytes that were sent


@dataclass(frozen=True)
class Seen:
    method: str
    is_good: bool


LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+) ([\x21-\x7e\x80-\xff]+) HTTP/1\.([0-9])")
FIELD = re.compile(
    rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*((?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*"
    rb"[\x21-\x7e\x80-\xff])?)?)[ \t]*"
)
CHUNK = re.compile(rb"([0-9a-fA-F]{1,16})[ \t]*(?:;[^\r\n\0]*)?\r\n")


def requests_in(data: bytes) -> list[Seen]:
    """List the requests; one that is bad or not whole is the last."""
    seen: list[Seen] = []
    while data := data.lstrip(b"\r\n"):
        head, end, rest = data.partition(b"\r\n\r\n")
        line, *fields = head.split(b"\r\n")
        matched = LINE.fullmatch(line)
        method = matched[1].decode() if matched else data.partition(b" ")[0].decode("latin-1")
        length = _body_length(matched, fields, rest) if matched and end else None
        seen.append(Seen(method, length is not None))
        if length is None:
            break
        data = rest[length:]
    return seen


def _body_length(line: re.Match[bytes], fields: list[bytes], rest: bytes) -> int | None:
    found: dict[bytes, list[bytes]] = {}
    for field in fields:
        matched = FIELD.fullmatch(field)
        if matched is None:
            return None
        found.setdefault(matched[1].lower(), []).append(matched[2])
    if line[3] != b"0" and len(found.get(b"host", [])) != 1:
        return None
    lengths = found.get(b"content-length", [])
    encodings = found.get(b"transfer-encoding", [])
    if encodings:
        is_chunked = [one.lower() for one in encodings] == [b"chunked"]
        return _chunked_length(rest) if is_chunked and not lengths and line[3] != b"0" else None
    if not lengths:
        return 0
    if len(lengths) > 1 or not re.fullmatch(rb"[0-9]{1,12}", lengths[0]):
        return None
    length = int(lengths[0])
    return length if length <= min(MAX_BODY_SIZE, len(rest)) else None


def _chunked_length(rest: bytes) -> int | None:
    at, total = 0, 0
    while matched := CHUNK.match(rest, at):
        size = int(matched[1], 16)
        total += size
        at = matched.end()
        if size == 0:
            return _trailers_end(rest, at)
        if total > MAX_BODY_SIZE or rest[at + size : at + size + 2] != b"\r\n":
            return None
        at += size + 2
    return None


def _trailers_end(rest: bytes, at: int) -> int | None:
    while True:
        line, end, _ = rest[at:].partition(b"\r\n")
        if not end:
            return None
        at += len(line) + 2
        if not line:
            return at
        if not FIELD.fullmatch(line):
            return None


# Valid requests, and what is done to them


def bodies(rng: random.Random) -> bytes:
    deep = rng.choice([500, 1100, 100_000])
    return rng.choice(
        [
            b'{"instances": [[1, 2], [3, 4]]}',
            b'{"do": "anything", "text": "\xc3\xbc"}',
            b"[" * deep + b"]" * deep,
            b'{"a":' * (deep // 2) + b"1" + b"}" * (deep // 2),
            b'{"a": "\xff\xfe"}',
            b'{"a": "\\ud800"}',
            b'{"a": %s}' % rng.choice([b"1" * 400, b"-9223372036854775809", b"1e999", b"NaN"]),
            b'{"a": 1, "a": 2, "a": [3]}',
            b'{"a": "\0"}',
            b"\xef\xbb\xbf{}",
            b"",
            b"null",
            bytes(rng.randrange(256) for _ in range(rng.randrange(200))),
        ]
    )


def sized(rng: random.Random) -> bytes:
    body = bodies(rng)
    head = b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" % PATH
    return head + b"Content-Length: %d\r\n\r\n%s" % (len(body), body)


def chunked(rng: random.Random) -> bytes:
    body = bodies(rng)[:5000]
    step = rng.choice([1, 7, 1000])
    parts = [body[at : at + step] for at in range(0, len(body), step)]
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
    head = b"POST %s HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" % PATH
    return head + chunks + b"0\r\n\r\n"


def bodiless(rng: random.Random) -> bytes:
    method = rng.choice([b"GET", b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"CONNECT", b"BREW"])
    target = rng.choice([b"/", b"/v1/models", b"/metrics", b"/no", b"*", b"http://a/", b"a:80"])
    version = rng.choice([b"1.1", b"1.1", b"1.0", b"2.0", b"0.9", b"1.9"])
    return b"%s %s HTTP/%s\r\nHost: localhost\r\nX-Request-Id: a\r\n\r\n" % (
        method,
        target,
        version,
    )


def valid(rng: random.Random) -> bytes:
    return rng.choice([sized, sized, chunked, bodiless])(rng)


def flip_bits(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8])):
        changed[rng.randrange(min(len(changed), 400))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def truncate(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(1, len(data) + 1)]


def insert(rng: random.Random, data: bytes) -> bytes:
    odd = [
        b"\r",
        b"\n",
        b"\0",
        b"\r\n",
        b"\n\n",
        b"\r\n\r\n",
        b" ",
        b"\t",
        b":",
        b"\xff",
        b"\r\r\n",
    ]
    at = rng.randrange(min(len(data), 400))
    return data[:at] + rng.choice(odd) + data[at:]


def loosen_line_ends(rng: random.Random, data: bytes) -> bytes:
    return data.replace(
        b"\r\n", rng.choice([b"\n", b"\r", b"\r\r\n", b"\n\r"]), rng.choice([1, 2, 9])
    )


def change_length(rng: random.Random, data: bytes) -> bytes:
    odd = [b"-1", b"+3", b"0x10", b"1e3", b"", b"9" * 30, b"9" * 5000, b"5, 5", b"5,6", b"1 2"]
    odd += [b"%d" % rng.randrange(100), b"\xb2", b"0", b"00012"]
    return re.sub(rb"Content-Length: \d+", b"Content-Length: " + rng.choice(odd), data, count=1)


def change_chunking(rng: random.Random, data: bytes) -> bytes:
    odd = [
        b"-1",
        b"0x5",
        b"g",
        b"",
        b"f" * 17,
        b"7fffffffffffffff",
        b"5;a=b",
        b"5 ;x",
        b"5;\n",
        b"00",
    ]
    head, end, body = data.partition(b"\r\n\r\n")
    size, _, rest = body.partition(b"\r\n")
    return head + end + rng.choice([*odd, size + b";ext"]) + b"\r\n" + rest


def smuggle(rng: random.Random, data: bytes) -> bytes:
    line = rng.choice(
        [
            b"Transfer-Encoding: chunked",
            b"Transfer-Encoding : chunked",
            b"Transfer-Encoding: xchunked",
            b"Transfer-Encoding:\x0bchunked",
            b"Transfer-Encoding: chunked, identity",
            b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
            b"Transfer_Encoding: chunked",
            b"X: y\r\n Transfer-Encoding: chunked",
            b"X: y\nTransfer-Encoding: chunked",
            b"Content-Length: 0",
            b"Content-Length: 5\r\nContent-Length: 6",
            b"content-length: 3",
            b"Host: other",
            b"Connection: Content-Length",
            b"Expect: 100-continue",
            b"Upgrade: h2c\r\nConnection: Upgrade",
        ]
    )
    hidden = rng.choice(
        [b"", b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n", b"0\r\n\r\nGET / HTTP/1.1\r\n"]
    )
    return data.replace(b"\r\n", b"\r\n" + line + b"\r\n", 1) + hidden


def enlarge_head(rng: random.Random, data: bytes) -> bytes:
    much = rng.choice(
        [b"X: " + b"x" * 100_000, b"\r\n".join(b"X-%d: y" % n for n in range(8000)), b"Y" * 100_000]
    )
    return data.replace(b"\r\n", b"\r\n" + much + b"\r\n", 1)


def pipeline(rng: random.Random, data: bytes) -> bytes:
    return data + b"".join(valid(rng) for _ in range(rng.randrange(1, 4)))


def leave(rng: random.Random, data: bytes) -> bytes:
    return data


MUTATIONS: list[Mutation] = [
    *(flip_bits, truncate, insert, loosen_line_ends, change_length),
    *(change_chunking, smuggle, enlarge_head, pipeline, leave),
]


def case(number: int) -> bytes:
    """Make what one connection sends; the same for the same number."""
    rng = random.Random(SEED + number)
    data = valid(rng)
    for mutation in rng.choices(MUTATIONS, k=rng.choice([1, 1, 2, 3])):
        data = mutation(rng, data)
    return data


# The exchange


async def exchange(port: int, number: int, sent: bytes) -> tuple[bytes, bool]:
    """Send, at times in pieces; give what came until the end, and whether that was a reset."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    received = b""
    try:
        sending = asyncio.ensure_future(_send(writer, number, sent))
        while part := await asyncio.wait_for(reader.read(1 << 16), CLIENT_TIMEOUT_S):
            received += part
        await asyncio.wait_for(sending, CLIENT_TIMEOUT_S)
    except ConnectionError:
        return received, True
    finally:
        writer.transport.abort()
    return received, False


async def _send(writer: asyncio.StreamWriter, number: int, sent: bytes) -> None:
    rng = random.Random(number)
    try:
        while sent:
            size = rng.choice([1, 20, 300]) if number % 10 == 0 and len(sent) < 5000 else len(sent)
            writer.write(sent[:size])
            await writer.drain()
            sent = sent[size:]
            await asyncio.sleep(0)
    except ConnectionError:
        return  # it is closed: what came back is what counts


def judge(sent: bytes, received: bytes, was_reset: bool) -> list[str]:
    """Name the outcome of each answer. Raises: AssertionError where it is none of the correct."""
    seen = requests_in(sent)
    methods = [one.method for one in seen]
    answers, rest = parse(received, methods)
    if rest and not seen[-1].is_good:
        # Refused before it was known to be HEAD, so the answer has a body.
        answers, rest = parse(received, methods[:-1])
    assert was_reset or not rest, f"half an answer: {rest[:200]!r}"
    final = [answer for answer in answers if answer.status >= 200]
    assert len(final) <= len(seen), f"{len(final)} answers to {len(seen)} requests"
    for answer, request in zip(final, seen, strict=False):
        if answer.status < 300:
            assert request.is_good, f"{answer.status} to a request that is none"
        else:
            assert 400 <= answer.status < 500, answer
            if answer.body:
                assert json.loads(answer.body)["status_code"] == answer.status
    if len(final) < len(seen) and not was_reset and final:
        assert final[-1].closes or not seen[len(final)].is_good, "a good request without answer"
    return [str(answer.status) for answer in final] or ["reset" if was_reset else "closed"]


async def run(port: int, count: int) -> tuple[Counter[str], list[str]]:
    outcomes: Counter[str] = Counter()
    failures: list[str] = []
    numbers = iter(range(count))

    async def client() -> None:
        for number in numbers:
            sent, received = case(number), b""
            try:
                received, was_reset = await exchange(port, number, sent)
                outcomes.update(judge(sent, received, was_reset))
            except (AssertionError, OSError, asyncio.TimeoutError) as error:
                failures.append(f"case {number}: {error!r}\n  {sent[:600]!r}\n  {received[:600]!r}")

    await asyncio.gather(*(client() for _ in range(AT_A_TIME)))
    return outcomes, failures


@pytest.mark.timeout(900)
def test_mangled_requests(
    anything_model: Path, figures: Callable[[str], None], is_full: bool
) -> None:
    count = 20_000 if is_full else 2_500
    with Daemon(anything_model, env=LIMITS) as daemon:
        before = daemon.worker_pids()
        outcomes, failures = asyncio.run(run(daemon.http_port, count))
        figures(f"{count} requests, seed {SEED}: {dict(sorted(outcomes.items()))}")
        assert not failures, f"{len(failures)}:\n" + "\n".join(failures[:5])
        assert outcomes["200"], "some are left as they were"
        assert daemon.predict({"still": "serving"}).json() == {"type": "dict"}
        assert daemon.worker_pids() == before
        assert daemon.metric("pyfuncserver_worker_restarts_total") == 0
        assert "internal error" not in daemon.log()


@pytest.fixture
def anything_model(save_model) -> Path:
    return save_model("anything", lambda models, path: models.save(models.Anything(), path))
