-- The tables of version 1, in a schema of their own: docs/postgres.md says who writes them, and when rows go.
-- Instants are milliseconds since the epoch, by the server's clock.
--
-- An unfinished job has a row in `jobs`, written once. It is open while `ready` has its turn; it waits for a release while `due` is
-- NULL; else it is leased. A claim takes the turn away and writes one row into `leases` for all that it grants, not one for each:
-- which grant of a job holds is told by `jobs.n` and `jobs.fence`, which a grant has to match.

CREATE TABLE version (number int PRIMARY KEY, at timestamptz NOT NULL DEFAULT now());

CREATE SEQUENCE sends INCREMENT BY 65536;        -- one for each batch: n is that plus the place in the batch

CREATE TABLE jobs (
    id text COLLATE "C" PRIMARY KEY,
    n bigint NOT NULL,                          -- grows with every send: equal dues keep this order; another send of the id has another
    sent bigint NOT NULL,
    due bigint,                                 -- of its turn; of a leased one what Released gives back; NULL: only a release
    keep_ms bigint NOT NULL,
    attempt int NOT NULL DEFAULT 0,             -- these three without the grant that holds now
    expiries int NOT NULL DEFAULT 0,
    fence int NOT NULL DEFAULT 0,
    priority smallint NOT NULL,
    flags smallint NOT NULL DEFAULT 0,          -- 1 topic, 2 counted in its scope, 4 its end is awaited by a trigger, 8 released
    queue text COLLATE "C" NOT NULL,            -- while leased, 16 asked to stop, 32 somebody waits for its outcome
    task text COLLATE "C" NOT NULL,
    topic text COLLATE "C" NOT NULL,
    job bytea NOT NULL,
    last bytea,                                 -- the outcome of the last attempt that ended
    replays smallint NOT NULL DEFAULT 0         -- how often it was a dead letter and was replayed
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);

CREATE TABLE done (                             -- finished jobs that are kept, and dead letters
    id text COLLATE "C" PRIMARY KEY,
    n bigint NOT NULL,
    sent bigint NOT NULL,
    sweep_at bigint,                            -- NULL: a dead letter, which stays
    keep_ms bigint NOT NULL,
    attempt int NOT NULL,
    expiries int NOT NULL,
    fence int NOT NULL,
    priority smallint NOT NULL,
    flags smallint NOT NULL,
    ended smallint NOT NULL,                    -- 1 succeeded, 2 failed, 3 cancelled, 4 expired, 5 lost
    queue text COLLATE "C" NOT NULL,
    task text COLLATE "C" NOT NULL,
    topic text COLLATE "C" NOT NULL,
    job bytea NOT NULL,
    last bytea NOT NULL,
    replays smallint NOT NULL,
    died bigint                                 -- when it became a dead letter
) WITH (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX done_to_sweep ON done (sweep_at) WHERE sweep_at IS NOT NULL;
CREATE INDEX done_dead ON done (id) WHERE died IS NOT NULL;

CREATE TABLE ready (                            -- whose turn it is, lane by lane
    queue text COLLATE "C",
    priority smallint,
    due bigint,
    n bigint,
    id text COLLATE "C" NOT NULL,
    size int NOT NULL,                          -- bytes of the job: a claim is bounded by them
    PRIMARY KEY (queue, priority, due, n)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);

CREATE TABLE leases (                           -- what each claim was granted; extending some of it parts the row
    lid bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    lease text COLLATE "C" NOT NULL,
    until bigint NOT NULL,
    queues text[] NOT NULL,
    ids text[] NOT NULL,
    ns bigint[] NOT NULL,
    fences int[] NOT NULL                       -- of each job, the fence that its grant has; a row of `jobs` that has moved on is not held
) WITH (autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX leases_by_name ON leases (lease);
CREATE INDEX leases_by_end ON leases (until);
ALTER TABLE leases ALTER ids SET STORAGE EXTERNAL, ALTER ns SET STORAGE EXTERNAL, ALTER fences SET STORAGE EXTERNAL; -- short-lived

CREATE TABLE claimers (claimer text COLLATE "C" PRIMARY KEY, lease text NOT NULL, at bigint NOT NULL) WITH (fillfactor = 50);
CREATE TABLE clients (
    client text COLLATE "C" PRIMARY KEY,
    number bigint NOT NULL,                     -- of its last batch
    refused text,                               -- a letter for each commit: a(pplied), l(ease_lost), c(onflict); NULL: all were applied
    at bigint NOT NULL
) WITH (fillfactor = 50);

CREATE TABLE scopes (root text COLLATE "C" PRIMARY KEY, live int NOT NULL, sweep_at bigint) WITH (fillfactor = 70);
CREATE INDEX scopes_to_sweep ON scopes (sweep_at) WHERE sweep_at IS NOT NULL;
CREATE TABLE topics (root text COLLATE "C", topic text COLLATE "C", events bigint NOT NULL, PRIMARY KEY (root, topic)) WITH (fillfactor = 70);
CREATE TABLE events (root text COLLATE "C", topic text COLLATE "C", key text COLLATE "C", value bytea NOT NULL, PRIMARY KEY (root, topic, key));
CREATE TABLE triggers (
    tid bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    root text COLLATE "C" NOT NULL,
    job_id text COLLATE "C" NOT NULL,
    need int NOT NULL,
    reached int NOT NULL
);
CREATE INDEX triggers_of_scope ON triggers (root);
CREATE TABLE awaits (                           -- the topics that a trigger still waits for
    root text COLLATE "C", topic text COLLATE "C", tid bigint, events bigint NOT NULL, PRIMARY KEY (root, topic, tid)
);
CREATE INDEX awaits_of_trigger ON awaits (tid);
CREATE TABLE records (root text COLLATE "C", flow text COLLATE "C", seq bigint, value bytea NOT NULL, PRIMARY KEY (root, flow, seq));

CREATE TABLE tombstones (id text COLLATE "C" PRIMARY KEY, sweep_at bigint NOT NULL);
CREATE INDEX tombstones_to_sweep ON tombstones (sweep_at);
CREATE TABLE paused (queue text COLLATE "C" PRIMARY KEY);
CREATE TABLE workers (id text COLLATE "C" PRIMARY KEY, info bytea NOT NULL, until bigint NOT NULL);
CREATE TABLE alive (one boolean PRIMARY KEY DEFAULT true CHECK (one), last bigint NOT NULL, until bigint NOT NULL); -- when a worker last spoke
INSERT INTO alive (last, until) VALUES (0, 0);

CREATE TABLE waiters (                          -- who wants to hear of a queue: the channel of a process
    queue text COLLATE "C", who text COLLATE "C", until bigint NOT NULL, PRIMARY KEY (queue, who)
);
CREATE TABLE watchers (id text COLLATE "C", who text COLLATE "C", at bigint NOT NULL, PRIMARY KEY (id, who)); -- of an outcome
CREATE TABLE hints (n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at bigint NOT NULL, hints bytea NOT NULL); -- too large to notify

CREATE TABLE ledger (id text NOT NULL, lease text NOT NULL, at bigint NOT NULL); -- written in test mode only: one row per final commit, without a key
