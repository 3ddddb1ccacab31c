-- Ruby Que 2.0: keyword arguments of their own.
ALTER TABLE que_jobs ADD COLUMN kwargs jsonb NOT NULL DEFAULT '{}';
CREATE INDEX que_jobs_kwargs_gin_idx ON que_jobs USING gin (kwargs jsonb_path_ops);

DROP INDEX que_poll_idx;
ALTER INDEX que_poll_idx_with_job_schema_version RENAME TO que_poll_idx;

-- What could be worked must be workable still: on version 5 that is 1, from here on 2. What has null
-- there is never worked, and is not to begin with it now.
UPDATE que_jobs
SET job_schema_version = CASE job_schema_version WHEN 1 THEN 2 ELSE 1 END
WHERE job_schema_version = 1 OR job_schema_version IS NULL;
ALTER TABLE que_jobs
    ALTER COLUMN job_schema_version DROP DEFAULT,
    ALTER COLUMN job_schema_version SET NOT NULL;
