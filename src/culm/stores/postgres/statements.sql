-- What the store asks beside its functions, by name. {schema} is the quoted name of culm's schema.

-- name: server  (schema) -> what the server is, what its settings promise, how many connections it takes
SELECT current_setting('server_version_num')::int AS number, current_setting('server_version') AS version,
    pg_backend_pid() AS pid, pg_is_in_recovery() AS standby, current_setting('server_encoding') AS encoding,
    current_setting('synchronous_commit') AS synchronous_commit, current_setting('fsync') AS fsync,
    current_setting('synchronous_standby_names') <> '' AS standbys,
    current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int AS most,
    (SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user) AS of_role,
    (SELECT datconnlimit FROM pg_database WHERE datname = current_database()) AS of_database,
    to_regnamespace(quote_ident($1)) IS NOT NULL AS there,
    CASE WHEN to_regnamespace(quote_ident($1)) IS NOT NULL THEN has_schema_privilege(current_user, $1, 'USAGE') END AS usable
-- name: version_there  (schema) -> whether culm's tables are in it
SELECT to_regclass(quote_ident($1) || '.version') IS NOT NULL
-- name: privileges_missing  (schema) -> privilege, name
SELECT p AS privilege, c.relname AS name FROM pg_class c, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) p
WHERE c.relnamespace = to_regnamespace(quote_ident($1)) AND c.relkind = 'r' AND (c.relname <> 'version' OR p = 'SELECT')
    AND NOT has_table_privilege(c.oid, p)
UNION ALL
SELECT 'USAGE', c.relname FROM pg_class c
WHERE c.relnamespace = to_regnamespace(quote_ident($1)) AND c.relname = 'sends' AND NOT has_sequence_privilege(c.oid, 'USAGE')
UNION ALL
SELECT 'EXECUTE', f.proname FROM pg_proc f
WHERE f.pronamespace = to_regnamespace(quote_ident($1)) AND NOT has_function_privilege(f.oid, 'EXECUTE')
ORDER BY 2, 1

-- name: finish_plain
SELECT {schema}.finish_plain($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
-- name: send_plain
SELECT {schema}.send_plain($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
-- name: commit
SELECT {schema}.commit(
    $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25, $26, $27, $28, $29, $30,
    $31, $32, $33, $34, $35, $36, $37, $38, $39
)
-- name: claim
SELECT * FROM {schema}.claim($1, $2, $3, $4, $5, $6, $7, $8, $9)
-- name: extend
SELECT {schema}.extend($1, $2, $3, $4)
-- name: arm
SELECT {schema}.arm($1, $2, $3, $4)
-- name: disarm
SELECT {schema}.disarm($1, $2)
-- name: look  (now, who, ids) -> job_id, ended, last
SELECT * FROM {schema}.look($1, $2, $3)
-- name: replay
SELECT {schema}.replay($1, $2)
-- name: purge
SELECT {schema}.purge($1, $2, $3, $4)
-- name: sweep
SELECT {schema}.sweep($1, $2)
-- name: resume
SELECT {schema}.resume($1)

-- name: discard  (ids) -> how many
WITH gone AS (DELETE FROM {schema}.done WHERE id = ANY ($1::text[]) AND ended IN (2, 5) RETURNING 1) SELECT count(*) FROM gone
-- name: pause  (queue)
INSERT INTO {schema}.paused VALUES ($1) ON CONFLICT DO NOTHING
-- name: now
SELECT {schema}.ms()
-- name: register  (id, info, for_ms, now)
SELECT {schema}.register($1, $2, $3, $4)
-- name: workers  (now) -> info
SELECT info FROM {schema}.workers WHERE until > coalesce($1::bigint, {schema}.ms()) ORDER BY id

-- name: view  (id) -> columns of a view
SELECT {schema}.ms() AS now, v.* FROM {schema}.views($1::text[]) v
-- name: ids_after  (id, limit, queue or NULL, task or NULL, scope or NULL) -> id; of all jobs, by ascending id
SELECT id FROM (
    (SELECT id FROM {schema}.jobs WHERE id > $1::text AND ($3::text IS NULL OR queue = $3) AND ($4::text IS NULL OR task = $4)
        AND ($5::text IS NULL OR split_part(id, '~', 1) = $5) ORDER BY id LIMIT $2::int)
    UNION ALL
    (SELECT id FROM {schema}.done WHERE id > $1::text AND ($3::text IS NULL OR queue = $3) AND ($4::text IS NULL OR task = $4)
        AND ($5::text IS NULL OR split_part(id, '~', 1) = $5) ORDER BY id LIMIT $2::int)
) both_tables ORDER BY id COLLATE "C" LIMIT $2::int
-- name: ids_finished_after  (id, limit, queue or NULL, task or NULL, scope or NULL, ended) -> id
SELECT id FROM {schema}.done
WHERE id > $1::text AND ($3::text IS NULL OR queue = $3) AND ($4::text IS NULL OR task = $4)
    AND ($5::text IS NULL OR split_part(id, '~', 1) = $5) AND ended = $6::int ORDER BY id LIMIT $2::int
-- name: ids_dead_after  (id, limit, queue or NULL, task or NULL, scope or NULL) -> id
SELECT id FROM {schema}.done
WHERE id > $1::text AND ($3::text IS NULL OR queue = $3) AND ($4::text IS NULL OR task = $4)
    AND ($5::text IS NULL OR split_part(id, '~', 1) = $5) AND died IS NOT NULL ORDER BY id LIMIT $2::int
-- name: ids_unfinished_after  (id, limit, queue or NULL, task or NULL, scope or NULL) -> id
SELECT id FROM {schema}.jobs
WHERE id > $1::text AND ($3::text IS NULL OR queue = $3) AND ($4::text IS NULL OR task = $4)
    AND ($5::text IS NULL OR split_part(id, '~', 1) = $5) ORDER BY id LIMIT $2::int
-- name: ahead  (now, id) -> jobs
SELECT {schema}.ahead($1::bigint, $2::text)
-- name: triggers_of  (id, roots) -> tid, root, need, reached
SELECT t.tid, t.root, t.need, t.reached FROM {schema}.triggers t
WHERE t.job_id = $1::text AND t.root = ANY ($2::text[]) AND EXISTS (SELECT 1 FROM {schema}.jobs j WHERE j.id = $1)
-- name: awaits_of  (tid) -> topic, how many events reach it, how many there are
SELECT a.topic, a.events, coalesce((SELECT t.events FROM {schema}.topics t WHERE t.root = a.root AND t.topic = a.topic), 0)
FROM {schema}.awaits a WHERE a.tid = $1::bigint ORDER BY a.topic
-- name: events  (root, topic, after, limit) -> key, value
SELECT key, value FROM {schema}.events WHERE root = $1 AND topic = $2 AND key > $3 ORDER BY key LIMIT $4
-- name: records  (root, flow, after, limit) -> seq, value
SELECT seq, value FROM {schema}.records WHERE root = $1 AND flow = $2 AND seq > $3 ORDER BY seq LIMIT $4
-- name: counts  (now) -> queue, paused, ready, delayed, waiting, leased, oldest
SELECT * FROM {schema}.counts($1)

-- name: notify  (channels, payloads)
SELECT pg_notify(c, p) FROM unnest($1::text[], $2::text[]) n (c, p)
-- name: notify_large  (channel, hints)
WITH kept AS (INSERT INTO {schema}.hints (at, hints) VALUES ({schema}.ms(), $2) RETURNING n) SELECT pg_notify($1, '#' || n) FROM kept
-- name: large_hints  (n) -> hints
SELECT hints FROM {schema}.hints WHERE n = $1

-- name: put_blob  (job id, digest, now, look_ms, bytes)
INSERT INTO {schema}.blobs VALUES ($1, $2, coalesce($3::bigint, {schema}.ms()) + $4::bigint, $5)
ON CONFLICT (job_id, digest) DO UPDATE SET look_at = excluded.look_at, data = excluded.data
-- name: blob  (job id, digest) -> bytes
SELECT data FROM {schema}.blobs WHERE job_id = $1 AND digest = $2
-- name: drop_blobs  (job ids, digests)
DELETE FROM {schema}.blobs b USING unnest($1::text[], $2::text[]) k (job_id, digest) WHERE b.job_id = k.job_id AND b.digest = k.digest
-- name: overdue_blobs  (now, limit, again_ms) -> job id, digest; the oldest first
WITH moment AS (SELECT coalesce($1::bigint, {schema}.ms()) AS now), over AS (
    SELECT job_id, digest, look_at FROM {schema}.blobs, moment WHERE look_at <= now
    ORDER BY look_at, job_id, digest LIMIT $2 FOR UPDATE OF blobs SKIP LOCKED
), again AS (
    UPDATE {schema}.blobs b SET look_at = now + $3::bigint FROM over o, moment WHERE b.job_id = o.job_id AND b.digest = o.digest
)
SELECT job_id, digest FROM over ORDER BY look_at, job_id, digest
