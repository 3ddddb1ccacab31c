-- Tells listening workers of jobs as soon as their transaction commits, whoever enqueued them.
-- Once a statement and queue: how many of its jobs are due, and the queue's name.

CREATE OR REPLACE FUNCTION qg_notify() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp  -- whoever enqueues runs this, and others may have a better format()
AS $$
BEGIN
    PERFORM pg_notify('qg_jobs', format('%s %s', count(*) FILTER (WHERE run_at <= now()), queue))
    FROM inserted
    WHERE octet_length(queue) < 7900  -- a longer name fits in no notification
    GROUP BY queue;
    RETURN NULL;
END
$$;

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = 'que_jobs'::regclass::oid AND tgname = 'qg_notify') THEN
        CREATE TRIGGER qg_notify AFTER INSERT ON que_jobs
            REFERENCING NEW TABLE AS inserted
            FOR EACH STATEMENT EXECUTE FUNCTION qg_notify();
    END IF;
END
$$;
