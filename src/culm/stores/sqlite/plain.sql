-- What plain commits write, as triggers of temporary views: one statement for a whole batch, since each gives up the interpreter's lock
-- and has to wait for it again. A row of `writes` is a step; a check that fails aborts the statement, and nothing of it is written.
-- Lists travel in columns (columns.py). Every connection that writes makes these for itself, so they are no part of the schema.

CREATE TEMP VIEW writes (step, name, number, at, ids, lane, due, first, ended, sweep_at, bodies, places) AS
SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL;

-- name: the client, number: of its batch
CREATE TEMP TRIGGER write_batch INSTEAD OF INSERT ON writes WHEN NEW.step = 'batch' BEGIN
    INSERT INTO clients VALUES (NEW.name, NEW.number, NULL, NEW.at)
    ON CONFLICT (client) DO UPDATE SET number = excluded.number, refused = NULL, at = excluded.at WHERE excluded.number > number;
    SELECT RAISE(ABORT, 'it was answered already') WHERE changes() = 0;
END;

-- ids: of the rows that end under the lease `name`, for the ledger
CREATE TEMP TRIGGER write_ledger INSTEAD OF INSERT ON writes WHEN NEW.step = 'ledger' BEGIN
    INSERT INTO ledger SELECT id, NEW.name, NEW.at FROM jobs WHERE rid IN (SELECT value FROM json_each(NEW.ids));
END;

-- name: the lease, number: how many of its jobs end and go, ids: their rows
CREATE TEMP TRIGGER write_gone INSTEAD OF INSERT ON writes WHEN NEW.step = 'gone' BEGIN
    DELETE FROM held WHERE rid IN (SELECT value FROM json_each(NEW.ids)) AND lid = (SELECT lid FROM leases WHERE lease = NEW.name);
    SELECT RAISE(ABORT, 'not all are held') WHERE changes() <> NEW.number;
    DELETE FROM jobs WHERE rid IN (SELECT value FROM json_each(NEW.ids)) AND flags = 0;
    SELECT RAISE(ABORT, 'not all are plain') WHERE changes() <> NEW.number;
    UPDATE leases SET jobs = jobs - NEW.number WHERE lease = NEW.name;
    DELETE FROM leases WHERE lease = NEW.name AND jobs = 0;
END;

-- the same of `number` rows that follow one another, from `first` on
CREATE TEMP TRIGGER write_gone_from INSTEAD OF INSERT ON writes WHEN NEW.step = 'gone from' BEGIN
    DELETE FROM held WHERE rid BETWEEN NEW.first AND NEW.first + NEW.number - 1 AND lid = (SELECT lid FROM leases WHERE lease = NEW.name);
    SELECT RAISE(ABORT, 'not all are held') WHERE changes() <> NEW.number;
    DELETE FROM jobs WHERE rid BETWEEN NEW.first AND NEW.first + NEW.number - 1 AND flags = 0;
    SELECT RAISE(ABORT, 'not all are plain') WHERE changes() <> NEW.number;
    UPDATE leases SET jobs = jobs - NEW.number WHERE lease = NEW.name;
    DELETE FROM leases WHERE lease = NEW.name AND jobs = 0;
END;

-- the same of rows that are kept: they ended as `ended`, their outcomes are the bodies
CREATE TEMP TRIGGER write_kept INSTEAD OF INSERT ON writes WHEN NEW.step = 'kept' BEGIN
    UPDATE jobs SET ended = NEW.ended, sweep_at = NEW.sweep_at, due = NEW.due,
        last = substr(NEW.bodies, CAST(substr(NEW.places, 1 + v.key * 20, 10) AS INTEGER), CAST(substr(NEW.places, 11 + v.key * 20, 10) AS INTEGER)),
        attempt = attempt + 1, fence = fence + h.grants, expiries = expiries + h.grants - 1
    FROM json_each(NEW.ids) v CROSS JOIN held h ON h.rid = v.value
    WHERE jobs.rid = v.value AND flags = 0 AND h.lid = (SELECT lid FROM leases WHERE lease = NEW.name);
    SELECT RAISE(ABORT, 'not all are held, or plain') WHERE changes() <> NEW.number;
    DELETE FROM held WHERE rid IN (SELECT value FROM json_each(NEW.ids));
    UPDATE leases SET jobs = jobs - NEW.number WHERE lease = NEW.name;
    DELETE FROM leases WHERE lease = NEW.name AND jobs = 0;
END;

-- `number` new jobs of one lane and due; ids: theirs, whose UNIQUE is a check, too. Without places each body has `first` bytes.
CREATE TEMP TRIGGER write_sent INSTEAD OF INSERT ON writes WHEN NEW.step = 'sent' BEGIN
    SELECT RAISE(ABORT, 'not all are new')
    WHERE (EXISTS (SELECT 1 FROM tombstones) OR EXISTS (SELECT 1 FROM scopes)) AND EXISTS (
        SELECT 1 FROM json_each(NEW.ids) WHERE value IN (SELECT id FROM tombstones) OR value IN (SELECT root FROM scopes)
    );
    INSERT INTO jobs (id, lane, sent, due, job)
    SELECT value, NEW.lane, NEW.at, NEW.due, CASE WHEN NEW.places IS NULL THEN substr(NEW.bodies, 1 + key * NEW.first, NEW.first)
        ELSE substr(NEW.bodies, CAST(substr(NEW.places, 1 + key * 20, 10) AS INTEGER), CAST(substr(NEW.places, 11 + key * 20, 10) AS INTEGER))
        END
    FROM json_each(NEW.ids);
    INSERT INTO ready SELECT lane, due, rid FROM jobs WHERE rid > last_insert_rowid() - NEW.number AND due IS NOT NULL;
END;

-- One new job, with the batch that it is: quicker than the same in columns.
CREATE TEMP VIEW sends (client, number, at, id, lane, due, job) AS SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL;

CREATE TEMP TRIGGER send INSTEAD OF INSERT ON sends BEGIN
    INSERT INTO clients VALUES (NEW.client, NEW.number, NULL, NEW.at)
    ON CONFLICT (client) DO UPDATE SET number = excluded.number, refused = NULL, at = excluded.at WHERE excluded.number > number;
    SELECT RAISE(ABORT, 'it was answered already') WHERE changes() = 0;
    SELECT RAISE(ABORT, 'it is not new')
    WHERE EXISTS (SELECT 1 FROM tombstones WHERE id = NEW.id) OR EXISTS (SELECT 1 FROM scopes WHERE root = NEW.id);
    INSERT INTO jobs (id, lane, sent, due, job) VALUES (NEW.id, NEW.lane, NEW.at, NEW.due, NEW.job);
    INSERT INTO ready SELECT NEW.lane, NEW.due, last_insert_rowid() WHERE NEW.due IS NOT NULL;
END;

-- A claim's own: `jobs` of the oldest of some lanes, up to (due, rid), go from `ready` to `held`.
CREATE TEMP VIEW takes (claimer, lease, at, until, lanes, due, rid, jobs) AS SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL;

CREATE TEMP TRIGGER take INSTEAD OF INSERT ON takes BEGIN
    INSERT INTO leases (lease, until, jobs) VALUES (NEW.lease, NEW.until, NEW.jobs)
    ON CONFLICT (lease) DO UPDATE SET jobs = jobs + excluded.jobs, until = min(until, excluded.until);
    INSERT INTO held SELECT rid, (SELECT lid FROM leases WHERE lease = NEW.lease), NEW.until, 1
    FROM ready WHERE lane IN (SELECT value FROM json_each(NEW.lanes)) AND (due, rid) <= (NEW.due, NEW.rid);
    DELETE FROM ready WHERE lane IN (SELECT value FROM json_each(NEW.lanes)) AND (due, rid) <= (NEW.due, NEW.rid);
    INSERT INTO claimers VALUES (NEW.claimer, NEW.lease, NEW.at)
    ON CONFLICT (claimer) DO UPDATE SET lease = excluded.lease, at = excluded.at;
END;

-- A whole claim of one lane, whose jobs nobody had before. `taken` says what it took, until the next claim begins.
-- lanes: all that it may take from, order: as of a claim, most: so many jobs, room: so many bytes of them
CREATE TEMP TABLE taken (lane INTEGER, others INTEGER, due INTEGER, rid INTEGER, lease TEXT, rids TEXT);
CREATE TEMP VIEW claims (claimer, lease, now, until, lanes, "order", most, room) AS SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL;

CREATE TEMP TRIGGER claim INSTEAD OF INSERT ON claims BEGIN
    DELETE FROM taken;
    SELECT RAISE(ABORT, 'it was answered, or jobs may be overdue') WHERE (SELECT min(until) FROM leases) <= NEW.now
        OR EXISTS (SELECT 1 FROM claimers WHERE claimer = NEW.claimer AND lease = NEW.lease);
    -- the first of the lanes that have due jobs; others: how many more have
    INSERT INTO taken (lane) SELECT value FROM json_each(NEW.lanes)
    WHERE (SELECT min(due) FROM ready WHERE ready.lane = value) <= NEW.now AND value / 10 NOT IN (SELECT qid FROM queues WHERE paused = 1);
    SELECT RAISE(ABORT, 'lanes to merge') WHERE (SELECT count(*) FROM taken) > 1
        AND (NEW."order" = 'age' OR (SELECT count(*) FROM taken WHERE lane % 10 = (SELECT min(lane % 10) FROM taken)) > 1);
    UPDATE taken SET others = (SELECT count(*) - 1 FROM taken);
    DELETE FROM taken WHERE lane % 10 > (SELECT min(lane % 10) FROM taken);
    UPDATE taken SET (due, rid) = ( -- the last of its jobs to take
        SELECT r.due, r.rid FROM ready r WHERE r.lane = taken.lane AND r.due <= NEW.now ORDER BY r.due, r.rid LIMIT 1 OFFSET NEW.most - 1
    );
    SELECT RAISE(ABORT, 'the first lane has too few') WHERE EXISTS (SELECT 1 FROM taken WHERE others AND due IS NULL);
    INSERT INTO claims_up_to
    SELECT NEW.claimer, NEW.lease, NEW.now, NEW.until, NEW.room, lane, coalesce(due, NEW.now), coalesce(rid, 9223372036854775807) FROM taken;
END;

-- The rest of it. As a row of its own, since only then an index finds the place of (due, rid).
CREATE TEMP VIEW claims_up_to (claimer, lease, now, until, room, lane, due, rid) AS SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL;

CREATE TEMP TRIGGER claim_up_to INSTEAD OF INSERT ON claims_up_to BEGIN
    SELECT RAISE(ABORT, 'they take too much room, or somebody had one of them before')
    FROM (
        SELECT sum(length(j.job)) AS bytes, max(j.fence) AS fence FROM ready r CROSS JOIN jobs j ON j.rid = r.rid
        WHERE r.lane = NEW.lane AND (r.due, r.rid) <= (NEW.due, NEW.rid)
    )
    WHERE bytes > NEW.room OR fence > 0;
    UPDATE taken SET lease = NEW.lease, rids = (
        SELECT '[' || group_concat(rid) || ']'
        FROM (SELECT rid FROM ready WHERE lane = NEW.lane AND (due, rid) <= (NEW.due, NEW.rid) ORDER BY due, rid)
    );
    INSERT INTO takes SELECT NEW.claimer, NEW.lease, NEW.now, NEW.until, json_array(NEW.lane), NEW.due, NEW.rid, json_array_length(rids) FROM taken;
END;
