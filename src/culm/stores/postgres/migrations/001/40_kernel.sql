-- One job at a time, as the specification reads: sending, events, triggers, cancelling, the end of an attempt. Whoever calls these has
-- made every check. A scope's row is locked by whoever changes anything of the scope, so concurrent joins count one after the other.

-- A scope's counter, made when it is first needed, counting the root if that is unfinished.
CREATE FUNCTION make_scope(in_now bigint, in_root text, in_but text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    alive int;
BEGIN
    SELECT live INTO alive FROM scopes WHERE root = in_root FOR UPDATE;
    IF NOT FOUND THEN
        INSERT INTO scopes (root, live) VALUES (in_root, 0) ON CONFLICT DO NOTHING;
        IF FOUND AND in_root <> in_but THEN -- only its maker counts the root
            UPDATE jobs SET flags = flags | 2 WHERE id = in_root;
            IF FOUND THEN
                UPDATE scopes SET live = 1 WHERE root = in_root;
            END IF;
        END IF;
        SELECT live INTO alive FROM scopes WHERE root = in_root FOR UPDATE;
    END IF;
    IF alive = 0 THEN
        UPDATE scopes SET sweep_at = in_now + 3600000 WHERE root = in_root AND sweep_at IS DISTINCT FROM in_now + 3600000;
    END IF;
END $$;

-- Count a job among the live ones of its scope, if there is anything to count for. -> its flags
CREATE FUNCTION enter(in_now bigint, in_id text, in_topic text) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
    root text := root_of(in_id);
BEGIN
    IF in_id = root AND in_topic = '' THEN
        PERFORM 1 FROM scopes s WHERE s.root = in_id;
        IF NOT FOUND THEN
            RETURN 0;
        END IF;
    END IF;
    PERFORM make_scope(in_now, root, in_id);
    UPDATE scopes s SET live = live + 1, sweep_at = NULL WHERE s.root = root_of(in_id);
    RETURN CASE WHEN in_topic = '' THEN 2 ELSE 3 END;
END $$;

CREATE FUNCTION release(in_now bigint, in_id text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    j jobs;
BEGIN
    SELECT * INTO j FROM jobs WHERE id = in_id FOR UPDATE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF j.due IS NOT NULL THEN
        PERFORM 1 FROM ready r WHERE r.queue = j.queue AND r.priority = j.priority AND r.due = j.due AND r.n = j.n;
        IF FOUND AND j.due <= in_now THEN
            RETURN;
        END IF;
        DELETE FROM ready r WHERE r.queue = j.queue AND r.priority = j.priority AND r.due = j.due AND r.n = j.n;
        IF NOT FOUND THEN -- it is leased
            UPDATE jobs SET flags = flags | 8 WHERE id = in_id;
            RETURN;
        END IF;
    END IF;
    UPDATE jobs SET due = in_now WHERE id = in_id;
    INSERT INTO ready VALUES (j.queue, j.priority, in_now, j.n, j.id, length(j.job));
    PERFORM ring_later(j.queue);
END $$;

-- A trigger has reached so many topics more.
CREATE FUNCTION reach(in_now bigint, in_tid bigint, in_by int) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    t triggers;
BEGIN
    UPDATE triggers SET reached = reached + in_by WHERE tid = in_tid RETURNING * INTO t;
    IF FOUND AND t.reached >= t.need THEN
        DELETE FROM triggers WHERE tid = in_tid;
        DELETE FROM awaits WHERE tid = in_tid;
        PERFORM release(in_now, t.job_id);
    END IF;
END $$;

-- A topic holds so many events now.
CREATE FUNCTION reached(in_now bigint, in_root text, in_topic text, in_count bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    one bigint;
BEGIN
    FOR one IN SELECT tid FROM awaits WHERE root = in_root AND topic = in_topic AND events <= in_count ORDER BY tid LOOP
        DELETE FROM awaits WHERE root = in_root AND topic = in_topic AND tid = one;
        IF FOUND THEN -- the one before may have dropped it
            PERFORM reach(in_now, one, 1);
        END IF;
    END LOOP;
END $$;

CREATE FUNCTION emit(in_now bigint, in_root text, in_topic text, in_key text, in_value bytea) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    held bigint;
BEGIN
    PERFORM make_scope(in_now, in_root, '~');
    INSERT INTO events VALUES (in_root, in_topic, in_key, in_value) ON CONFLICT DO NOTHING;
    IF FOUND THEN
        INSERT INTO topics AS t VALUES (in_root, in_topic, 1) ON CONFLICT (root, topic) DO UPDATE SET events = t.events + 1
        RETURNING t.events INTO held;
        PERFORM reached(in_now, in_root, in_topic, held);
    END IF;
END $$;

-- A job ends. Its turn is gone already. in_attempts: 1 if the attempt that ends counts; in_grants: 1 if it was leased.
CREATE FUNCTION finish(
    in_now bigint, j jobs, in_lease text, in_attempts int, in_grants int, in_ended int, in_last bytea, in_keep bigint, in_ledger boolean
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    dead boolean := in_ended IN (2, 5);
BEGIN
    IF in_ledger THEN
        INSERT INTO ledger VALUES (j.id, in_lease, in_now);
    END IF;
    DELETE FROM jobs WHERE id = j.id;
    IF dead OR in_keep > 0 THEN
        INSERT INTO done VALUES (
            j.id, j.n, j.sent, CASE WHEN dead THEN NULL ELSE in_now + in_keep END, j.keep_ms, j.attempt + in_attempts, j.expiries,
            j.fence + in_grants, j.priority, j.flags & 7, in_ended, j.queue, j.task, j.topic, j.job, in_last, j.replays,
            CASE WHEN dead THEN in_now END
        );
    END IF;
    IF j.flags & 32 <> 0 THEN
        PERFORM tell(ARRAY[j.id]);
    END IF;
    IF j.topic <> '' THEN
        PERFORM emit(in_now, root_of(j.id), j.topic, j.id, in_last);
    END IF;
    IF j.flags & 2 <> 0 THEN
        UPDATE scopes SET live = live - 1, sweep_at = CASE WHEN live = 1 THEN in_now + in_keep END WHERE root = root_of(j.id);
    END IF;
    IF j.flags & 4 <> 0 THEN
        PERFORM reached(in_now, root_of(j.id), 'done/' || j.id, 1);
    END IF;
END $$;

-- The outcome Cancelled, as outcome.py encodes it.
CREATE FUNCTION cancelled(in_reason text) RETURNS bytea LANGUAGE sql IMMUTABLE AS $$
    SELECT '\x9203'::bytea || set_byte('\x00'::bytea, 0, 160 + length(in_reason)) || convert_to(in_reason, 'UTF8')
$$;

CREATE FUNCTION cancel(in_now bigint, in_id text, in_ledger boolean) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    j jobs;
BEGIN
    LOOP
        SELECT * INTO j FROM jobs WHERE id = in_id FOR UPDATE;
        EXIT WHEN FOUND;
        PERFORM 1 FROM done WHERE id = in_id;
        IF FOUND THEN
            RETURN;
        END IF;
        -- A row in its place for a moment: whoever sends it right now is waited for, or waits, and then sees the tombstone.
        INSERT INTO jobs VALUES (in_id, 0, 0, NULL, 0, 0, 0, 0, 0, 0, '', '', '', '') ON CONFLICT DO NOTHING;
        IF FOUND THEN
            DELETE FROM jobs WHERE id = in_id;
            INSERT INTO tombstones VALUES (in_id, in_now + 3600000) ON CONFLICT (id) DO UPDATE SET sweep_at = excluded.sweep_at;
            RETURN;
        END IF;
    END LOOP;
    IF j.due IS NOT NULL THEN
        DELETE FROM ready r WHERE r.queue = j.queue AND r.priority = j.priority AND r.due = j.due AND r.n = j.n;
        IF NOT FOUND THEN
            UPDATE jobs SET flags = flags | 16 WHERE id = in_id;
            RETURN;
        END IF;
    END IF;
    PERFORM finish(in_now, j, '', 0, 0, 3, cancelled(''), j.keep_ms, in_ledger);
END $$;

-- The same id is the same job: one that is there, or was and is kept, stays as it is. -> false: another task's, which came meanwhile
CREATE FUNCTION send(
    in_now bigint, in_id text, in_task text, in_queue text, in_priority smallint, in_after bigint, in_at bigint, in_keep bigint,
    in_topic text, in_job bytea, in_n bigint, in_ledger boolean
) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    j jobs;
    due bigint := CASE WHEN in_after IS NOT NULL THEN greatest(in_now + in_after, in_at) END;
BEGIN
    INSERT INTO jobs VALUES (in_id, in_n, in_now, due, in_keep, 0, 0, 0, in_priority, 0, in_queue, in_task, in_topic, in_job)
    ON CONFLICT DO NOTHING RETURNING * INTO j;
    IF NOT FOUND THEN
        RETURN EXISTS (SELECT 1 FROM jobs WHERE id = in_id AND task = in_task);
    END IF;
    PERFORM 1 FROM done WHERE id = in_id;
    IF FOUND THEN
        DELETE FROM jobs WHERE id = in_id;
        RETURN true;
    END IF;
    j.flags := enter(in_now, in_id, in_topic);
    IF j.flags <> 0 THEN
        UPDATE jobs SET flags = j.flags WHERE id = in_id;
    END IF;
    PERFORM 1 FROM tombstones WHERE id = in_id;
    IF FOUND THEN
        PERFORM finish(in_now, j, '', 0, 0, 3, cancelled('before it was sent'), in_keep, in_ledger);
    ELSIF due IS NOT NULL THEN
        INSERT INTO ready VALUES (in_queue, in_priority, due, in_n, in_id, length(in_job));
        PERFORM ring_later(in_queue);
    END IF;
    RETURN true;
END $$;

-- Release that job when `need` of these topics hold so many events each.
CREATE FUNCTION await(in_now bigint, in_job text, in_root text, in_need int, in_topics text[], in_counts bigint[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    this bigint;
    name text;
    met int := 0;
    is_met boolean;
BEGIN
    PERFORM make_scope(in_now, in_root, '~');
    INSERT INTO triggers (root, job_id, need, reached) VALUES (in_root, in_job, in_need, 0) RETURNING tid INTO this;
    FOR i IN 1 .. coalesce(cardinality(in_topics), 0) LOOP
        name := in_topics[i];
        IF name LIKE 'done/%' THEN
            UPDATE jobs SET flags = flags | 4 WHERE id = substr(name, 6);
            is_met := NOT FOUND;
        ELSE
            is_met := coalesce((SELECT events FROM topics t WHERE t.root = in_root AND t.topic = name), 0) >= in_counts[i];
        END IF;
        IF is_met THEN
            met := met + 1;
        ELSE
            INSERT INTO awaits VALUES (in_root, name, this, in_counts[i]);
        END IF;
    END LOOP;
    PERFORM reach(in_now, this, met);
END $$;

-- An attempt ends. in_kind: 1 to 5 end the job; 6 retried, 7 snoozed, 8 suspended, 9 released.
CREATE FUNCTION end_attempt(
    in_now bigint, j jobs, in_lease text, in_kind int, in_after bigint, in_keep bigint, in_last bytea, in_ledger boolean
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    attempts int := CASE WHEN in_kind <= 6 THEN 1 ELSE 0 END; -- the others give it back
    next bigint;
BEGIN
    IF in_kind <= 5 THEN
        PERFORM finish(in_now, j, in_lease, 1, 1, in_kind, in_last, in_keep, in_ledger);
        RETURN;
    ELSIF j.flags & 16 <> 0 THEN
        PERFORM finish(in_now, j, in_lease, attempts, 1, 3, cancelled(''), j.keep_ms, in_ledger);
        RETURN;
    END IF;
    next := CASE
        WHEN in_kind = 8 AND j.flags & 8 <> 0 THEN in_now
        WHEN in_kind = 9 THEN greatest(j.due, CASE WHEN in_after > 0 THEN in_now + in_after END)
        ELSE in_now + in_after -- suspended until a release: NULL
    END;
    UPDATE jobs SET attempt = attempt + attempts, fence = fence + 1, flags = flags & 39, due = next, last = in_last WHERE id = j.id;
    IF next IS NOT NULL THEN
        INSERT INTO ready VALUES (j.queue, j.priority, next, j.n, j.id, length(j.job));
        PERFORM ring_later(j.queue);
    END IF;
END $$;
