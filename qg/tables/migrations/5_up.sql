-- Ruby Que 1.3: a job says which Que can work it, so that two of them may share the table.
ALTER TABLE que_jobs ADD COLUMN job_schema_version integer DEFAULT 1;
ALTER TABLE que_lockers ADD COLUMN job_schema_version integer DEFAULT 1;

CREATE INDEX que_poll_idx_with_job_schema_version ON que_jobs (job_schema_version, queue, priority, run_at, id)
    WHERE finished_at IS NULL AND expired_at IS NULL;
