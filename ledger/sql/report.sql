-- What ledger/report.py reads.

-- name: trial_balance
-- Every kind of account: how many, and the sums of their balances in the debit and the credit column.
SELECT kind, type::text, unit::text, count(*) AS accounts,
       greatest(sum(balance * ledger_normal_side(type)), 0)::bigint AS debit,
       greatest(-sum(balance * ledger_normal_side(type)), 0)::bigint AS credit
FROM accounts GROUP BY unit, type, kind ORDER BY unit, type, kind;
