-- Claims and extensions. A claim takes the turns of the oldest due jobs away, reads the jobs, and writes one row into `leases` for all.

-- A worker speaks, of a lease of in_for. -> true while leases that ran out still hold: when nobody spoke for half a lease, the server
-- was away, leases ran out that nobody could extend, and every worker gets ten seconds to return. A given clock is judged by itself alone.
CREATE FUNCTION in_grace(in_now bigint, in_for bigint) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    at bigint := ms();
    a alive;
    silent boolean;
BEGIN
    IF in_now IS NOT NULL THEN
        RETURN false;
    END IF;
    SELECT * INTO a FROM alive;
    silent := a.last > 0 AND at - a.last > greatest(in_for / 2, 2000);
    IF silent OR abs(at - a.last) > 200 THEN
        IF silent THEN
            a.until := at + 10000;
        END IF;
        UPDATE alive SET last = at, until = a.until WHERE ctid = (SELECT ctid FROM alive FOR UPDATE SKIP LOCKED);
    END IF;
    RETURN at < a.until AND a.until <= at + 10000; -- later than that: the clock was set back
END $$;

-- Take up to in_limit turns of one lane, from its head on, none beyond (in_due, in_n), no more than in_room bytes of jobs but one in any case.
CREATE FUNCTION take_lane(
    in_queue text, in_priority int, head_due bigint, head_n bigint, in_due bigint, in_n bigint, in_limit int, in_room bigint,
    OUT ids text[], OUT dues bigint[], OUT ns bigint[], OUT bytes bigint
) LANGUAGE plpgsql AS $$
DECLARE
    places tid[];
    sizes int[];
    fitting int := 1;
BEGIN
    SELECT array_agg(place), array_agg(id), array_agg(due), array_agg(n), array_agg(size), sum(size)
    INTO places, ids, dues, ns, sizes, bytes FROM (
        SELECT r.ctid AS place, r.id, r.due, r.n, r.size FROM ready r
        WHERE r.queue = in_queue AND r.priority = in_priority AND (r.due, r.n) >= (head_due, head_n) AND (r.due, r.n) <= (in_due, in_n)
        ORDER BY r.due, r.n LIMIT in_limit FOR UPDATE SKIP LOCKED
    ) locked;
    IF bytes > in_room THEN
        bytes := sizes[1];
        WHILE bytes + coalesce(sizes[fitting + 1], in_room) <= in_room LOOP
            fitting := fitting + 1;
            bytes := bytes + sizes[fitting];
        END LOOP;
        places := places[1:fitting]; -- the others keep their turns: they were only locked
        ids := ids[1:fitting];
        dues := dues[1:fitting];
        ns := ns[1:fitting];
    END IF;
    DELETE FROM ready WHERE ctid = ANY (places);
END $$;

-- Take due jobs of these queues: by priority the highest first, of equals the oldest due; else the oldest due. -> their ids, and when the
-- next job of all lanes comes due. Each lane's head is looked for once: turns that were taken lie before it until they are vacuumed.
CREATE FUNCTION take_due(at bigint, in_queues text[], in_order text, in_limit int, in_room bigint, OUT ids text[], OUT next bigint)
LANGUAGE plpgsql AS $$
DECLARE
    queues text[]; priorities int[]; dues bigint[]; ns bigint[]; -- of each lane, and its head
    taken record;
    last_due bigint;
    last_n bigint;
    first int := 1;
    last int;
    due_lanes int;
    group_ids text[]; group_dues bigint[]; group_ns bigint[];
BEGIN
    ids := '{}';
    SELECT array_agg(q), array_agg(p), array_agg(h.due), array_agg(h.n) INTO queues, priorities, dues, ns FROM (
        SELECT q, p, head.due, head.n FROM generate_series(9, 0, -1) p, unnest(in_queues) q,
            LATERAL (SELECT r.due, r.n FROM ready r WHERE r.queue = q AND r.priority = p ORDER BY r.due, r.n LIMIT 1) head
        ORDER BY p DESC
    ) h;
    WHILE first <= coalesce(cardinality(queues), 0) AND cardinality(ids) < in_limit AND in_room > 0 LOOP
        last := first;
        due_lanes := (dues[first] <= at)::int;
        WHILE last < cardinality(queues) AND (in_order = 'age' OR priorities[last + 1] = priorities[first]) LOOP
            last := last + 1;
            due_lanes := due_lanes + (dues[last] <= at)::int;
        END LOOP;
        last_due := at;
        last_n := 9223372036854775807;
        IF due_lanes > 1 THEN -- how far to go in each of them, so that all that is taken is older than all that is left
            SELECT o.due, o.n INTO last_due, last_n FROM (
                SELECT head.due, head.n FROM unnest(queues[first:last], priorities[first:last], dues[first:last], ns[first:last]) l (q, p, due, n),
                LATERAL (
                    SELECT r.due, r.n FROM ready r
                    WHERE r.queue = l.q AND r.priority = l.p AND (r.due, r.n) >= (l.due, l.n) AND r.due <= at
                    ORDER BY r.due, r.n LIMIT in_limit - cardinality(ids)
                ) head ORDER BY head.due, head.n LIMIT in_limit - cardinality(ids)
            ) o ORDER BY o.due DESC, o.n DESC LIMIT 1;
        END IF;
        group_ids := '{}'; group_dues := '{}'; group_ns := '{}';
        FOR i IN first .. last LOOP
            CONTINUE WHEN dues[i] > at OR cardinality(ids) + cardinality(group_ids) >= in_limit OR in_room <= 0;
            taken := take_lane(
                queues[i], priorities[i], dues[i], ns[i], last_due, last_n, in_limit - cardinality(ids) - cardinality(group_ids), in_room
            );
            IF taken.ids IS NULL THEN
                IF (dues[i], ns[i]) <= (last_due, last_n) THEN
                    dues[i] := at + 5; -- others are taking them just now
                END IF;
                CONTINUE;
            END IF;
            group_ids := group_ids || taken.ids; group_dues := group_dues || taken.dues; group_ns := group_ns || taken.ns;
            in_room := in_room - taken.bytes;
            dues[i] := (
                SELECT r.due FROM ready r WHERE r.queue = queues[i] AND r.priority = priorities[i]
                AND (r.due, r.n) > (taken.dues[cardinality(taken.dues)], taken.ns[cardinality(taken.ns)]) ORDER BY r.due, r.n LIMIT 1
            );
        END LOOP;
        IF due_lanes > 1 THEN
            group_ids := ARRAY(SELECT t.id FROM unnest(group_ids, group_dues, group_ns) t (id, due, n) ORDER BY t.due, t.n);
        END IF;
        ids := ids || group_ids;
        first := last + 1;
    END LOOP;
    next := (SELECT min(d) FROM unnest(dues) d);
END $$;

-- What a row of `leases` still holds: the jobs whose grant is that one.
CREATE FUNCTION held_under(in_lid bigint) RETURNS SETOF jobs LANGUAGE sql STABLE AS $$
    SELECT j.* FROM leases l, LATERAL unnest(l.ids, l.ns, l.fences) h (id, n, fence) JOIN jobs j ON j.id = h.id AND j.n = h.n AND j.fence = h.fence - 1
    WHERE l.lid = in_lid
$$;

-- Let a row of `leases` hold these jobs and no others.
CREATE FUNCTION rewrite_lease(in_lid bigint, in_ids text[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE leases l SET ids = h.ids, ns = h.ns, fences = h.fences FROM (
        SELECT array_agg(id) AS ids, array_agg(n) AS ns, array_agg(fence + 1) AS fences FROM held_under(in_lid) WHERE id = ANY (in_ids)
    ) h WHERE l.lid = in_lid AND h.ids IS NOT NULL;
    IF NOT FOUND THEN
        DELETE FROM leases WHERE lid = in_lid;
    END IF;
END $$;

-- Take jobs of these queues over whose lease ran out, the earliest first; whoever was asked to stop is stopped now. -> their ids
CREATE FUNCTION take_over(at bigint, in_queues text[], in_limit int, in_room bigint, in_ledger boolean, OUT ids text[], OUT bytes bigint)
LANGUAGE plpgsql AS $$
DECLARE
    over bigint[];
    gone text[] := '{}';
    l record;
    h record;
    j jobs;
BEGIN
    ids := '{}';
    bytes := 0;
    SELECT array_agg(lid) INTO over FROM (
        SELECT lid FROM leases WHERE until <= at AND queues && in_queues ORDER BY until FOR UPDATE SKIP LOCKED
    ) locked;
    FOR h IN
        SELECT k.id, k.n, k.fence, length(k.job) AS size, o.lease FROM leases o, LATERAL held_under(o.lid) k
        WHERE o.lid = ANY (over) AND k.queue = ANY (in_queues) ORDER BY o.until, k.n
    LOOP
        SELECT * INTO j FROM jobs WHERE jobs.id = h.id AND n = h.n AND fence = h.fence FOR UPDATE;
        IF NOT FOUND THEN
            CONTINUE; -- its attempt ended meanwhile
        ELSIF j.flags & 16 <> 0 THEN
            PERFORM finish(at, j, h.lease, 1, 1, 3, cancelled(''), j.keep_ms, in_ledger);
        ELSIF cardinality(ids) < in_limit AND (bytes = 0 OR bytes + h.size <= in_room) THEN
            UPDATE jobs SET fence = fence + 1, expiries = expiries + 1 WHERE jobs.id = j.id;
            ids := ids || j.id;
            bytes := bytes + h.size;
        END IF;
    END LOOP;
    FOR l IN SELECT lid FROM unnest(over) lid LOOP
        PERFORM rewrite_lease(l.lid, ARRAY(SELECT id FROM held_under(l.lid)));
    END LOOP;
END $$;

-- -> moment, when the next job comes due (NULL: none is known), in columns the jobs: their grants, and what they are; and the ids in the
-- order of their turns (NULL: in any)
CREATE FUNCTION claim(
    in_now bigint, in_lease text, in_limit int, in_for bigint, in_order text, in_room bigint, in_queues text[], in_gone text[], in_ledger boolean,
    OUT moment bigint, OUT next bigint, OUT ids text[], OUT ns bigint[], OUT attempts int[], OUT expiries int[], OUT fences int[],
    OUT sent bigint[], OUT bodies bytea[], OUT turns text[]
) LANGUAGE plpgsql
SET search_path = {schema}, pg_temp
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    claimant text := left(in_lease, -strpos(reverse(in_lease), '/'));
    late text[] := '{}';
    due record;
    grace boolean := in_grace(in_now, in_for);
    open_queues text[];
BEGIN
    moment := coalesce(in_now, ms());
    -- A repeated claim must find what the first one did, not do it beside it.
    PERFORM pg_advisory_xact_lock(hashtextextended(current_schema || '/' || claimant, 6178));
    IF cardinality(in_gone) > 0 THEN
        DELETE FROM leases WHERE lease = ANY (in_gone);
    END IF;
    PERFORM 1 FROM claimers c WHERE c.claimer = claimant AND c.lease = in_lease;
    IF FOUND THEN -- the reply was lost
        SELECT array_agg(j.id), array_agg(j.n), array_agg(j.attempt + 1), array_agg(j.expiries), array_agg(j.fence + 1), array_agg(j.sent), array_agg(j.job)
        INTO ids, ns, attempts, expiries, fences, sent, bodies FROM leases l, LATERAL held_under(l.lid) j WHERE l.lease = in_lease;
        next := moment;
        RETURN;
    END IF;
    open_queues := ARRAY(SELECT DISTINCT q FROM unnest(in_queues) q WHERE NOT EXISTS (SELECT 1 FROM paused p WHERE p.queue = q));
    IF NOT grace THEN
        PERFORM 1 FROM leases WHERE until <= moment LIMIT 1;
        IF FOUND THEN
            due := take_over(moment, open_queues, in_limit, in_room, in_ledger);
            late := due.ids;
            in_room := in_room - due.bytes;
        END IF;
    END IF;
    due := take_due(moment, open_queues, in_order, in_limit - cardinality(late), in_room);
    late := late || due.ids;
    next := due.next;
    IF cardinality(late) > 0 THEN
        SELECT array_agg(id), array_agg(n), array_agg(attempt), array_agg(expired), array_agg(fence), array_agg(sent_at), array_agg(job)
        INTO ids, ns, attempts, expiries, fences, sent, bodies FROM (
            SELECT j.id, j.n, j.attempt + 1 AS attempt, j.expiries AS expired, j.fence + 1 AS fence, j.sent AS sent_at, j.job
            FROM jobs j WHERE j.id = ANY (late) -- by id: whoever asked sorts them
        ) found;
        turns := late;
    END IF;
    IF ids IS NOT NULL THEN
        INSERT INTO leases (lease, until, queues, ids, ns, fences) VALUES (in_lease, moment + in_for, open_queues, ids, ns, fences);
        INSERT INTO claimers VALUES (claimant, in_lease, moment) ON CONFLICT (claimer) DO UPDATE SET lease = excluded.lease, at = excluded.at;
        IF next <= moment THEN -- there is more than one worker can take
            PERFORM ring_later(q) FROM unnest(open_queues) q;
        END IF;
    END IF;
    PERFORM ring_now(false);
END $$;

-- Let each of these leases on these jobs end in_for from now. -> a letter for each: h(eld), l(ost), c(ancelled)
CREATE FUNCTION extend(in_now bigint, in_for bigint, in_ids text[], in_leases text[]) RETURNS text LANGUAGE plpgsql
SET search_path = {schema}, pg_temp
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_mergejoin = off AS $$
DECLARE
    at bigint := coalesce(in_now, ms());
    l record;
    live text[];
    asked text[];
    held jsonb := '{}'; -- lease / job -> its letter
BEGIN
    PERFORM in_grace(in_now, in_for);
    PERFORM set_config('synchronous_commit', 'off', true);
    FOR l IN SELECT * FROM leases WHERE lease = ANY (in_leases) ORDER BY lid FOR UPDATE LOOP
        asked := ARRAY(SELECT a.id FROM unnest(in_ids, in_leases) a (id, lease) WHERE a.lease = l.lease);
        SELECT array_agg(id), held || coalesce(jsonb_object_agg(jsonb_build_array(l.lease, id)::text, CASE WHEN flags & 16 <> 0 THEN 'c' ELSE 'h' END)
            FILTER (WHERE id = ANY (asked)), '{}') INTO live, held FROM held_under(l.lid);
        asked := ARRAY(SELECT a FROM unnest(asked) a WHERE a = ANY (live));
        IF cardinality(asked) = 0 THEN
            CONTINUE;
        ELSIF live <@ asked THEN
            UPDATE leases SET until = at + in_for WHERE lid = l.lid;
        ELSE -- the others end as they did
            INSERT INTO leases (lease, until, queues, ids, ns, fences)
            SELECT l.lease, at + in_for, l.queues, array_agg(id), array_agg(n), array_agg(fence + 1) FROM held_under(l.lid) WHERE id = ANY (asked);
            PERFORM rewrite_lease(l.lid, ARRAY(SELECT a FROM unnest(live) a WHERE a <> ALL (asked)));
        END IF;
    END LOOP;
    RETURN (SELECT string_agg(coalesce(held ->> jsonb_build_array(a.lease, a.id)::text, 'l'), '' ORDER BY a.place)
        FROM unnest(in_ids, in_leases) WITH ORDINALITY a (id, lease, place));
END $$;
