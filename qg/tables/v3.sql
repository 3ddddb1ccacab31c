-- Que's job table, version 3: what Ruby Que 0.5 to 0.14, que-go and qg work on.
-- Creates it in the current schema unless a que_jobs is there already; drops and changes nothing.

DO $$
BEGIN
    -- Two sessions at once would both see no table; the second one waits here.
    -- (Two-integer keys are a space of their own, so no job's lock is in the way.)
    PERFORM pg_advisory_xact_lock(hashtext('que_jobs'), hashtext('migrate'));

    IF to_regclass(pg_catalog.quote_ident(pg_catalog.current_schema()) || '.que_jobs') IS NOT NULL THEN
        RETURN;
    END IF;

    CREATE TABLE que_jobs (
        priority    smallint    NOT NULL DEFAULT 100,
        run_at      timestamptz NOT NULL DEFAULT now(),
        job_id      bigserial   NOT NULL,
        job_class   text        NOT NULL,
        args        json        NOT NULL DEFAULT '[]',
        error_count integer     NOT NULL DEFAULT 0,
        last_error  text,
        queue       text        NOT NULL DEFAULT '',

        CONSTRAINT que_jobs_pkey PRIMARY KEY (queue, priority, run_at, job_id)
    );

    -- Every Que client reads the table's version from here.
    COMMENT ON TABLE que_jobs IS '3';
END
$$;
