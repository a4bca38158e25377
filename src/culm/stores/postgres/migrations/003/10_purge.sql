-- Version 3: a purge cancels in the order of the sends, as every other store: the last of a tree to end says how long its events stay.

-- Cancel up to in_limit jobs of a queue that nobody has; some at a time by id, so that no purge sorts a whole queue. -> how many
CREATE OR REPLACE FUNCTION {schema}.purge(in_now bigint, in_queue text, in_limit int, in_ledger boolean) RETURNS int LANGUAGE plpgsql
SET search_path = {schema}, pg_temp AS $$
DECLARE
    at bigint := coalesce(in_now, ms());
    j jobs;
    purged int := 0;
    chunk text[] := ARRAY(
        SELECT k.id FROM jobs k LEFT JOIN ready r ON r.queue = k.queue AND r.priority = k.priority AND r.due = k.due AND r.n = k.n
        WHERE k.queue = in_queue AND (k.due IS NULL OR r.n IS NOT NULL) ORDER BY k.id LIMIT in_limit
    );
BEGIN
    PERFORM 1 FROM jobs k WHERE k.id = ANY (chunk) ORDER BY k.id FOR UPDATE; -- as every batch locks: by id
    FOR j IN SELECT * FROM jobs k WHERE k.id = ANY (chunk) ORDER BY k.n LOOP
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
