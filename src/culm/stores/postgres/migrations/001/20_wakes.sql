-- Time, and who is told of what.

CREATE FUNCTION ms() RETURNS bigint LANGUAGE sql VOLATILE AS $$ SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint $$;

-- The root of a job's tree.
CREATE FUNCTION root_of(job_id text) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT split_part(job_id, '~', 1) $$;

-- The lock between those who send into a queue (shared) and those who begin to wait for it. It lives as long as the transaction.
CREATE FUNCTION bell(queue text) RETURNS bigint LANGUAGE sql STABLE AS $$ SELECT hashtextextended(current_schema || '/' || queue, 6177) $$;

-- Wake one who waits for each of these queues. Whoever begins to wait waits for us first, and then sees what we wrote: nobody misses it.
CREATE FUNCTION ring(in_queues text[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    name text;
    woken text;
BEGIN
    FOR name IN SELECT DISTINCT q FROM unnest(in_queues) q ORDER BY q LOOP
        PERFORM pg_advisory_xact_lock_shared(bell(name));
        DELETE FROM waiters WHERE ctid = (SELECT ctid FROM waiters WHERE queue = name AND until > ms() LIMIT 1 FOR UPDATE SKIP LOCKED)
        RETURNING who INTO woken;
        IF woken IS NOT NULL THEN
            PERFORM pg_notify(woken, 'q' || name);
        END IF;
    END LOOP;
END $$;

-- The queues to ring when this transaction has done all else: whoever held a bell and then waited for a row would hold up everybody.
CREATE FUNCTION ring_later(in_queue text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    rung text := coalesce(current_setting('culm.rung', true), '');
BEGIN
    IF in_queue <> ALL (string_to_array(rung, chr(31))) THEN
        PERFORM set_config('culm.rung', rung || chr(31) || in_queue, true);
    END IF;
END $$;

-- Ring them. A transaction that is not ours may take long, and must not hold up those who begin to wait: there, all are told instead.
CREATE FUNCTION ring_now(in_within boolean) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    queues text[] := string_to_array(nullif(current_setting('culm.rung', true), ''), chr(31));
BEGIN
    IF queues IS NULL THEN
        RETURN;
    END IF;
    PERFORM set_config('culm.rung', '', true);
    IF in_within THEN
        PERFORM pg_notify('culm/' || current_schema, 'q' || q) FROM unnest(queues) q WHERE q <> '';
    ELSE
        PERFORM ring(queues);
    END IF;
END $$;

-- When the next job of these queues comes due; NULL: none is known.
CREATE FUNCTION next_due(in_queues text[]) RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT min(head.due) FROM unnest(in_queues) q, generate_series(0, 9) p,
        LATERAL (SELECT due FROM ready r WHERE r.queue = q AND r.priority = p ORDER BY due, n LIMIT 1) head
    WHERE NOT EXISTS (SELECT 1 FROM paused WHERE queue = q)
$$;

-- Want to hear of these queues. Returns in how many ms their next job comes due; NULL: none is known.
CREATE FUNCTION arm(in_now bigint, in_who text, in_queues text[], in_for bigint) RETURNS bigint LANGUAGE plpgsql
SET search_path = {schema}, pg_temp
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off AS $$
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    PERFORM pg_advisory_xact_lock(bell(q)) FROM (SELECT DISTINCT q FROM unnest(in_queues) q ORDER BY q) one;
    INSERT INTO waiters SELECT DISTINCT q, in_who, ms() + in_for FROM unnest(in_queues) q ORDER BY q
    ON CONFLICT (queue, who) DO UPDATE SET until = excluded.until;
    RETURN next_due(in_queues) - coalesce(in_now, ms());
END $$;

CREATE FUNCTION disarm(in_who text, in_queues text[]) RETURNS void LANGUAGE plpgsql
SET search_path = {schema}, pg_temp AS $$
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    DELETE FROM waiters WHERE who = in_who AND queue = ANY (in_queues);
END $$;

-- Tell those who wait for the outcomes of these jobs.
CREATE FUNCTION tell(in_ids text[]) RETURNS void LANGUAGE sql AS $$
    WITH told AS (DELETE FROM watchers WHERE id = ANY (in_ids) RETURNING who, id) SELECT pg_notify(who, 'o' || id) FROM told
$$;

-- How some jobs ended: ended NULL: not yet; no row: no such job. Of those that have not, `who` is told when they do; '': nobody.
CREATE FUNCTION look(in_now bigint, in_who text, in_ids text[]) RETURNS TABLE (job_id text, ended smallint, last bytea) LANGUAGE plpgsql
SET search_path = {schema}, pg_temp
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off AS $$
BEGIN
    IF in_who <> '' THEN -- first the mark, under the lock that an end takes: no end falls between it and the look
        PERFORM set_config('synchronous_commit', 'off', true);
        WITH marked AS (
            UPDATE jobs j SET flags = j.flags | 32 FROM (SELECT id FROM jobs WHERE id = ANY (in_ids) ORDER BY id FOR UPDATE) k WHERE j.id = k.id
            RETURNING j.id
        )
        INSERT INTO watchers SELECT id, in_who, coalesce(in_now, ms()) FROM marked ON CONFLICT DO NOTHING;
    END IF;
    RETURN QUERY SELECT j.id, NULL::smallint, NULL::bytea FROM jobs j WHERE j.id = ANY (in_ids)
        UNION ALL SELECT d.id, d.ended, d.last FROM done d WHERE d.id = ANY (in_ids);
END $$;
