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

-- `number` new jobs of one lane and due; ids: theirs, whose UNIQUE is a check, too
CREATE TEMP TRIGGER write_sent INSTEAD OF INSERT ON writes WHEN NEW.step = 'sent' BEGIN
    SELECT RAISE(ABORT, 'not all are new') WHERE EXISTS (
        SELECT 1 FROM json_each(NEW.ids) WHERE value IN (SELECT id FROM tombstones) OR value IN (SELECT root FROM scopes)
    );
    INSERT INTO jobs (id, lane, sent, due, job)
    SELECT value, NEW.lane, NEW.at, NEW.due,
        substr(NEW.bodies, CAST(substr(NEW.places, 1 + key * 20, 10) AS INTEGER), CAST(substr(NEW.places, 11 + key * 20, 10) AS INTEGER))
    FROM json_each(NEW.ids);
    INSERT INTO ready SELECT lane, due, rid FROM jobs WHERE rid > last_insert_rowid() - NEW.number AND due IS NOT NULL;
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
