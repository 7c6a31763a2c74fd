-- What was detached stays so, and stays written down in detached_partitions.
DROP FUNCTION ledger_detach_month;
