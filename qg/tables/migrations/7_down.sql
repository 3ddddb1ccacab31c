DROP TRIGGER que_job_notify ON que_jobs;
CREATE TRIGGER que_job_notify AFTER INSERT ON que_jobs
    FOR EACH ROW EXECUTE FUNCTION que_job_notify();

-- Ruby's script leaves this one as it is on version 7.
DROP TRIGGER que_state_notify ON que_jobs;
CREATE TRIGGER que_state_notify AFTER INSERT OR UPDATE OR DELETE ON que_jobs
    FOR EACH ROW EXECUTE FUNCTION que_state_notify();
