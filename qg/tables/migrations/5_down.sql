DROP INDEX que_poll_idx_with_job_schema_version;
ALTER TABLE que_jobs DROP COLUMN job_schema_version;
ALTER TABLE que_lockers DROP COLUMN job_schema_version;
