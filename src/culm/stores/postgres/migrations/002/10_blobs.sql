-- Version 2: payloads that are too large for a job's row. A job names its own by digest; who removes them is told in docs/types.md.

CREATE TABLE {schema}.blobs (
    job_id text COLLATE "C",
    digest text COLLATE "C",
    look_at bigint NOT NULL,                    -- when to ask whether there still is such a job
    data bytea NOT NULL,
    PRIMARY KEY (job_id, digest)
) WITH (
    autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0,
    toast.autovacuum_vacuum_scale_factor = 0.05, toast.autovacuum_vacuum_cost_delay = 0
);
CREATE INDEX blobs_by_look ON {schema}.blobs (look_at);
ALTER TABLE {schema}.blobs ALTER data SET STORAGE EXTERNAL; -- short-lived, and often sealed: compressing it is not worth its time
