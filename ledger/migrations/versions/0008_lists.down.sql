ALTER FUNCTION ledger_make_partitions(int) RESET lock_timeout;
DROP TRIGGER detached_append_only ON detached_partitions;
DROP TRIGGER unfinished_append_only ON journals_unfinished;
