-- The jobs of all queues come into one. qg's own trigger reads the queue.
DROP TRIGGER IF EXISTS qg_notify ON que_jobs;
DROP FUNCTION IF EXISTS qg_notify();
-- No queue is paused where there is only one.
DROP TABLE IF EXISTS qg_queues;

ALTER TABLE que_jobs
    DROP CONSTRAINT que_jobs_pkey,
    DROP COLUMN queue,
    ALTER COLUMN priority TYPE integer,
    ADD CONSTRAINT que_jobs_pkey PRIMARY KEY (priority, run_at, job_id);
