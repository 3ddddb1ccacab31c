SELECT 'a priority that smallint can''t hold', count(*), (array_agg(job_id ORDER BY job_id))[1:10]
FROM que_jobs
WHERE priority NOT BETWEEN -32768 AND 32767
HAVING count(*) > 0;
