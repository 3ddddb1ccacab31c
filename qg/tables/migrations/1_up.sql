-- Ruby Que before 0.5: one queue, and the most urgent priority is the usual one.
CREATE TABLE que_jobs (
    priority    integer     NOT NULL DEFAULT 1,
    run_at      timestamptz NOT NULL DEFAULT now(),
    job_id      bigserial   NOT NULL,
    job_class   text        NOT NULL,
    args        json        NOT NULL DEFAULT '[]',
    error_count integer     NOT NULL DEFAULT 0,
    last_error  text,

    CONSTRAINT que_jobs_pkey PRIMARY KEY (priority, run_at, job_id)
);
