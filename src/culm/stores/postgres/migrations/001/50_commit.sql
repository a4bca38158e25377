-- Any batch of commits, in columns: one entry for each commit, and for each list of effects how far (`_to`) it goes in that list.

-- Does the lease hold this grant of the job?
CREATE FUNCTION holds(in_lease text, j jobs) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (
        SELECT 1 FROM leases l, LATERAL unnest(l.ids, l.ns, l.fences) h (id, n, fence)
        WHERE l.lease = in_lease AND h.id = j.id AND h.n = j.n AND h.fence = j.fence + 1
    )
$$;

-- Is one of these jobs another task's, by what is known or by what comes before it in the same commit?
CREATE FUNCTION conflicting_sends(in_ids text[], in_tasks text[]) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (
        SELECT 1 FROM (
            SELECT id, task, first_value(task) OVER (PARTITION BY id ORDER BY place) AS first
            FROM unnest(in_ids, in_tasks) WITH ORDINALITY s (id, task, place)
        ) s LEFT JOIN jobs j ON j.id = s.id LEFT JOIN done d ON d.id = s.id
        WHERE coalesce(j.task, d.task, s.first) <> s.task
    )
$$;

CREATE FUNCTION conflicting_records(in_flows text[], in_seqs bigint[], in_values bytea[]) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (
        SELECT 1 FROM (
            SELECT flow, seq, value, first_value(value) OVER (PARTITION BY flow, seq ORDER BY place) AS first
            FROM unnest(in_flows, in_seqs, in_values) WITH ORDINALITY r (flow, seq, value, place)
        ) s LEFT JOIN records r ON r.root = root_of(s.flow) AND r.flow = s.flow AND r.seq = s.seq
        WHERE coalesce(r.value, s.first) <> s.value
    )
$$;

-- Is there a job among these that neither is there nor comes with the commit?
CREATE FUNCTION absent_job(in_ids text[], in_coming text[]) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (
        SELECT 1 FROM unnest(in_ids) i WHERE i <> ALL (in_coming)
        AND NOT EXISTS (SELECT 1 FROM jobs j WHERE j.id = i) AND NOT EXISTS (SELECT 1 FROM done d WHERE d.id = i)
    )
$$;

-- Sorted: two batches that locked in opposite orders would deadlock. What else a batch turns out to touch may still: then it is repeated.
-- A scope that is yet to be made has no row to lock: whoever may make one of in_making holds one of 64 locks for it.
CREATE FUNCTION lock_all(in_ids text[], in_making text[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended(current_schema, 6179) + bucket) FROM (
        SELECT DISTINCT hashtextextended(m, 0) & 63 AS bucket FROM unnest(in_making) m WHERE NOT EXISTS (SELECT 1 FROM scopes s WHERE s.root = m)
        ORDER BY bucket
    ) b;
    PERFORM 1 FROM scopes s WHERE s.root = ANY (in_making || ARRAY(SELECT root_of(i) FROM unnest(in_ids) i)) ORDER BY s.root FOR UPDATE;
    PERFORM 1 FROM jobs j WHERE j.id = ANY (in_ids) ORDER BY j.id FOR UPDATE;
END $$;

-- -> a letter for each commit: a(pplied), l(ease_lost), c(onflict)
CREATE FUNCTION commit(
    in_now bigint, in_client text, in_number bigint, in_ledger boolean, in_within boolean,
    c_id text[], c_lease text[], c_kind smallint[], c_after bigint[], c_keep bigint[], c_last bytea[],
    s_to int[], e_to int[], t_to int[], r_to int[], x_to int[],
    s_id text[], s_task text[], s_queue text[], s_priority smallint[], s_after bigint[], s_at bigint[], s_keep bigint[], s_topic text[], s_job bytea[],
    e_root text[], e_topic text[], e_key text[], e_value bytea[],
    t_job text[], t_root text[], t_need int[], t_topics_to int[], t_topic text[], t_count bigint[],
    r_flow text[], r_seq bigint[], r_value bytea[],
    x_id text[]
) RETURNS text LANGUAGE plpgsql
SET search_path = {schema}, pg_temp
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    at bigint := coalesce(in_now, ms());
    size int := cardinality(c_id);
    answers text := '';
    base bigint;
    j jobs;
    s int := 1; e int := 1; t int := 1; r int := 1; x int := 1; topic_at int := 1;
    k int; -- where a list of this commit ends
    good boolean;
BEGIN
    IF in_client <> '' THEN
        answers := remember(at, in_client, in_number, size);
        IF answers IS NOT NULL THEN
            RETURN answers;
        END IF;
        answers := '';
    END IF;
    PERFORM lock_all(
        c_id || s_id || t_job || x_id,
        e_root || t_root || ARRAY(SELECT root_of(f) FROM unnest(r_flow) f)
            || ARRAY(SELECT root_of(i) FROM unnest(s_id, s_topic) n (i, topic) WHERE strpos(i, '~') > 0 OR topic <> '')
    );
    base := nextval('sends');
    FOR i IN 1 .. size LOOP
        good := true;
        IF c_id[i] IS NOT NULL THEN
            SELECT * INTO j FROM jobs WHERE id = c_id[i] FOR UPDATE;
            IF NOT FOUND OR NOT holds(c_lease[i], j) THEN
                answers := answers || 'l';
                good := false;
            END IF;
        END IF;
        IF good AND (
            (s_to[i] >= s AND conflicting_sends(s_id[s:s_to[i]], s_task[s:s_to[i]]))
            OR (r_to[i] >= r AND conflicting_records(r_flow[r:r_to[i]], r_seq[r:r_to[i]], r_value[r:r_to[i]]))
            OR (t_to[i] >= t AND absent_job(t_job[t:t_to[i]], s_id[s:s_to[i]]))
        ) THEN
            answers := answers || 'c';
            good := false;
        END IF;
        IF NOT good THEN
            s := s_to[i] + 1; e := e_to[i] + 1; r := r_to[i] + 1; x := x_to[i] + 1;
            IF t_to[i] >= t THEN
                t := t_to[i] + 1; topic_at := t_topics_to[t_to[i]] + 1;
            END IF;
            CONTINUE;
        END IF;
        -- Every check is done: from here on, all of it happens.
        answers := answers || 'a';
        IF c_id[i] IS NOT NULL AND c_kind[i] > 0 THEN
            PERFORM end_attempt(at, j, c_lease[i], c_kind[i], c_after[i], c_keep[i], c_last[i], in_ledger);
        END IF;
        WHILE r <= r_to[i] LOOP
            PERFORM make_scope(at, root_of(r_flow[r]), '~');
            INSERT INTO records VALUES (root_of(r_flow[r]), r_flow[r], r_seq[r], r_value[r]) ON CONFLICT DO NOTHING;
            r := r + 1;
        END LOOP;
        WHILE s <= s_to[i] LOOP
            IF NOT send(
                at, s_id[s], s_task[s], s_queue[s], s_priority[s], s_after[s], s_at[s], s_keep[s], s_topic[s], s_job[s], base + s, in_ledger
            ) THEN
                RAISE EXCEPTION 'another sent % meanwhile', s_id[s] USING ERRCODE = 'serialization_failure'; -- all of it again
            END IF;
            s := s + 1;
        END LOOP;
        WHILE e <= e_to[i] LOOP
            PERFORM emit(at, e_root[e], e_topic[e], e_key[e], e_value[e]);
            e := e + 1;
        END LOOP;
        WHILE t <= t_to[i] LOOP
            k := t_topics_to[t];
            PERFORM await(at, t_job[t], t_root[t], t_need[t], t_topic[topic_at:k], t_count[topic_at:k]);
            t := t + 1;
            topic_at := k + 1;
        END LOOP;
        WHILE x <= x_to[i] LOOP
            PERFORM cancel(at, x_id[x], in_ledger);
            x := x + 1;
        END LOOP;
    END LOOP;
    PERFORM ring_now(in_within);
    IF in_client <> '' AND answers <> repeat('a', size) THEN
        UPDATE clients SET refused = answers WHERE client = in_client;
    END IF;
    RETURN answers;
END $$;
