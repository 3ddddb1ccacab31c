-- What could be worked must be workable still: on version 5 that is 1. There a job's keyword arguments
-- are the last of its args.
UPDATE que_jobs SET
    job_schema_version = CASE job_schema_version WHEN 2 THEN 1 ELSE job_schema_version END,
    args = CASE kwargs WHEN '{}' THEN args ELSE args || jsonb_build_array(kwargs) END
WHERE job_schema_version = 2 OR kwargs <> '{}';
ALTER TABLE que_jobs
    DROP COLUMN kwargs,
    ALTER COLUMN job_schema_version SET DEFAULT 1,
    ALTER COLUMN job_schema_version DROP NOT NULL;

ALTER INDEX que_poll_idx RENAME TO que_poll_idx_with_job_schema_version;
CREATE INDEX que_poll_idx ON que_jobs (queue, priority, run_at, id) WHERE finished_at IS NULL AND expired_at IS NULL;
