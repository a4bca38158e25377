-- What an operator does, and retention.

CREATE FUNCTION replay(in_now bigint, in_ids text[]) RETURNS int LANGUAGE plpgsql
SET search_path = {schema}, pg_temp SET jit = off SET enable_seqscan = off AS $$
DECLARE
    at bigint := coalesce(in_now, ms());
    d done;
    entered int;
    replayed int := 0;
BEGIN
    PERFORM lock_all(in_ids, '{}');
    FOR d IN DELETE FROM done WHERE id = ANY (in_ids) AND ended IN (2, 5) RETURNING * LOOP
        entered := enter(at, d.id, d.topic);
        INSERT INTO jobs VALUES (
            d.id, d.n, at, at, d.keep_ms, 0, 0, d.fence, d.priority, (d.flags & 4) | entered, d.queue, d.task, d.topic, d.job, d.last, d.replays + 1
        );
        INSERT INTO ready VALUES (d.queue, d.priority, at, d.n, d.id, length(d.job));
        PERFORM ring_later(d.queue);
        replayed := replayed + 1;
    END LOOP;
    PERFORM ring_now(false);
    RETURN replayed;
END $$;

-- Cancel up to in_limit open jobs of the queue. -> how many were
CREATE FUNCTION purge(in_now bigint, in_queue text, in_limit int, in_ledger boolean) RETURNS int LANGUAGE plpgsql
SET search_path = {schema}, pg_temp AS $$
DECLARE
    at bigint := coalesce(in_now, ms());
    j jobs;
    purged int := 0;
BEGIN
    FOR j IN
        SELECT k.* FROM jobs k LEFT JOIN ready r ON r.queue = k.queue AND r.priority = k.priority AND r.due = k.due AND r.n = k.n
        WHERE k.queue = in_queue AND (k.due IS NULL OR r.n IS NOT NULL) ORDER BY k.id LIMIT in_limit
    LOOP
        SELECT * INTO j FROM jobs WHERE id = j.id FOR UPDATE; -- the one before may have released it
        CONTINUE WHEN NOT FOUND;
        IF j.due IS NOT NULL THEN
            DELETE FROM ready r WHERE r.queue = j.queue AND r.priority = j.priority AND r.due = j.due AND r.n = j.n;
            CONTINUE WHEN NOT FOUND; -- somebody claimed it: it goes on
        END IF;
        PERFORM finish(at, j, '', 0, 0, 3, cancelled(''), j.keep_ms, in_ledger);
        purged := purged + 1;
    END LOOP;
    PERFORM ring_now(false);
    RETURN purged;
END $$;

-- Remove up to in_limit things whose time is over. -> how many
CREATE FUNCTION sweep(in_now bigint, in_limit int) RETURNS int LANGUAGE plpgsql
SET search_path = {schema}, pg_temp SET jit = off SET enable_seqscan = off AS $$
DECLARE
    moment bigint := coalesce(in_now, ms());
    n int;
    swept int;
    roots text[];
BEGIN
    DELETE FROM clients c WHERE c.at < moment - 86400000;
    DELETE FROM claimers c WHERE c.at < moment - 86400000;
    DELETE FROM workers w WHERE w.until <= moment;
    DELETE FROM hints h WHERE h.at < moment - 60000;
    DELETE FROM waiters w WHERE w.until < ms() - 60000;
    DELETE FROM watchers w WHERE w.at < moment - 3600000;
    DELETE FROM done WHERE ctid = ANY (ARRAY(SELECT ctid FROM done WHERE sweep_at <= moment ORDER BY sweep_at LIMIT in_limit FOR UPDATE SKIP LOCKED));
    GET DIAGNOSTICS swept = ROW_COUNT;
    DELETE FROM tombstones WHERE ctid = ANY (
        ARRAY(SELECT ctid FROM tombstones WHERE sweep_at <= moment ORDER BY sweep_at LIMIT in_limit - swept FOR UPDATE SKIP LOCKED)
    );
    GET DIAGNOSTICS n = ROW_COUNT;
    swept := swept + n;
    SELECT array_agg(root) INTO roots FROM (
        SELECT root FROM scopes s WHERE sweep_at <= moment AND live = 0 AND NOT EXISTS (SELECT 1 FROM jobs j WHERE j.id = s.root)
        ORDER BY sweep_at LIMIT in_limit - swept FOR UPDATE SKIP LOCKED
    ) over;
    DELETE FROM awaits WHERE root = ANY (roots);
    DELETE FROM triggers WHERE root = ANY (roots);
    DELETE FROM events WHERE root = ANY (roots);
    DELETE FROM topics WHERE root = ANY (roots);
    DELETE FROM records WHERE root = ANY (roots);
    DELETE FROM scopes WHERE root = ANY (roots);
    RETURN swept + coalesce(cardinality(roots), 0);
END $$;
