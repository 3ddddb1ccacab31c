-- The triggers first: nobody is to hear of what follows.
DROP TRIGGER que_job_notify ON que_jobs;
DROP TRIGGER que_state_notify ON que_jobs;
DROP FUNCTION que_job_notify();
DROP FUNCTION que_state_notify();
DROP FUNCTION que_determine_job_state(que_jobs);
DROP TABLE que_lockers;
DROP TABLE que_values;

DROP INDEX que_poll_idx;
DROP INDEX que_jobs_args_gin_idx;
DROP INDEX que_jobs_data_gin_idx;
ALTER TABLE que_jobs
    RESET (fillfactor),
    DROP CONSTRAINT que_jobs_pkey,
    DROP CONSTRAINT queue_length,
    DROP CONSTRAINT job_class_length,
    DROP CONSTRAINT valid_args,
    DROP CONSTRAINT valid_data,
    DROP CONSTRAINT error_length;
DROP FUNCTION que_validate_tags(jsonb);

-- Version 3 knows no state but waiting: it would run finished jobs again. Expired ones wait a hundred
-- years, as qg's do on a table of version 3.
DELETE FROM que_jobs WHERE finished_at IS NOT NULL;
UPDATE que_jobs SET
    run_at = CASE WHEN expired_at IS NULL THEN run_at ELSE now() + interval '3153600000 seconds' END,
    queue = CASE queue WHEN 'default' THEN '' ELSE queue END,
    last_error_message = coalesce(
        last_error_message || E'\n' || last_error_backtrace,
        last_error_message,
        E'\n' || last_error_backtrace);

ALTER TABLE que_jobs RENAME COLUMN id TO job_id;
ALTER TABLE que_jobs RENAME COLUMN last_error_message TO last_error;
ALTER SEQUENCE que_jobs_id_seq RENAME TO que_jobs_job_id_seq;
ALTER TABLE que_jobs
    DROP COLUMN last_error_backtrace,
    DROP COLUMN finished_at,
    DROP COLUMN expired_at,
    DROP COLUMN data,
    ALTER COLUMN args TYPE json,
    ALTER COLUMN args SET DEFAULT '[]',
    ALTER COLUMN queue SET DEFAULT '',
    ADD CONSTRAINT que_jobs_pkey PRIMARY KEY (queue, priority, run_at, job_id);

-- What is paused keeps its pause. The table of pauses is qg's alone, and may be missing.
DO $function$
BEGIN
    IF to_regclass('qg_queues') IS NOT NULL THEN
        UPDATE qg_queues SET queue = ''
        WHERE queue = 'default' AND NOT EXISTS (SELECT FROM qg_queues WHERE queue = '');
        DELETE FROM qg_queues WHERE queue = 'default';
    END IF;
END
$function$;
