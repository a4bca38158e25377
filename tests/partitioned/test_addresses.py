"""Addresses of stores that are made of several, and what is refused, in one line each."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from culm.commit import Commit
from culm.errors import ConfigError
from culm.job import Job
from culm.store import FullStore
from culm.stores.memory import MemoryStore
from culm.stores.open import masked, missing_file, open_store, settled
from culm.stores.partitioned.place import place_of
from culm.stores.partitioned.store import PartitionedStore


async def send(store: FullStore, *ids: str) -> None:
    try:
        sends = [Commit(send=(Job(id=i, task="t"),)) for i in ids]
        assert await store.commit(sends, batch=("app", 1)) == ["applied"] * len(ids)
        assert [v.id for v in await store.jobs()] == sorted(ids)
    finally:
        await store.close()


IDS = [f"job-{n}" for n in range(20)]


def test_a_folder_of_files(tmp_path: Path) -> None:
    asyncio.run(send(open_store(f"sqlite:///{tmp_path}/jobs?partitions=3&durability=relaxed"), *IDS))
    assert sorted(p.name for p in (tmp_path / "jobs").glob("*.db")) == ["0.db", "1.db", "2.db"]


def test_several_addresses_in_their_order(tmp_path: Path) -> None:
    first, second = f"sqlite:///{tmp_path}/a.db", f"sqlite:///{tmp_path}/b.db"
    asyncio.run(send(open_store(f"{first}|{second}"), *IDS))
    with pytest.raises(ConfigError, match="is partition 1 of 2, crc32, and was opened as partition 0 of 2, crc32; the number"):
        asyncio.run(send(open_store(f"{second}|{first}"), *IDS))


def test_another_number_of_partitions_is_refused(tmp_path: Path) -> None:
    asyncio.run(send(open_store(f"sqlite:///{tmp_path}/jobs?partitions=3"), *IDS))
    with pytest.raises(ConfigError, match="is partition 0 of 3, crc32, and was opened as partition 0 of 2"):
        asyncio.run(send(open_store(f"sqlite:///{tmp_path}/jobs?partitions=2"), *IDS))


def test_one_more_partition_is_refused_and_nothing_is_written_there(tmp_path: Path) -> None:
    urls = [f"sqlite:///{tmp_path}/{n}.db" for n in range(3)]
    asyncio.run(send(open_store("|".join(urls[:2])), *IDS))
    store = open_store("|".join(urls))
    with pytest.raises(ConfigError, match="is partition 0 of 2, crc32, and was opened as partition 0 of 3"):
        asyncio.run(send(store, next(i for i in IDS if place_of(i, 3) == 2)))
    asyncio.run(send(open_store(urls[2]), "a"))


def test_a_store_that_has_jobs_already_becomes_no_partition(tmp_path: Path) -> None:
    first, second = f"sqlite:///{tmp_path}/a.db", f"sqlite:///{tmp_path}/b.db"
    asyncio.run(send(open_store(first), "before"))
    with pytest.raises(ConfigError, match="has jobs already, but is no partition"):
        asyncio.run(send(open_store(f"{first}|{second}"), *IDS))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sqlite:///jobs?partitions=0", "partitions is a whole number from 1 to 1,024, got '0'"),
        ("sqlite:///jobs?partitions=-2", "got '-2'"),
        ("sqlite:///jobs?partitions=", "got ''"),
        ("sqlite:///?partitions=2", "names no folder; say sqlite:///folder?partitions=4"),
        ("sqlite:///pyproject.toml?partitions=2", "is a file; with ?partitions= the address names a folder"),
        ("sqlite:////nowhere/at/all?partitions=2", "cannot be made: No such file or directory"),
        ("sqlite:///a.db|", "partition 1 of this address is nothing"),
        ("sqlite:///a.db|memory://", "partition 1 of this address is a memory:// store"),
        ("sqlite:///a.db|sqlite:///a.db", "partitions 0 and 1 of this address are the same store"),
        ("sqlite:///a.db|sqlite:///b?partitions=2", "partition 1 of this address has partitions itself"),
        ("redis://a:secret@one|redis+cluster://b", "partition 1 of this address has partitions itself"),
    ],
)
def test_nonsense_is_refused_in_one_line(url: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_store(url)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_no_partitions_at_all_are_refused() -> None:
    with pytest.raises(ConfigError, match="1 to 1,024 partitions, got 0"):
        PartitionedStore([])


def test_addresses_are_masked_settled_and_missed_part_by_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert masked("redis://a:secret@one|redis://b:hidden@two") == "redis://a:***@one|redis://b:***@two"
    assert settled("sqlite:///a.db|redis://one") == f"sqlite:///{tmp_path}/a.db|redis://one"
    assert missing_file("redis://one|sqlite:///a.db") == tmp_path / "a.db"
    assert missing_file("sqlite:///jobs?partitions=2") == tmp_path / "jobs"


def test_the_partition_of_a_name_never_changes() -> None:
    """Pinned: where the data of every user lies."""
    assert [place_of(name, 64) for name in ("", "a", "order-42", "01a1ffb14cf900000de0ba8f65", "ä")] == [0, 3, 30, 18, 3]


def test_what_crosses_says_where_it_is_in_the_condition() -> None:
    async def run() -> None:
        store = PartitionedStore([MemoryStore() for _ in range(3)])
        condition = await store.condition()
        assert condition.place == "3 partitions, the first at memory://"
        assert (condition.more["partitions"], condition.more["outbox"]) == ("3", "empty")

    asyncio.run(run())
