-- Ruby Que 1.0: args that can be searched, jobs that are kept when they are done, and notifications.

-- This table notifies by itself.
DROP TRIGGER IF EXISTS qg_notify ON que_jobs;
DROP FUNCTION IF EXISTS qg_notify();

ALTER TABLE que_jobs RENAME COLUMN job_id TO id;
ALTER TABLE que_jobs RENAME COLUMN last_error TO last_error_message;
ALTER TABLE que_jobs RENAME COLUMN args TO old_args;
ALTER SEQUENCE que_jobs_job_id_seq RENAME TO que_jobs_id_seq;

ALTER TABLE que_jobs
    SET (fillfactor = 90),
    DROP CONSTRAINT que_jobs_pkey,
    ADD COLUMN last_error_backtrace text,
    ADD COLUMN finished_at          timestamptz,
    ADD COLUMN expired_at           timestamptz,
    ADD COLUMN args                 jsonb,
    ADD COLUMN data                 jsonb NOT NULL DEFAULT '{}';

-- An error is its first line, and the backtrace what comes after. One that begins with an empty line has
-- no message, and is a backtrace from that line on.
UPDATE que_jobs SET
    queue = CASE queue WHEN '' THEN 'default' ELSE queue END,
    args = CASE json_typeof(old_args) WHEN 'array' THEN old_args::jsonb ELSE jsonb_build_array(old_args) END,
    last_error_message = left(nullif(split_part(last_error_message, E'\n', 1), ''), 500),
    last_error_backtrace = left(
        coalesce(substring(last_error_message FROM E'^[^\n]+\n(.*)'), substring(last_error_message FROM E'^\n.*')),
        10000);

-- The longest tag has 98 characters, since its quotes count.
CREATE FUNCTION que_validate_tags(tags_array jsonb) RETURNS boolean
LANGUAGE sql
AS $function$
    SELECT bool_and(jsonb_typeof(tag) = 'string' AND char_length(tag::text) <= 100)
    FROM jsonb_array_elements(tags_array) AS tag
$function$;

ALTER TABLE que_jobs
    DROP COLUMN old_args,
    ALTER COLUMN args SET NOT NULL,
    ALTER COLUMN args SET DEFAULT '[]',
    ALTER COLUMN queue SET DEFAULT 'default',
    ADD CONSTRAINT que_jobs_pkey PRIMARY KEY (id),
    ADD CONSTRAINT queue_length CHECK (char_length(queue) <= 100),
    ADD CONSTRAINT job_class_length CHECK (char_length(
        CASE job_class
            WHEN 'ActiveJob::QueueAdapters::QueAdapter::JobWrapper' THEN args -> 0 ->> 'job_class'
            ELSE job_class
        END) <= 200),
    ADD CONSTRAINT valid_args CHECK (jsonb_typeof(args) = 'array'),
    ADD CONSTRAINT valid_data CHECK (
        jsonb_typeof(data) = 'object'
        AND (
            NOT data ? 'tags'
            OR (jsonb_typeof(data -> 'tags') = 'array'
                AND jsonb_array_length(data -> 'tags') <= 5
                AND que_validate_tags(data -> 'tags'))
        )),
    ADD CONSTRAINT error_length CHECK (
        char_length(last_error_message) <= 500 AND char_length(last_error_backtrace) <= 10000);

CREATE INDEX que_poll_idx ON que_jobs (queue, priority, run_at, id) WHERE finished_at IS NULL AND expired_at IS NULL;
CREATE INDEX que_jobs_args_gin_idx ON que_jobs USING gin (args jsonb_path_ops);
CREATE INDEX que_jobs_data_gin_idx ON que_jobs USING gin (data jsonb_path_ops);

-- Who works: a row for each process's session that listens for jobs. Nobody needs them after a crash.
CREATE UNLOGGED TABLE que_lockers (
    pid               integer   NOT NULL,
    worker_count      integer   NOT NULL,
    worker_priorities integer[] NOT NULL,
    ruby_pid          integer   NOT NULL,
    ruby_hostname     text      NOT NULL,
    queues            text[]    NOT NULL,
    listening         boolean   NOT NULL,

    CONSTRAINT que_lockers_pkey PRIMARY KEY (pid),
    -- Of an empty array the length is null.
    CONSTRAINT valid_worker_priorities CHECK (
        array_ndims(worker_priorities) = 1 AND array_length(worker_priorities, 1) IS NOT NULL),
    CONSTRAINT valid_queues CHECK (array_ndims(queues) = 1 AND array_length(queues, 1) IS NOT NULL)
);

-- Que's, for what it may want to keep one day.
CREATE TABLE que_values (
    key   text  NOT NULL,
    value jsonb NOT NULL DEFAULT '{}',

    CONSTRAINT que_values_pkey PRIMARY KEY (key),
    CONSTRAINT valid_value CHECK (jsonb_typeof(value) = 'object')
) WITH (fillfactor = 90);

CREATE TRIGGER que_job_notify AFTER INSERT ON que_jobs
    FOR EACH ROW EXECUTE FUNCTION que_job_notify();

CREATE FUNCTION que_determine_job_state(job que_jobs) RETURNS text
LANGUAGE sql
AS $function$
    SELECT CASE
        WHEN job.expired_at IS NOT NULL THEN 'expired'
        WHEN job.finished_at IS NOT NULL THEN 'finished'
        WHEN job.error_count > 0 THEN 'errored'
        WHEN job.run_at > now() THEN 'scheduled'
        ELSE 'ready'
    END
$function$;

-- Tells whoever watches the queue of each job that comes, goes, or is in another state than before.
CREATE FUNCTION que_state_notify() RETURNS trigger
LANGUAGE plpgsql
AS $function$
DECLARE
    job            record;
    message        record;
    previous_state text := 'nonexistent';
    current_state  text := 'nonexistent';
BEGIN
    IF TG_OP <> 'INSERT' THEN
        job := OLD;
        previous_state := {schema}.que_determine_job_state(OLD);
    END IF;
    IF TG_OP <> 'DELETE' THEN
        job := NEW;
        current_state := {schema}.que_determine_job_state(NEW);
    END IF;
    IF previous_state = current_state THEN
        RETURN NULL;
    END IF;

    -- ActiveJob's own class is in the args.
    SELECT 'job_change' AS message_type, job.id, job.queue,
           coalesce(job.data -> 'tags'::text, '[]') AS tags,
           to_char(job.run_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS run_at,
           to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS time,
           coalesce(
               CASE job.job_class WHEN 'ActiveJob::QueueAdapters::QueAdapter::JobWrapper'
                   THEN job.args -> 0 ->> 'job_class'::text END,
               job.job_class) AS job_class,
           previous_state, current_state
    INTO message;
    PERFORM pg_notify('que_state', row_to_json(message)::text);
    RETURN NULL;
END
$function$;

CREATE TRIGGER que_state_notify AFTER INSERT OR UPDATE OR DELETE ON que_jobs
    FOR EACH ROW EXECUTE FUNCTION que_state_notify();

-- What is paused keeps its pause. The table of pauses is qg's alone, and may be missing.
DO $function$
BEGIN
    IF to_regclass('qg_queues') IS NOT NULL THEN
        UPDATE qg_queues SET queue = 'default'
        WHERE queue = '' AND NOT EXISTS (SELECT FROM qg_queues WHERE queue = 'default');
        DELETE FROM qg_queues WHERE queue = '';
    END IF;
END
$function$;
