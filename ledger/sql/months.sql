-- What ledger/months.py asks of the database.

-- name: detach_month
SELECT ledger_detach_month(%(month)s::date);
