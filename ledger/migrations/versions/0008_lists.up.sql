-- A journal written by hand is on the list of unfinished ones under its own number until it is finished: were another's number
-- put there, that one would be taken for listed, and nobody would ask at commit whether it balances.
CREATE TRIGGER unfinished_append_only BEFORE UPDATE OR TRUNCATE ON journals_unfinished FOR EACH STATEMENT EXECUTE FUNCTION ledger_append_only();

-- What is said to be detached is excused from much of the proof.
CREATE TRIGGER detached_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON detached_partitions FOR EACH STATEMENT EXECUTE FUNCTION ledger_append_only();

-- Beside a long export or dump it gives up before those who post behind it do; the job comes again every hour.
ALTER FUNCTION ledger_make_partitions(int) SET lock_timeout = '400ms';
