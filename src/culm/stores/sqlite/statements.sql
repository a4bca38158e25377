-- Every statement of the SQLite store, by name. Each is headed by its parameters and its rows; :json ones take a JSON array of numbers or texts.
-- Lists travel in columns, one parameter each, and come back as one row: the interpreter's lock is given up once per row. Texts and
-- numbers are JSON; blobs are joined, and `places` says where each begins and how long it is (columns.py).

-- name: remember  (client, number, at): changes nothing if that batch was answered already
INSERT INTO clients VALUES (?, ?, NULL, ?)
ON CONFLICT (client) DO UPDATE SET number = excluded.number, refused = NULL, at = excluded.at WHERE excluded.number > number
-- name: refused  (refused, client): commits of its last batch that were not applied
UPDATE clients SET refused = ? WHERE client = ?
-- name: answered  (client) -> number, refused
SELECT number, refused FROM clients WHERE client = ?

-- name: fence  (id, lease) -> rid, flags, lid; no row: the lease does not hold the job
SELECT j.rid, j.flags, h.lid FROM jobs j JOIN held h ON h.rid = j.rid JOIN leases l ON l.lid = h.lid WHERE j.id = ? AND l.lease = ?
-- name: plainly_held  (:json rids, lease) -> rid; those of them that the lease holds and no flag makes special
SELECT h.rid FROM held h JOIN jobs j ON j.rid = h.rid
WHERE h.rid IN (SELECT value FROM json_each(?)) AND h.lid = (SELECT lid FROM leases WHERE lease = ?) AND j.flags = 0
-- name: forget_many  (:json rids)
DELETE FROM jobs WHERE rid IN (SELECT value FROM json_each(?))
-- name: lease_shrinks  (jobs, lid)
UPDATE leases SET jobs = jobs - ? WHERE lid = ?
-- name: lease_ends  (lid)
DELETE FROM leases WHERE lid = ? AND jobs <= 0

-- name: row  (id) -> rid, flags, lane, due, ended, lid or NULL, job
SELECT j.rid, j.flags, j.lane, j.due, j.ended, h.lid, j.job FROM jobs j LEFT JOIN held h ON h.rid = j.rid WHERE j.id = ?
-- name: let_go  (rid)
DELETE FROM held WHERE rid = ?
-- name: forget  (rid)
DELETE FROM jobs WHERE rid = ?
-- name: finish  (ended, last, sweep_at, died, rid)
UPDATE jobs SET ended = ?, last = ?, sweep_at = ?, due = ?, flags = flags & ~24 WHERE rid = ?
-- name: settle  (attempts, last, due, grants, grants, rid): an attempt ended, the job did not; counts what its lease counted
UPDATE jobs SET attempt = attempt + ?, last = ?, due = ?, fence = fence + ?, expiries = expiries + ? - 1, flags = flags & ~24 WHERE rid = ?
-- name: count_grants  (attempts, grants, grants, rid): the same for a job that ended and is kept
UPDATE jobs SET attempt = attempt + ?, fence = fence + ?, expiries = expiries + ? - 1 WHERE rid = ?
-- name: grants  (rid) -> grants
SELECT grants FROM held WHERE rid = ?
-- name: make_ready  (lane, due, rid)
INSERT INTO ready VALUES (?, ?, ?)
-- name: unready  (lane, due, rid)
DELETE FROM ready WHERE lane = ? AND due = ? AND rid = ?
-- name: set_due  (due, rid)
UPDATE jobs SET due = ? WHERE rid = ?
-- name: set_flags  (flags, rid)
UPDATE jobs SET flags = flags | ? WHERE rid = ?
-- name: to_ledger  (id, lease, at)
INSERT INTO ledger VALUES (?, ?, ?)
-- name: lease_of  (lid) -> lease
SELECT lease FROM leases WHERE lid = ?

-- name: known_ids  (:json ids) -> id; those of them that a job, a tombstone or a scope has
SELECT value FROM json_each(?)
WHERE value IN (SELECT id FROM jobs) OR value IN (SELECT id FROM tombstones) OR value IN (SELECT root FROM scopes)
-- name: insert_job  (id, lane, sent, due, flags, job)
INSERT INTO jobs (id, lane, sent, due, flags, job) VALUES (?, ?, ?, ?, ?, ?)
-- name: task_of  (id) -> job
SELECT job FROM jobs WHERE id = ?
-- name: tombstone  (id) -> 1
SELECT 1 FROM tombstones WHERE id = ?
-- name: bury  (id, sweep_at)
INSERT OR REPLACE INTO tombstones VALUES (?, ?)

-- name: scope  (root) -> live
SELECT live FROM scopes WHERE root = ?
-- name: new_scope  (root, live)
INSERT INTO scopes (root, live) VALUES (?, ?)
-- name: scope_lives  (by, root) -> live
UPDATE scopes SET live = live + ? WHERE root = ? RETURNING live
-- name: scope_sweep  (sweep_at, root)
UPDATE scopes SET sweep_at = ? WHERE root = ?
-- name: emit  (root, topic, key, value)
INSERT OR IGNORE INTO events VALUES (?, ?, ?, ?)
-- name: count_event  (root, topic) -> events
INSERT INTO topics VALUES (?, ?, 1) ON CONFLICT (root, topic) DO UPDATE SET events = events + 1 RETURNING events
-- name: count_of  (root, topic) -> events
SELECT events FROM topics WHERE root = ? AND topic = ?
-- name: reached  (root, topic, events) -> tid
SELECT tid FROM awaits WHERE root = ? AND topic = ? AND events <= ?
-- name: stop_awaiting  (root, topic, tid)
DELETE FROM awaits WHERE root = ? AND topic = ? AND tid = ?
-- name: reach  (by, tid) -> reached, need, job_id
UPDATE triggers SET reached = reached + ? WHERE tid = ? RETURNING reached, need, job_id
-- name: drop_trigger  (tid)
DELETE FROM triggers WHERE tid = ?
-- name: drop_awaits  (tid)
DELETE FROM awaits WHERE tid = ?
-- name: new_trigger  (root, job_id, need)
INSERT INTO triggers (root, job_id, need, reached) VALUES (?, ?, ?, 0)
-- name: await  (root, topic, tid, events)
INSERT INTO awaits VALUES (?, ?, ?, ?)
-- name: record  (root, flow, seq) -> value
SELECT value FROM records WHERE root = ? AND flow = ? AND seq = ?
-- name: new_record  (root, flow, seq, value)
INSERT OR IGNORE INTO records VALUES (?, ?, ?, ?)

-- name: look  (claimer, :json lanes) -> its last lease, when the first lease ends, paused (JSON: qids), heads (JSON: lane -> due of its oldest job)
SELECT (SELECT lease FROM claimers WHERE claimer = ?1), (SELECT min(until) FROM leases), (
    SELECT json_group_array(qid) FROM queues WHERE paused = 1
), (
    SELECT json_group_object(lane, due)
    FROM (SELECT value AS lane, (SELECT min(due) FROM ready WHERE lane = value) AS due FROM json_each(?2)) WHERE due IS NOT NULL
)
-- name: claims  (claimer, lease, at)
INSERT INTO claimers VALUES (?, ?, ?) ON CONFLICT (claimer) DO UPDATE SET lease = excluded.lease, at = excluded.at
-- name: next_due  (:json lanes) -> due
SELECT min((SELECT min(due) FROM ready WHERE lane = value)) FROM json_each(?)
-- name: taken_at_once  (now, :json lanes) -> as `taken` without its due, NULLs if nothing was; when the next of these lanes is due.
-- Of jobs that are still held: the claim was committed before.
SELECT '[' || group_concat(rid) || ']', group_concat(id, char(31)), '[' || group_concat(?1 - sent) || ']', 0, CAST(group_concat(job, '') AS BLOB), (
    SELECT min((SELECT min(r.due) FROM ready r WHERE r.lane = value)) FROM json_each(?2)
    WHERE value / 10 NOT IN (SELECT qid FROM queues WHERE paused = 1)
)
FROM (
    SELECT j.rid AS rid, j.id AS id, j.sent AS sent, j.job AS job FROM taken t CROSS JOIN json_each(t.rids) v
    CROSS JOIN held h ON h.rid = v.value CROSS JOIN jobs j ON j.rid = h.rid WHERE h.lid = (SELECT lid FROM leases WHERE lease = t.lease)
)
-- name: oldest  (lane, now, limit) -> due
SELECT due FROM ready WHERE lane = ? AND due <= ? ORDER BY due, rid LIMIT ?
-- name: taken  (now, lane, due, limit) -> last due, rids (JSON), ids (parted by U+001F), ages (JSON), whether any was claimed before, bodies.
-- This and the next three also run over several lanes at once: `leases.py` puts an IN for the =, which costs a sort.
SELECT max(due), '[' || group_concat(rid) || ']', group_concat(id, char(31)), '[' || group_concat(? - sent) || ']', max(fence),
    CAST(group_concat(job, '') AS BLOB)
FROM (
    SELECT r.due AS due, j.rid AS rid, j.id AS id, j.sent AS sent, j.fence AS fence, j.job AS job
    FROM ready r JOIN jobs j ON j.rid = r.rid WHERE r.lane = ? AND r.due <= ? ORDER BY r.due, r.rid LIMIT ?
)
-- name: size  (lane, due, limit) -> bytes of their bodies, which are not read for it
SELECT sum(length(j.job)) FROM (SELECT rid FROM ready WHERE lane = ? AND due <= ? ORDER BY due, rid LIMIT ?) r CROSS JOIN jobs j ON j.rid = r.rid
-- name: fitting  (lane, due, limit, bytes) -> how many of them have no more bytes together
SELECT count(*) FROM (
    SELECT sum(length(j.job)) OVER (ORDER BY r.due, r.rid) AS bytes
    FROM (SELECT due, rid FROM ready WHERE lane = ? AND due <= ? ORDER BY due, rid LIMIT ?) r CROSS JOIN jobs j ON j.rid = r.rid
) WHERE bytes <= ?
-- name: taken_again  (lane, due, rid) -> heads (JSON: rid, id, attempt, expiries, fence, sent, length of the body), bodies
SELECT '[' || group_concat(head) || ']', CAST(group_concat(job, '') AS BLOB) FROM (
    SELECT '[' || j.rid || ',' || json_quote(j.id) || ',' || j.attempt || ',' || j.expiries || ','
        || j.fence || ',' || j.sent || ',' || length(j.job) || ']' AS head, j.job AS job
    FROM ready r JOIN jobs j ON j.rid = r.rid
    WHERE r.lane = ? AND (r.due, r.rid) <= (?, ?) ORDER BY r.due, r.rid
)
-- name: new_lease  (lease, until, jobs)
INSERT INTO leases (lease, until, jobs) VALUES (?, ?, ?)
-- name: lease_grows  (jobs, lid)
UPDATE leases SET jobs = jobs + ? WHERE lid = ?
-- name: overdue  (now, :json qids) -> rid, id, flags, grants, lid; the earliest first. One walk over what is held.
SELECT h.rid, j.id, j.flags, h.grants, h.lid FROM held h CROSS JOIN jobs j ON j.rid = h.rid
WHERE h.until <= ? AND j.lane / 10 IN (SELECT value FROM json_each(?)) ORDER BY h.until, h.rid
-- name: refresh_leases  (): from "no job is overdue before" to the truth, of all leases: the walk over what is held costs as much for one
UPDATE leases SET until = m.until FROM (SELECT lid, min(until) AS until FROM held GROUP BY lid) AS m
WHERE m.lid = leases.lid AND leases.until < m.until
-- name: regrant  (lid, until, rid)
UPDATE held SET lid = ?, until = ?, grants = grants + 1 WHERE rid = ?
-- name: delivery  (rid) -> id, lane, attempt, expiries, fence, sent, grants, job
SELECT j.id, j.lane, j.attempt, j.expiries, j.fence, j.sent, h.grants, j.job FROM jobs j JOIN held h ON h.rid = j.rid WHERE j.rid = ?
-- name: held_under  (lease) -> rid
SELECT h.rid FROM held h JOIN leases l ON l.lid = h.lid WHERE l.lease = ? ORDER BY h.rid
-- name: extend  (until, rid)
UPDATE held SET until = ? WHERE rid = ?
-- name: extend_many  (until, lease, :json ids): those of them that the lease holds and nobody asked to stop
UPDATE held SET until = ?1 WHERE lid = (SELECT lid FROM leases WHERE lease = ?2)
    AND rid IN (SELECT rid FROM jobs WHERE id IN (SELECT value FROM json_each(?3)) AND NOT flags & 16)
-- name: extend_lease_of  (until, lease)
UPDATE leases SET until = min(until, ?) WHERE lease = ?
-- name: extend_lease  (until, lid): an extension may also shorten
UPDATE leases SET until = min(until, ?) WHERE lid = ?

-- name: view_columns  (now): not run by itself; a WHERE follows
SELECT j.id, q.name, 9 - j.lane % 10, j.ended, h.rid IS NOT NULL, j.attempt, j.expiries, coalesce(h.grants, 0),
    CASE WHEN j.ended IS NOT NULL THEN NULL WHEN h.rid IS NOT NULL THEN h.until ELSE j.due END, j.sent, j.last, l.lease, j.job,
    j.fence, j.flags, CASE WHEN j.ended IN (2, 5) THEN j.due END
FROM jobs j JOIN queues q ON q.qid = j.lane / 10 LEFT JOIN held h ON h.rid = j.rid LEFT JOIN leases l ON l.lid = h.lid
-- name: triggers_of  (id, scope, global scope) -> tid, root, need, reached
SELECT tid, root, need, reached FROM triggers WHERE job_id = ? AND root IN (?, ?)
-- name: awaits_of  (tid) -> topic, events that reach it, events that there are; none are counted of `done/<id>`
SELECT a.topic, a.events, coalesce(t.events, 0) FROM awaits a LEFT JOIN topics t ON t.root = a.root AND t.topic = a.topic
WHERE a.tid = ? ORDER BY a.topic
-- name: ahead_in_lane  (lane, due, rid) -> how many of the lane come before it
SELECT count(*) FROM ready WHERE lane = ? AND (due, rid) < (?, ?)
-- name: ahead_above  (first lane, lane, moment) -> how many of the lanes above it are due then
SELECT count(*) FROM ready WHERE lane >= ? AND lane < ? AND due <= ?
-- name: ended  (id) -> ended, last; no row: absent
SELECT ended, last FROM jobs WHERE id = ?
-- name: not_pending  (:json ids) -> those of them that are not, or no longer, unfinished
SELECT value FROM json_each(?) WHERE NOT EXISTS (SELECT 1 FROM jobs WHERE id = value AND ended IS NULL)
-- name: events_after  (root, topic, key, limit) -> key, value
SELECT key, value FROM events WHERE root = ? AND topic = ? AND key > ? ORDER BY key LIMIT ?
-- name: records_after  (root, flow, seq, limit) -> seq, value
SELECT seq, value FROM records WHERE root = ? AND flow = ? AND seq > ? ORDER BY seq LIMIT ?
-- name: counts  (now) -> queue, paused, ready, delayed, waiting, leased, oldest due. What is ready is counted in its index; one walk over
-- `jobs` counts what waits: an index for that would cost every send and end as much as a tenth.
WITH RECURSIVE n (x) AS (VALUES (0) UNION ALL SELECT x + 1 FROM n WHERE x < 9),
    l AS (
        SELECT qid, (SELECT count(*) FROM ready WHERE lane = qid * 10 + x AND due <= ?1) AS ready,
            (SELECT count(*) FROM ready WHERE lane = qid * 10 + x AND due > ?1) AS delayed,
            (SELECT min(due) FROM ready WHERE lane = qid * 10 + x) AS oldest
        FROM queues CROSS JOIN n
    ),
    r AS (SELECT qid, sum(ready) AS ready, sum(delayed) AS delayed, min(oldest) AS oldest FROM l GROUP BY qid),
    w AS (SELECT lane / 10 AS qid, count(*) AS waiting FROM jobs NOT INDEXED WHERE due IS NULL AND ended IS NULL GROUP BY 1),
    h AS (SELECT j.lane / 10 AS qid, count(*) AS leased FROM held CROSS JOIN jobs j ON j.rid = held.rid GROUP BY 1)
SELECT q.name, q.paused, ready, delayed, coalesce(waiting, 0), coalesce(leased, 0), CASE WHEN ready THEN oldest END
FROM queues q JOIN r ON r.qid = q.qid LEFT JOIN w ON w.qid = q.qid LEFT JOIN h ON h.qid = q.qid
WHERE q.paused OR ready + delayed > 0 OR w.qid OR h.qid ORDER BY q.name

-- name: dead  (id) -> rid, lane, flags; no row: no dead letter
SELECT rid, lane, flags FROM jobs WHERE ended IN (2, 5) AND id = ?
-- name: revive  (now, now, flags, rid)
UPDATE jobs SET ended = NULL, due = ?, sent = ?, attempt = 0, expiries = 0, flags = ? WHERE rid = ?
-- name: open_ids  (queue) -> id
SELECT j.id FROM jobs j JOIN queues q ON q.qid = j.lane / 10 WHERE q.name = ? AND j.ended IS NULL AND j.rid NOT IN (SELECT rid FROM held)
ORDER BY j.rid
-- name: new_queue  (name)
INSERT OR IGNORE INTO queues (name) VALUES (?)
-- name: queue  (name) -> qid
SELECT qid FROM queues WHERE name = ?
-- name: queue_names  () -> qid, name
SELECT qid, name FROM queues
-- name: set_paused  (paused, name)
UPDATE queues SET paused = ? WHERE name = ?
-- name: register  (id, info, until)
INSERT OR REPLACE INTO workers VALUES (?, ?, ?)
-- name: workers  (now) -> info
SELECT info FROM workers WHERE until > ? ORDER BY id

-- name: sweep_jobs  (now, limit)
DELETE FROM jobs WHERE rid IN (SELECT rid FROM jobs WHERE sweep_at IS NOT NULL AND sweep_at <= ? ORDER BY sweep_at LIMIT ?)
-- name: scopes_to_sweep  (now, limit) -> root
SELECT root FROM scopes WHERE live = 0 AND sweep_at <= ? ORDER BY sweep_at LIMIT ?
-- name: sweep_tombstones  (now, limit)
DELETE FROM tombstones WHERE id IN (SELECT id FROM tombstones WHERE sweep_at <= ? LIMIT ?)
-- name: sweep_clients  (before)
DELETE FROM clients WHERE at < ?
-- name: sweep_claimers  (before)
DELETE FROM claimers WHERE at < ?
-- name: sweep_workers  (now)
DELETE FROM workers WHERE until <= ?
-- name: sweep_hints  (before)
DELETE FROM hints WHERE at < ?
-- name: drop_scope_awaits  (root)
DELETE FROM awaits WHERE root = ?
-- name: drop_scope_triggers  (root)
DELETE FROM triggers WHERE root = ?
-- name: drop_scope_events  (root)
DELETE FROM events WHERE root = ?
-- name: drop_scope_topics  (root)
DELETE FROM topics WHERE root = ?
-- name: drop_scope_records  (root)
DELETE FROM records WHERE root = ?
-- name: drop_scope  (root)
DELETE FROM scopes WHERE root = ?

-- name: publish  (channel, at, hint)
INSERT INTO hints (channel, at, hint) VALUES (?, ?, ?)
-- name: newest_hint  () -> n
SELECT coalesce(max(n), 0) FROM hints
-- name: hints_after  (channel, n) -> n, hint
SELECT n, hint FROM hints WHERE channel = ? AND n > ? ORDER BY n LIMIT 1000
-- name: channels_with_news  (:json [[channel, n], ...]) -> channel
SELECT DISTINCT value ->> 0 FROM json_each(?) WHERE EXISTS (SELECT 1 FROM hints WHERE channel = value ->> 0 AND n > value ->> 1)
-- name: queue_heads  (:json names) -> name, earliest due; of those that are not paused and have any
SELECT name, due FROM (
    SELECT name, (
        SELECT min(head) FROM (
            WITH RECURSIVE n (x) AS (VALUES (0) UNION ALL SELECT x + 1 FROM n WHERE x < 9)
            SELECT (SELECT min(due) FROM ready WHERE lane = qid * 10 + x) AS head FROM n
        )
    ) AS due FROM queues WHERE paused = 0 AND name IN (SELECT value FROM json_each(?))
) WHERE due IS NOT NULL

-- name: make_blobs  () made at the first use of blobs; a file without them is of the same schema
CREATE TABLE IF NOT EXISTS blobs (
    job_id TEXT NOT NULL, digest TEXT NOT NULL, look_at INTEGER NOT NULL, data BLOB NOT NULL, UNIQUE (job_id, digest)
)

-- name: make_blobs_by_look  ()
CREATE INDEX IF NOT EXISTS blobs_by_look ON blobs (look_at)

-- name: has_blobs  () -> a row, if the table is there
SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'blobs'

-- name: put_blob  (job id, digest, when to look, bytes)
INSERT INTO blobs (job_id, digest, look_at, data) VALUES (?, ?, ?, ?)
ON CONFLICT (job_id, digest) DO UPDATE SET look_at = excluded.look_at, data = excluded.data

-- name: blob  (job id, digest) -> bytes
SELECT data FROM blobs WHERE job_id = ? AND digest = ?

-- name: drop_blob  (job id, digest)
DELETE FROM blobs WHERE job_id = ? AND digest = ?

-- name: overdue_blobs  (now, limit) -> job id, digest
SELECT job_id, digest FROM blobs WHERE look_at <= ? ORDER BY look_at LIMIT ?

-- name: look_again  (when, job id, digest)
UPDATE blobs SET look_at = ? WHERE job_id = ? AND digest = ?
