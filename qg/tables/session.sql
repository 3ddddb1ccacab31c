-- What a session needs to delete and to take jobs in one message each. The functions live as long as
-- the session, in its own temporary schema, and are seen by nobody else. Their settings keep them on
-- the index, whatever the planner saw when a plan was made: with a plan from when the table was
-- empty, each lock would read the whole of it. Where an index can't be used for a while, as after a
-- migration beside an open transaction, plans look so dear that each job would be compiled first, which
-- takes longer than the job.
--
-- Words behind a colon stand for what the versions of the table differ in; statements.py fills them in.

-- Delete the jobs with these keys, or fail if one of them isn't there under its key any more, or if somebody else
-- keeps its row locked for a while. Then jobs are deleted one by one, and only that one waits.
--
-- It has the caller's search_path, unlike the others: triggers of the table run in here, and may need it.
-- So what it calls is named with its schema, or, as unnest of several arrays, part of the syntax.
CREATE OR REPLACE FUNCTION pg_temp.que_delete_jobs(
    of_queue text, priorities smallint[], run_ats timestamptz[], ids bigint[]
) RETURNS void
LANGUAGE plpgsql
SET lock_timeout = '100ms'
SET enable_seqscan = off
SET jit = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    gone integer;
BEGIN
    -- Each row is looked up by its key before any is deleted. Of a plain join, planned when the table
    -- was empty, the whole queue might become the outer side; OFFSET 0 rules that out.
    DELETE FROM :que_jobs
    WHERE ctid = ANY (ARRAY(
        SELECT found.place
        FROM unnest(priorities, run_ats, ids) AS key (priority, run_at, id),
             LATERAL (
                 SELECT ctid AS place FROM :selected
                 WHERE :workable
                   AND queue = of_queue AND priority = key.priority AND run_at = key.run_at AND :id = key.id
                 OFFSET 0
             ) AS found
    ));
    GET DIAGNOSTICS gone = ROW_COUNT;
    IF gone <> pg_catalog.cardinality(ids) THEN
        RAISE no_data_found USING MESSAGE = 'somebody changed a job while it was worked';
    END IF;
END
$$;

-- Let go of every lock that this session has, among them that of unlock_id unless that is null. Where `held`
-- isn't null, let go of unlock_ids alone, and lock none of `held`, since the session has these already. Then
-- lock up to `wanted` due jobs, of any type or of only_types, in the order of priority, run_at and
-- id. Returns a JSON array for each with the fields of the row, and a last one about the walk:
-- whether unlock_id was locked, whether another job may be due, in how many seconds the next one is,
-- how many entries and pages of the index were read, and the marks for the next walk.
--
-- A mark (priority, run_at, id) says that everything of its priority up to there, as far as it is of
-- these types, was gone or locked. The walk leaves that out. Marks are given in the order of their
-- priorities; with `learn` those for the next walk are returned.
--
-- The second look at each job is what makes the lock safe: its worker may have deleted it after
-- our first look and before we got the lock that it gave up. A statement in here sees whatever was
-- committed before it began, provided that the transaction reads committed data.
CREATE OR REPLACE FUNCTION pg_temp.que_take_jobs(
    unlock_id bigint, unlock_ids bigint[], held bigint[], of_queue text, wanted integer, only_types text[],
    mark_priorities integer[], mark_run_ats text[], mark_ids bigint[], learn boolean
) RETURNS SETOF text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET jit = off
SET enable_sort = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    key record;
    taken text;
    unlocked boolean;
    more boolean := false;
    began timestamptz := clock_timestamp();
    -- A transaction that enqueues commits a little after its now(), which its jobs have for run_at.
    -- Marks keep this far behind, or each such job would be found by a walk from the start only.
    horizon timestamptz := began - interval '250 milliseconds';
    next_due timestamptz;
    entries_before bigint := :entries;
    pages_before bigint := :pages;
    stretch integer := 1;  -- of the walk: up to the priority of the mark with this number
    future boolean;
    at_priority integer := -32769;
    at_run_at timestamptz := '-infinity';
    at_id bigint := 0;
    seen integer[] := '{}';
BEGIN
    IF current_setting('transaction_read_only') = 'on' THEN
        RAISE read_only_sql_transaction USING MESSAGE = 'this session can''t write, so no job is taken on it';
    END IF;
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE feature_not_supported USING MESSAGE = 'que_take_jobs needs a transaction that reads committed data';
    END IF;
    IF held IS NOT NULL THEN
        SELECT bool_and(pg_advisory_unlock(id)) INTO unlocked FROM unnest(unlock_ids) AS id;
    ELSE
        IF unlock_id IS NOT NULL THEN
            unlocked := pg_advisory_unlock(unlock_id);
        END IF;
        PERFORM pg_advisory_unlock_all();
    END IF;

    <<walk>>
    LOOP
        future := false;
        FOR key IN
            SELECT priority, run_at, :id AS id FROM :selected
            WHERE :workable AND queue = of_queue
              AND (priority, run_at, :id) > (at_priority, at_run_at, at_id)
              AND priority < coalesce(mark_priorities[stretch], 32768)
            ORDER BY priority, run_at, :id
        LOOP
            -- A lock that the session has it would get once more.
            CONTINUE WHEN key.id = ANY (held);
            IF key.run_at > began THEN
                future := true;
                EXIT;
            ELSIF wanted = 0 THEN
                more := true;
                EXIT walk;
            ELSIF learn AND key.priority IS DISTINCT FROM seen[cardinality(seen)] THEN
                seen := seen || key.priority::integer;
            END IF;
            IF only_types IS NOT NULL THEN  -- by itself, since a condition with a query in it is dear
                CONTINUE WHEN NOT EXISTS (
                    SELECT FROM :selected
                    WHERE :workable AND job_class = ANY (only_types)
                      AND queue = of_queue AND priority = key.priority AND run_at = key.run_at AND :id = key.id
                );
            END IF;
            CONTINUE WHEN NOT pg_try_advisory_lock(key.id);

            SELECT :row
            INTO taken
            FROM :selected
            WHERE :workable
              AND queue = of_queue AND priority = key.priority AND run_at = key.run_at AND :id = key.id;
            IF FOUND THEN
                RETURN NEXT taken;
                wanted := wanted - 1;
            ELSE
                PERFORM pg_advisory_unlock(key.id);
            END IF;
        END LOOP;

        IF future THEN
            -- Nothing after it in this priority is due, and there may be a million of them.
            next_due := least(next_due, key.run_at);
            at_priority := key.priority;
            at_run_at := 'infinity';
            at_id := 9223372036854775807;
        ELSIF wanted = 0 OR mark_priorities[stretch] IS NULL THEN
            more := mark_priorities[stretch] IS NOT NULL;  -- perhaps; the rest wasn't looked at
            EXIT walk;
        ELSE
            at_priority := mark_priorities[stretch];
            at_run_at := mark_run_ats[stretch]::timestamptz;
            at_id := mark_ids[stretch];
            seen := seen || at_priority;
            stretch := stretch + 1;
        END IF;
    END LOOP walk;

    IF learn THEN
        -- Where the walk came through, everything was gone or locked; where it ended, up to the last job.
        mark_priorities := seen || mark_priorities[stretch:];
        mark_run_ats := array_fill(to_json(horizon) #>> '{}', ARRAY[cardinality(seen)]) || mark_run_ats[stretch:];
        mark_ids := array_fill(0::bigint, ARRAY[cardinality(seen)]) || mark_ids[stretch:];
        IF wanted = 0 AND (taken::json ->> 3)::timestamptz < horizon THEN
            mark_run_ats[cardinality(seen)] := taken::json ->> 3;
            mark_ids[cardinality(seen)] := taken::json ->> 0;
        END IF;
    END IF;
    RETURN NEXT json_build_array(
        unlocked, more, CASE WHEN isfinite(next_due) THEN extract(epoch FROM next_due - began) END,
        :entries - entries_before,
        :pages - pages_before,
        mark_priorities, mark_run_ats, mark_ids
    );
END
$$;
