-- Runs in a transaction that is rolled back, and takes this function with it.
CREATE FUNCTION qg_obstacle(job que_jobs) RETURNS text
LANGUAGE plpgsql
AS $function$
DECLARE
    converted jsonb;
BEGIN
    BEGIN
        converted := job.args;
    EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
        RETURN 'args that jsonb refuses (\u0000, half a surrogate pair, a number or a text beyond its limits)';
    END;
    IF char_length(job.queue) > 100 THEN
        RETURN 'a queue of more than 100 characters';
    END IF;
    IF job.job_class = 'ActiveJob::QueueAdapters::QueAdapter::JobWrapper' THEN
        job.job_class := CASE jsonb_typeof(converted) WHEN 'array' THEN converted -> 0 ELSE converted END ->> 'job_class';
    END IF;
    IF char_length(job.job_class) > 200 THEN
        RETURN 'a job_class of more than 200 characters';
    END IF;
    RETURN NULL;
END
$function$;

SELECT obstacle, count(*), (array_agg(job_id ORDER BY job_id))[1:10]
FROM (
    SELECT job_id, coalesce(
        qg_obstacle(job),
        CASE WHEN count(*) OVER (PARTITION BY job_id) > 1 THEN 'a job_id that another one has too' END) AS obstacle
    FROM que_jobs AS job
) AS jobs
WHERE obstacle IS NOT NULL
GROUP BY obstacle
ORDER BY obstacle;
