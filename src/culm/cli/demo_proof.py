"""What the store's file proves of a run of the demo: each file's job has exactly one row in the ledger.

The ledger row is written in the transaction of the commit, by a table without any unique key: a job that was committed twice
would have two. It is read here with plain sqlite3, read-only, past all of culm.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from msgspec import Struct

from culm.store import FullStore

PAGE = 1_000


class Proof(Struct, frozen=True):
    files: int  # that the walk found
    committed: int  # jobs of files with exactly one row in the ledger
    twice: list[str]  # ids of any of the run's jobs with more
    missing: int  # files without a committed job

    @property
    def holds(self) -> bool:
        return not self.twice and not self.missing and self.committed == self.files


async def prove(store: FullStore, path: Path, root: str, *, files: int) -> Proof:
    """Compare the jobs of the scope with the ledger in the file."""
    ledger = _ledger(path, root)
    ids: list[str] = []
    after = f"{root}~"
    while page := await store.jobs(queue="demo.files", after=after, limit=PAGE):
        ours = [view for view in page if view.id.startswith(f"{root}~")]
        ids += [view.id for view in ours]
        after = page[-1].id
        if len(ours) < len(page):
            break
    committed = sum(1 for job_id in ids if ledger.get(job_id) == 1)
    missing = max(0, files - len(ids)) + sum(1 for job_id in ids if job_id not in ledger)
    return Proof(files, committed, [job_id for job_id, rows in ledger.items() if rows > 1], missing)


def _ledger(path: Path, root: str) -> dict[str, int]:
    with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as connection:
        rows = connection.execute(
            "SELECT id, count(*) FROM ledger WHERE id = ? OR substr(id, 1, ?) = ? GROUP BY id", (root, len(root) + 1, f"{root}~")
        )
        return dict(rows.fetchall())
