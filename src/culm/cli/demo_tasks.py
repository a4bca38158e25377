"""The demo's tasks: walk a tree, fork a job per file, join what came of them into a report.

    walk ──forks──> [share of 1,000 files ──forks──>] digest of a file   (topic "hashed")
      └──join──> report, once the topic holds as many events as there are files

A file that cannot be read is a failed member: it counts in the join all the same, and the report names it.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Iterable, Iterator

from msgspec import Struct

from culm.app import App
from culm.current import ReadEvent, current
from culm.outcome import Failed, Succeeded
from culm.task import when

app = App()  # $CULM_URL

TOPIC = "hashed"
DIRECTLY = 5_000  # files that the root forks by itself: one attempt may send 10,000 things
SHARE = 1_000  # files of one share
SHARE_BYTES = 500_000  # of the paths in one share: arguments may take 1 MiB
READ_BYTES = 1 << 18
LARGEST = 5
LONGEST_PAUSE_S = 0.3


class Skipped(Struct, frozen=True):
    """What the walk left out, by number."""

    hidden: int = 0
    caches: int = 0
    environments: int = 0
    links: int = 0
    special: int = 0  # sockets, pipes, devices
    unreadable: int = 0  # folders


class Pace(Struct, frozen=True):
    """Slows the work down, so that there is a half-way: it shall take about `seconds` in `lanes` at once."""

    seconds: float
    lanes: int


class Forked(Struct, frozen=True):
    files: int
    shares: int
    skipped: Skipped
    report: str  # the id of the join


class FileFacts(Struct, frozen=True):
    path: bytes
    size: int
    lines: int
    sha256: str


class Report(Struct, frozen=True):
    files: int  # that were read
    bytes: int
    lines: int
    digest: str  # SHA-256 over "digest path" of all files, in the order of their paths
    largest: list[tuple[str, int]]
    failures: list[str]
    skipped: Skipped


@app.task(name="demo.walk", queue="demo")
def walk(folder: bytes, pace: Pace | None = None) -> Forked:
    """Fork a job per file of the folder, and the join that awaits them all."""
    counts: dict[str, int] = {}
    files = sorted(find_files(folder, counts))
    skipped = Skipped(**counts)
    pause = 0.0 if pace is None or not files else min(LONGEST_PAUSE_S, pace.seconds * pace.lanes / len(files))
    shares = [files] if len(files) <= DIRECTLY else list(_shares(files))
    if len(shares) == 1:
        _fork(files, pause)
    else:
        for some in shares:
            share.sync.enqueue(some, pause)
    join = when((TOPIC, len(files)), run=report.bind(folder, skipped))
    return Forked(len(files), len(shares) if len(shares) > 1 else 0, skipped, join.id)


@app.task(name="demo.share", queue="demo.shares")
def share(files: list[bytes], pause: float) -> None:
    """Fork a part of a tree that is too large for one commit; in the same scope, so that the join hears of it."""
    _fork(files, pause)


def _fork(files: Iterable[bytes], pause: float) -> None:
    task = digest.using(topic=TOPIC)
    for path in files:
        task.sync.enqueue(path, pause)


@app.task(name="demo.digest", queue="demo.files")
def digest(path: bytes, pause: float = 0.0) -> FileFacts:
    """Read one file, in pieces."""
    if pause:
        time.sleep(pause)
    size = lines = 0
    sha = hashlib.sha256()
    last = b"\n"
    with open(path, "rb") as file:
        while piece := file.read(READ_BYTES):
            size += len(piece)
            lines += piece.count(b"\n")
            last = piece[-1:]
            sha.update(piece)
    return FileFacts(path, size, lines + (last != b"\n"), sha.hexdigest())


@app.task(name="demo.report", queue="demo")
def report(folder: bytes, skipped: Skipped) -> Report:
    """Join what came of the files."""
    facts: list[FileFacts] = []
    failures: list[str] = []
    for event in current().events.get(TOPIC, ()):
        _take(event, facts, failures)
    facts.sort(key=lambda f: f.path)
    whole = hashlib.sha256()
    for f in facts:
        whole.update(f"{f.sha256} ".encode() + os.path.relpath(f.path, folder) + b"\n")
    largest = sorted(facts, key=lambda f: (-f.size, f.path))[:LARGEST]
    return Report(
        files=len(facts),
        bytes=sum(f.size for f in facts),
        lines=sum(f.lines for f in facts),
        digest=whole.hexdigest(),
        largest=[(shown(os.path.relpath(f.path, folder)), f.size) for f in largest],
        failures=sorted(failures),
        skipped=skipped,
    )


def _take(event: ReadEvent, facts: list[FileFacts], failures: list[str]) -> None:
    match event.outcome():
        case Succeeded(value=data):
            facts.append(digest.signature.decode_result(data))
        case Failed(fault=fault):
            failures.append(f"{fault.type}: {fault.message}")
        case ended:
            failures.append(f"job {event.key}: {type(ended).__name__.lower()} {ended.reason}".rstrip())


def find_files(folder: bytes, counts: dict[str, int]) -> Iterator[bytes]:
    """The regular files below; `counts` hears what was left out."""
    folders = [folder]
    while folders:
        here = folders.pop()
        try:
            entries = list(os.scandir(here))
        except OSError:
            counts["unreadable"] = counts.get("unreadable", 0) + 1
            continue
        for entry in entries:
            why = _left_out(entry)
            if why:
                counts[why] = counts.get(why, 0) + 1
            elif entry.is_dir(follow_symlinks=False):
                folders.append(entry.path)
            else:
                yield entry.path


def _left_out(entry: os.DirEntry[bytes]) -> str:
    """Why the walk skips it; "": it does not."""
    if entry.is_symlink():
        return "links"
    if entry.is_dir(follow_symlinks=False):
        if entry.name == b"__pycache__":
            return "caches"
        if os.path.exists(os.path.join(entry.path, b"pyvenv.cfg")):
            return "environments"
        return "hidden" if entry.name.startswith(b".") else ""
    try:
        return "" if stat.S_ISREG(entry.stat(follow_symlinks=False).st_mode) else "special"
    except OSError:
        return ""  # it has just gone: its job will say so


def _shares(files: list[bytes]) -> Iterator[list[bytes]]:
    some: list[bytes] = []
    size = 0
    for path in files:
        if some and (len(some) == SHARE or size + len(path) > SHARE_BYTES):
            yield some
            some, size = [], 0
        some.append(path)
        size += len(path) + 8
    if some:
        yield some


def shown(path: bytes) -> str:
    """A path as text that any terminal takes."""
    return path.decode("utf-8", "backslashreplace").encode("unicode_escape").decode() if not _clean(path) else path.decode()


def _clean(path: bytes) -> bool:
    try:
        return path.decode().isprintable()
    except UnicodeDecodeError:
        return False
