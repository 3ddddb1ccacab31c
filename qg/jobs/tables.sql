-- The tables of qg.jobs. Creates those that aren't there in the current schema; drops and changes nothing.

DO $$
BEGIN
    -- Two sessions at once would both see no table; the second one waits here.
    PERFORM pg_advisory_xact_lock(hashtext('qg_jobs'), hashtext('migrate'));

    IF to_regclass(pg_catalog.quote_ident(pg_catalog.current_schema()) || '.qg_jobs_history') IS NOT NULL THEN
        RETURN;
    END IF;

    -- A row is one attempt to work a job; args is null once its payload was pruned.
    CREATE TABLE qg_jobs_history (
        id          bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        job_id      bigint      NOT NULL,
        job_type    text        NOT NULL,
        queue       text        NOT NULL,
        priority    smallint    NOT NULL,
        run_at      timestamptz NOT NULL,
        args        json,
        run_count   integer     NOT NULL,
        run_error   text,
        success     boolean     NOT NULL,
        started_at  timestamptz NOT NULL,
        finished_at timestamptz NOT NULL,
        pruned_at   timestamptz
    );
    CREATE INDEX qg_jobs_history_job_id ON qg_jobs_history (job_id);
    -- Rows come in the order of this column, so a few pages tell which are old.
    CREATE INDEX qg_jobs_history_finished_at ON qg_jobs_history USING brin (finished_at);

    -- A row is a pool of workers, alive if updated_at is of the last minute.
    CREATE TABLE qg_jobs_worker_pool (
        id         text        PRIMARY KEY,
        queue      text        NOT NULL,
        workers    integer     NOT NULL,
        git_hash   text        NOT NULL,
        job_types  text[]      NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        updated_at timestamptz NOT NULL DEFAULT now()
    );

    -- A row is a schedule that some process has declared; args is the payload's JSON.
    CREATE TABLE qg_jobs_schedule (
        id           bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        queue        text        NOT NULL,
        spec         text        NOT NULL,
        job_type     text        NOT NULL,
        args         json        NOT NULL,
        last_tick_at timestamptz,
        next_tick_at timestamptz NOT NULL,
        created_at   timestamptz NOT NULL DEFAULT now(),
        updated_at   timestamptz NOT NULL DEFAULT now()
    );
    -- An index entry has room for 2,700 bytes; a payload may be longer.
    CREATE UNIQUE INDEX qg_jobs_schedule_key ON qg_jobs_schedule (queue, spec, job_type, md5(args::text));

    -- A row is a tick that fired, and so never will again.
    CREATE TABLE qg_jobs_tick (
        schedule bigint      NOT NULL REFERENCES qg_jobs_schedule ON DELETE CASCADE,
        tick_at  timestamptz NOT NULL,
        job_id   bigint,
        PRIMARY KEY (schedule, tick_at)
    );
END
$$;
