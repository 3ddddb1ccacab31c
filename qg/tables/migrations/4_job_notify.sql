-- Tells one locker of each job that can start at once. Each worker of each locker that listens to the
-- queue is a slot, and the job's id says which slot's turn it is.
CREATE OR REPLACE FUNCTION que_job_notify() RETURNS trigger
LANGUAGE plpgsql
AS $function$
DECLARE
    locker  integer;
    message record;
BEGIN
    IF NEW.run_at > now() THEN
        RETURN NULL;
    END IF;

    -- By their hashes the lockers' slots are mixed, and in the same order for every job.
    SELECT pid INTO locker
    FROM (
        SELECT pid, row_number() OVER (ORDER BY md5(pid::text || worker::text)) - 1 AS slot, count(*) OVER () AS slots
        FROM {schema}.que_lockers, generate_series(1, worker_count) AS worker
        WHERE listening AND queues OPERATOR(pg_catalog.@>) ARRAY[NEW.queue]
    ) AS listening_workers
    WHERE slot = NEW.id % slots;

    IF FOUND THEN
        -- The key alone: a notification holds 8000 bytes, and the locker must read the row in any case.
        SELECT 'job_available' AS message_type, NEW.queue, NEW.priority, NEW.id,
               to_char(NEW.run_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS run_at
        INTO message;
        PERFORM pg_notify('que_listener_' || locker::text, row_to_json(message)::text);
    END IF;
    RETURN NULL;
END
$function$;
