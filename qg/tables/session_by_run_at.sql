-- Do what que_take_jobs does, with the same parameters and results, in the order of run_at, priority
-- and id. The last array tells two things more: how many heads there were, and how often the walk
-- went down the index from its root to get to an entry.
--
-- There is no index in this order. But within one priority the one there is is in it, so this merges
-- the priorities: it knows the first entry of each that it hasn't looked at, the head, and always
-- takes the earliest of them. A head costs one descent of the index, to where the priority begins or
-- its mark is, and each job looked at costs one more, to the head that follows. The priorities
-- between two marks cost another one to find out that there is none.
--
-- Marks are those of que_take_jobs: within one priority both orders are the same.
CREATE OR REPLACE FUNCTION pg_temp.que_take_jobs_by_run_at(
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
    following record;
    taken text;
    unlocked boolean;
    more boolean := false;
    began timestamptz := clock_timestamp();
    horizon timestamptz := began - interval '250 milliseconds';
    next_due timestamptz;
    entries_before bigint := :entries;
    pages_before bigint := :pages;
    jumps integer := 0;
    at_priority integer := -32769;
    stretch integer := 1;  -- of the priorities: up to that of the mark with this number
    -- The heads, in the order of their priorities. Where nothing follows, the head is at infinity.
    priorities integer[] := '{}';
    run_ats timestamptz[] := '{}';
    ids bigint[] := '{}';
    earliest integer;
    is_wanted boolean;
BEGIN
    IF current_setting('transaction_read_only') = 'on' THEN
        RAISE read_only_sql_transaction USING MESSAGE = 'this session can''t write, so no job is taken on it';
    END IF;
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE feature_not_supported
        USING MESSAGE = 'que_take_jobs_by_run_at needs a transaction that reads committed data';
    END IF;
    IF held IS NOT NULL THEN
        SELECT bool_and(pg_advisory_unlock(id)) INTO unlocked FROM unnest(unlock_ids) AS id;
    ELSE
        IF unlock_id IS NOT NULL THEN
            unlocked := pg_advisory_unlock(unlock_id);
        END IF;
        PERFORM pg_advisory_unlock_all();
    END IF;

    LOOP
        jumps := jumps + 1;
        SELECT priority, run_at, :id AS id INTO following FROM :selected
        WHERE :workable AND queue = of_queue
          AND priority > at_priority AND priority < coalesce(mark_priorities[stretch], 32768)
        ORDER BY priority, run_at, :id
        LIMIT 1;
        IF FOUND THEN
            at_priority := following.priority;
        ELSE
            at_priority := mark_priorities[stretch];
            EXIT WHEN at_priority IS NULL;
            jumps := jumps + 1;
            SELECT run_at, :id AS id INTO following FROM :selected
            WHERE :workable AND queue = of_queue AND priority = at_priority
              AND (run_at, :id) > (mark_run_ats[stretch]::timestamptz, mark_ids[stretch])
            ORDER BY priority, run_at, :id
            LIMIT 1;
            stretch := stretch + 1;
        END IF;
        priorities := priorities || at_priority;
        run_ats := run_ats || coalesce(following.run_at, 'infinity');
        ids := ids || following.id;
    END LOOP;

    LOOP
        earliest := NULL;
        FOR place IN 1 .. cardinality(priorities) LOOP
            IF run_ats[place] > began THEN
                next_due := least(next_due, run_ats[place]);
            ELSIF earliest IS NULL OR run_ats[place] < run_ats[earliest] THEN
                earliest := place;
            END IF;
        END LOOP;
        EXIT WHEN earliest IS NULL;
        is_wanted := coalesce(ids[earliest] <> ALL (held), true);
        IF wanted = 0 AND is_wanted THEN
            more := true;
            EXIT;
        END IF;

        IF is_wanted AND only_types IS NOT NULL THEN
            is_wanted := EXISTS (
                SELECT FROM :selected
                WHERE :workable AND job_class = ANY (only_types)
                  AND queue = of_queue AND priority = priorities[earliest]
                  AND run_at = run_ats[earliest] AND :id = ids[earliest]
            );
        END IF;
        IF is_wanted AND pg_try_advisory_lock(ids[earliest]) THEN
            SELECT :row
            INTO taken
            FROM :selected
            WHERE :workable AND queue = of_queue AND priority = priorities[earliest]
              AND run_at = run_ats[earliest] AND :id = ids[earliest];
            IF FOUND THEN
                RETURN NEXT taken;
                wanted := wanted - 1;
            ELSE
                PERFORM pg_advisory_unlock(ids[earliest]);
            END IF;
        END IF;

        jumps := jumps + 1;
        SELECT run_at, :id AS id INTO following FROM :selected
        WHERE :workable AND queue = of_queue AND priority = priorities[earliest]
          AND (run_at, :id) > (run_ats[earliest], ids[earliest])
        ORDER BY priority, run_at, :id
        LIMIT 1;
        run_ats[earliest] := coalesce(following.run_at, 'infinity');
        ids[earliest] := following.id;
    END LOOP;

    IF learn THEN
        -- Before its head everything of a priority was gone or locked.
        mark_priorities := priorities;
        mark_run_ats := ARRAY(
            SELECT to_json(least(head.run_at, horizon)) #>> '{}' FROM unnest(run_ats) AS head (run_at)
        );
        mark_ids := ARRAY(
            SELECT CASE WHEN head.run_at < horizon THEN head.id - 1 ELSE 0 END
            FROM unnest(run_ats, ids) AS head (run_at, id)
        );
    END IF;
    RETURN NEXT json_build_array(
        unlocked, more, CASE WHEN isfinite(next_due) THEN extract(epoch FROM next_due - began) END,
        :entries - entries_before,
        :pages - pages_before,
        mark_priorities, mark_run_ats, mark_ids,
        cardinality(priorities), jumps
    );
END
$$;
