-- Schema 1. application_id 0x63756c6d ("culm"), user_version 1. Instants are milliseconds since the epoch, by this machine's clock.
--
-- An unfinished job is in `held` (leased), in `ready` (open, claimable from `due`), or in neither (open, until a release).
-- A claim moves it from `ready` to `held` and leaves its row in `jobs` alone: what a lease changes lies in `held`.

CREATE TABLE queues (qid INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, paused INTEGER NOT NULL DEFAULT 0);

CREATE TABLE jobs (
    rid INTEGER PRIMARY KEY,                -- grows with every send: equal dues keep this order
    id TEXT NOT NULL UNIQUE,
    lane INTEGER NOT NULL,                  -- qid * 10 + 9 - priority
    sent INTEGER NOT NULL,
    due INTEGER,                            -- what Released gives back; NULL: only a release. Of a dead letter: when it died
    attempt INTEGER NOT NULL DEFAULT 0,     -- these three without the current lease
    expiries INTEGER NOT NULL DEFAULT 0,
    fence INTEGER NOT NULL DEFAULT 0,
    flags INTEGER NOT NULL DEFAULT 0,       -- see flags.py
    ended INTEGER,                          -- 1 succeeded, 2 failed, 3 cancelled, 4 expired, 5 lost; NULL: unfinished
    sweep_at INTEGER,                       -- NULL: unfinished, or a dead letter
    job BLOB NOT NULL,                      -- written once
    last BLOB                               -- outcome of the last attempt that ended
);
CREATE INDEX jobs_to_sweep ON jobs (sweep_at) WHERE sweep_at IS NOT NULL;

CREATE TABLE ready (lane INTEGER, due INTEGER, rid INTEGER, PRIMARY KEY (lane, due, rid)) WITHOUT ROWID;

CREATE TABLE held (
    rid INTEGER PRIMARY KEY,
    lid INTEGER NOT NULL,
    until INTEGER NOT NULL,
    grants INTEGER NOT NULL                 -- claims since the job was last open: all but the first found a lease that ran out
);
CREATE TABLE leases (
    lid INTEGER PRIMARY KEY,
    lease TEXT NOT NULL UNIQUE,
    until INTEGER NOT NULL,                 -- no job under this lease is overdue before
    jobs INTEGER NOT NULL                   -- how many it still holds; at 0 the row goes
);
CREATE TABLE claimers (claimer TEXT PRIMARY KEY, lease TEXT NOT NULL, at INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE clients (client TEXT PRIMARY KEY, number INTEGER NOT NULL, refused BLOB, at INTEGER NOT NULL) WITHOUT ROWID;

CREATE TABLE scopes (root TEXT PRIMARY KEY, live INTEGER NOT NULL, sweep_at INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;
CREATE TABLE topics (root TEXT, topic TEXT, events INTEGER NOT NULL, PRIMARY KEY (root, topic)) WITHOUT ROWID;
CREATE TABLE events (root TEXT, topic TEXT, key TEXT, value BLOB NOT NULL, PRIMARY KEY (root, topic, key)) WITHOUT ROWID;
CREATE TABLE triggers (tid INTEGER PRIMARY KEY, root TEXT NOT NULL, job_id TEXT NOT NULL, need INTEGER NOT NULL, reached INTEGER NOT NULL);
CREATE INDEX triggers_of_scope ON triggers (root);
CREATE TABLE awaits (                       -- the topics that a trigger still waits for
    root TEXT, topic TEXT, tid INTEGER, events INTEGER NOT NULL, PRIMARY KEY (root, topic, tid)
) WITHOUT ROWID;
CREATE INDEX awaits_of_trigger ON awaits (tid);
CREATE TABLE records (root TEXT, flow TEXT, seq INTEGER, value BLOB NOT NULL, PRIMARY KEY (root, flow, seq)) WITHOUT ROWID;

CREATE TABLE tombstones (id TEXT PRIMARY KEY, sweep_at INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE workers (id TEXT PRIMARY KEY, info BLOB NOT NULL, until INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE hints (n INTEGER PRIMARY KEY AUTOINCREMENT, channel TEXT NOT NULL, at INTEGER NOT NULL, hint BLOB NOT NULL);
CREATE INDEX hints_of_channel ON hints (channel, n);

CREATE TABLE ledger (id TEXT NOT NULL, lease TEXT NOT NULL, at INTEGER NOT NULL);  -- written in test mode only: one row per final commit, without a key
