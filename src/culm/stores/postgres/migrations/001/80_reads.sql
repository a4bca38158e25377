-- What readers ask, where it takes more than one table; and two things of operators.

-- What is known of these jobs. ended NULL: unfinished; lease NULL: nobody holds it.
CREATE FUNCTION views(in_ids text[]) RETURNS TABLE (
    id text, queue text, priority smallint, ended smallint, attempt int, expiries int, due bigint, sent bigint, last bytea, lease text, job bytea, fence int,
    replays smallint, died bigint
) LANGUAGE plpgsql STABLE
SET search_path = {schema}, pg_temp SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off AS $$
BEGIN
    RETURN QUERY
    SELECT * FROM (
        SELECT j.id AS id, j.queue, j.priority, NULL::smallint, j.attempt + (h.lease IS NOT NULL)::int, j.expiries, coalesce(h.until, j.due), j.sent, j.last,
            h.lease, j.job, j.fence + (h.lease IS NOT NULL)::int, j.replays, NULL::bigint
        FROM jobs j LEFT JOIN (
            SELECT g.id, g.n, g.fence, l.lease, l.until FROM leases l, LATERAL unnest(l.ids, l.ns, l.fences) g (id, n, fence) WHERE l.ids && in_ids
        ) h ON h.id = j.id AND h.n = j.n AND h.fence = j.fence + 1
            AND NOT EXISTS (SELECT 1 FROM ready r WHERE r.queue = j.queue AND r.priority = j.priority AND r.due = j.due AND r.n = j.n)
        WHERE j.id = ANY (in_ids)
        UNION ALL
        SELECT d.id, d.queue, d.priority, d.ended, d.attempt, d.expiries, NULL, d.sent, d.last, NULL, d.job, d.fence,
            d.replays, d.died
        FROM done d WHERE d.id = ANY (in_ids)
    ) v ORDER BY v.id COLLATE "C";
END $$;

-- How many jobs of its queue are claimed before it by priority; NULL: it is not open, or waits for a release.
CREATE FUNCTION ahead(in_now bigint, in_id text) RETURNS bigint LANGUAGE plpgsql STABLE SET search_path = {schema}, pg_temp AS $$
DECLARE
    j jobs;
BEGIN
    SELECT * INTO j FROM jobs WHERE id = in_id;
    IF j.due IS NULL OR NOT EXISTS (
        SELECT 1 FROM ready r WHERE r.queue = j.queue AND r.priority = j.priority AND r.due = j.due AND r.n = j.n
    ) THEN
        RETURN NULL;
    END IF;
    RETURN (SELECT count(*) FROM ready r WHERE r.queue = j.queue AND r.priority = j.priority AND (r.due, r.n) < (j.due, j.n))
        + (SELECT count(*) FROM ready r
           WHERE r.queue = j.queue AND r.priority > j.priority AND r.due <= greatest(j.due, coalesce(in_now, ms())));
END $$;

CREATE FUNCTION counts(in_now bigint) RETURNS TABLE (
    queue text, is_paused boolean, is_ready bigint, is_delayed bigint, is_waiting bigint, is_leased bigint, oldest bigint
) LANGUAGE plpgsql STABLE SET search_path = {schema}, pg_temp AS $$
DECLARE
    at bigint := coalesce(in_now, ms());
BEGIN
    RETURN QUERY
    WITH turns AS (
        SELECT r.queue, count(*) FILTER (WHERE r.due <= at) AS now, count(*) AS all_of_them, min(r.due) FILTER (WHERE r.due <= at) AS oldest
        FROM ready r GROUP BY r.queue
    ), unfinished AS (
        SELECT j.queue, count(*) AS all_of_them, count(*) FILTER (WHERE j.due IS NULL) AS waiting FROM jobs j GROUP BY j.queue
    )
    SELECT q.queue, EXISTS (SELECT 1 FROM paused p WHERE p.queue = q.queue), coalesce(t.now, 0), coalesce(t.all_of_them - t.now, 0),
        coalesce(u.waiting, 0), coalesce(u.all_of_them - u.waiting, 0) - coalesce(t.all_of_them, 0), at - t.oldest
    FROM (SELECT p.queue FROM paused p UNION SELECT u.queue FROM unfinished u) q
    LEFT JOIN turns t ON t.queue = q.queue LEFT JOIN unfinished u ON u.queue = q.queue ORDER BY q.queue COLLATE "C";
END $$;

CREATE FUNCTION resume(in_queue text) RETURNS void LANGUAGE plpgsql SET search_path = {schema}, pg_temp AS $$
BEGIN
    DELETE FROM paused WHERE queue = in_queue;
    PERFORM ring(ARRAY[in_queue]);
END $$;

CREATE FUNCTION register(in_id text, in_info bytea, in_for bigint, in_now bigint) RETURNS void LANGUAGE plpgsql
SET search_path = {schema}, pg_temp AS $$
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    PERFORM in_grace(in_now, in_for);
    INSERT INTO workers VALUES (in_id, in_info, coalesce(in_now, ms()) + in_for)
    ON CONFLICT (id) DO UPDATE SET info = excluded.info, until = excluded.until;
END $$;
