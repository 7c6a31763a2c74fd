-- What ledger/export.py writes, read on one snapshot. Openings are what accounts brought from months that were detached: nothing, while none are.

-- name: csv
-- Every entry with its journal and account, in order.
COPY (
    SELECT ledger_public_id(j.id) AS journal_id, to_char(j.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS created_at,
           j.type, j.idempotency_key, j.details, e.account_id, a.owner_id, a.kind, a.type AS account_type, a.unit, e.amount, e.balance_after, e.version
    FROM entries e JOIN journals j ON j.id = e.journal_id JOIN accounts a ON a.id = e.account_id
    ORDER BY e.journal_id, e.account_id
) TO STDOUT WITH (FORMAT csv, HEADER, ENCODING 'UTF8');

-- name: accounts
SELECT id, owner_id, kind, type::text, unit::text, balance * ledger_normal_side(type) AS debit_balance FROM accounts ORDER BY id;

-- name: openings
SELECT a.id AS account_id, a.kind, a.type::text AS type, a.unit::text AS unit, a.balance * ledger_normal_side(a.type) - coalesce(e.total, 0)::bigint AS amount
FROM accounts a LEFT JOIN (SELECT account_id, sum(amount) AS total FROM entries GROUP BY account_id) e ON e.account_id = a.id
WHERE EXISTS (SELECT FROM detached_partitions) AND a.balance * ledger_normal_side(a.type) <> coalesce(e.total, 0)
ORDER BY a.id;

-- name: entries
SELECT ledger_public_id(j.id)::text AS journal_id, to_char(j.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD') AS date, j.type::text AS journal_type,
       j.idempotency_key, j.details::text AS details, e.account_id, a.owner_id, a.kind, a.type::text AS type, a.unit::text AS unit, e.amount,
       e.balance_after * ledger_normal_side(a.type) AS debit_balance_after
FROM entries e JOIN journals j ON j.id = e.journal_id JOIN accounts a ON a.id = e.account_id
ORDER BY e.journal_id, e.account_id;

-- name: last_day
-- The newest journal's day.
SELECT ledger_time(max(id)) AT TIME ZONE 'UTC' FROM journals;
