-- From here on a job can be more urgent than usual.
ALTER TABLE que_jobs ALTER COLUMN priority SET DEFAULT 100;
