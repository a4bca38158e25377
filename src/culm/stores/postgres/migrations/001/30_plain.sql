-- Batches of plain commits, in columns. What is not plain raises CULM1, and nothing of the batch is written: it goes to `commit`.

-- Is this batch new? NULL: it is. Else its answers of the first time, or '' for a batch older than the client's last.
CREATE FUNCTION remember(in_now bigint, in_client text, in_number bigint, in_size int) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    known clients;
BEGIN
    INSERT INTO clients VALUES (in_client, in_number, NULL, in_now)
    ON CONFLICT (client) DO UPDATE SET number = excluded.number, refused = NULL, at = excluded.at WHERE excluded.number > clients.number;
    IF FOUND THEN
        RETURN NULL;
    END IF;
    SELECT * INTO known FROM clients WHERE client = in_client;
    RETURN CASE WHEN known.number = in_number THEN coalesce(known.refused, repeat('a', in_size)) ELSE repeat('l', in_size) END;
END $$;

-- Jobs end, of which this client knows the grant: (n, fence). Their leases in `in_gone` hold nothing any more. -> answers
CREATE FUNCTION finish_plain(
    in_now bigint, in_client text, in_number bigint, in_gone text[], in_leases text[],
    in_ids text[], in_ns bigint[], in_fences int[], in_ended smallint[], in_keep bigint[], in_last bytea[]
) RETURNS text LANGUAGE plpgsql
SET search_path = {schema}, pg_temp
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    at bigint := coalesce(in_now, ms());
    size int := cardinality(in_ids);
    known text := remember(at, in_client, in_number, size);
    at_once int := 0;
    ended int := 0;
    awaited text[];
BEGIN
    IF known IS NOT NULL THEN
        RETURN known;
    END IF;
    IF 0 = ALL (in_keep) AND NOT in_ended && ARRAY[2, 5]::smallint[] THEN -- nothing is kept: most of the time nobody waits for it, either
        DELETE FROM jobs j USING unnest(in_ids, in_ns, in_fences) f (id, n, fence)
        WHERE j.id = f.id AND j.n = f.n AND j.fence = f.fence - 1 AND j.flags & 63 = 0;
        GET DIAGNOSTICS at_once = ROW_COUNT;
    END IF;
    IF at_once < size THEN
        WITH gone AS (
            DELETE FROM jobs j USING unnest(in_ids, in_ns, in_fences, in_ended, in_keep, in_last) f (id, n, fence, ended, keep, last)
            WHERE j.id = f.id AND j.n = f.n AND j.fence = f.fence - 1 AND j.flags & 31 = 0
            RETURNING j.*, f.ended AS f_ended, f.keep AS f_keep, f.last AS f_last
        ), kept AS (
            INSERT INTO done SELECT id, n, sent, CASE WHEN f_ended IN (2, 5) THEN NULL ELSE at + f_keep END, keep_ms, attempt + 1, expiries,
                fence + 1, priority, flags & 31, f_ended, queue, task, topic, job, f_last, replays,
                CASE WHEN f_ended IN (2, 5) THEN at END
            FROM gone WHERE f_keep > 0 OR f_ended IN (2, 5)
        )
        SELECT count(*), array_agg(id) FILTER (WHERE flags <> 0) INTO ended, awaited FROM gone;
    END IF;
    IF at_once + ended < size THEN
        RAISE EXCEPTION 'not plain' USING ERRCODE = 'CULM1';
    END IF;
    IF in_leases IS NOT NULL THEN
        INSERT INTO ledger SELECT i, l, at FROM unnest(in_ids, in_leases) f (i, l);
    END IF;
    IF cardinality(in_gone) > 0 THEN
        DELETE FROM leases WHERE lease = ANY (in_gone);
    END IF;
    IF awaited IS NOT NULL THEN
        PERFORM tell(awaited);
    END IF;
    RETURN repeat('a', size);
END $$;

-- New roots that nobody knows are sent, in_sizes[i] of them by commit i. -> answers
CREATE FUNCTION send_plain(
    in_now bigint, in_client text, in_number bigint, in_commits int, in_least text, in_greatest text,
    in_ids text[], in_tasks text[], in_queues text[], in_priorities smallint[], in_after bigint[], in_at bigint[], in_keep bigint[], in_jobs bytea[]
) RETURNS text LANGUAGE plpgsql
SET search_path = {schema}, pg_temp
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    at bigint := coalesce(in_now, ms());
    known text := remember(at, in_client, in_number, in_commits);
    base bigint;
    written int;
BEGIN
    IF known IS NOT NULL THEN
        RETURN known;
    END IF;
    base := nextval('sends');
    INSERT INTO jobs (id, n, sent, due, keep_ms, priority, queue, task, topic, job)
    SELECT s.id, base + s.place, at, greatest(at + s.after, s.earliest), s.keep, s.priority, s.queue, s.task, '', s.job
    FROM unnest(in_ids, in_tasks, in_queues, in_priorities, in_after, in_at, in_keep, in_jobs) WITH ORDINALITY
        s (id, task, queue, priority, after, earliest, keep, job, place)
    ON CONFLICT DO NOTHING;
    GET DIAGNOSTICS written = ROW_COUNT;
    -- Asked after the insert, which waits for whoever has the same id in hand: what that one wrote is seen now. New ids lie close
    -- together, where nothing else is: only if there is anything between the least and the greatest is each looked for.
    IF written < cardinality(in_ids)
        OR (EXISTS (SELECT 1 FROM done d WHERE d.id BETWEEN in_least AND in_greatest)
            AND EXISTS (SELECT 1 FROM unnest(in_ids) i JOIN done d ON d.id = i))
        OR (EXISTS (SELECT 1 FROM tombstones t WHERE t.id BETWEEN in_least AND in_greatest)
            AND EXISTS (SELECT 1 FROM unnest(in_ids) i JOIN tombstones t ON t.id = i))
        OR (EXISTS (SELECT 1 FROM scopes s WHERE s.root BETWEEN in_least AND in_greatest)
            AND EXISTS (SELECT 1 FROM unnest(in_ids) i JOIN scopes s ON s.root = i))
    THEN
        RAISE EXCEPTION 'not plain' USING ERRCODE = 'CULM1';
    END IF;
    INSERT INTO ready
    SELECT s.queue, s.priority, greatest(at + s.after, s.earliest), base + s.place, s.id, length(s.job)
    FROM unnest(in_ids, in_queues, in_priorities, in_after, in_at, in_jobs) WITH ORDINALITY s (id, queue, priority, after, earliest, job, place);
    PERFORM ring(in_queues);
    RETURN repeat('a', in_commits);
END $$;
