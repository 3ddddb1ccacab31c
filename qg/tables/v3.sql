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

-- And qg's own table, of the queues that somebody has paused: a row is one of them. Ruby and Go know nothing of it.
-- Creates it beside a que_jobs of any version that has queues, for the owner of that, who may be another role than
-- this one. A role that can't do that creates nothing; drops and changes nothing.

DO $$
DECLARE
    owner regrole;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('que_jobs'), hashtext('migrate'));

    SELECT relowner INTO owner
    FROM pg_namespace AS place
    JOIN pg_class AS jobs ON relnamespace = place.oid AND relname = 'que_jobs'
    JOIN pg_attribute ON attrelid = jobs.oid AND attname = 'queue' AND NOT attisdropped
    WHERE nspname = pg_catalog.current_schema()
      AND pg_has_role(relowner, 'USAGE') AND has_schema_privilege(place.oid, 'CREATE');

    IF owner IS NULL
        OR current_setting('transaction_read_only')::boolean
        OR to_regclass(pg_catalog.quote_ident(pg_catalog.current_schema()) || '.qg_queues') IS NOT NULL
    THEN
        RETURN;
    END IF;

    CREATE TABLE qg_queues (
        queue        text        NOT NULL,
        paused_at    timestamptz NOT NULL DEFAULT now(),
        paused_until timestamptz,
        reason       text        NOT NULL DEFAULT '',
        paused_by    text        NOT NULL DEFAULT '',

        CONSTRAINT qg_queues_pkey PRIMARY KEY (queue)
    );
    -- Or the owner of que_jobs couldn't migrate both later.
    EXECUTE 'ALTER TABLE qg_queues OWNER TO ' || owner;
EXCEPTION
    WHEN insufficient_privilege THEN
        NULL;
END
$$;
