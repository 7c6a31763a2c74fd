-- What an operator looks at: questions about the whole system, each cheap enough to be asked every two seconds.

-- name: live_calls
-- How many calls ring and how many are active, from the two partial indexes.
SELECT (SELECT count(*) FROM calls WHERE status = 'ringing') AS ringing,
       (SELECT count(*) FROM calls WHERE status = 'active') AS active;

-- name: due_lag_s
-- How long the period that has been due longest has been waiting for a meter, in seconds; 0 if none is due.
SELECT coalesce(EXTRACT(EPOCH FROM meter_now() - min(paid_through)), 0)::float8
FROM calls WHERE status = 'active' AND paid_through <= (SELECT meter_now());

-- name: recent_debits
-- How many periods were debited in the last seconds, by whichever instance: journal ids are ordered by time.
SELECT count(*) FROM journals
WHERE id >= ledger_id_at(statement_timestamp() - $1 * interval '1 second') AND type = 'call_debit';

-- name: trial_balance
-- What all accounts of each kind hold, each on its normal side, and which side that is.
SELECT kind, unit::text, CASE ledger_normal_side(type) WHEN 1 THEN 'debit' ELSE 'credit' END AS side,
       sum(balance)::bigint AS balance
FROM accounts GROUP BY unit, kind, type ORDER BY unit, kind;

-- name: pending_purchases
-- Purchases neither finished nor given up.
SELECT count(*) FROM purchases WHERE status NOT IN ('succeeded', 'failed');

-- name: jobs
-- How many jobs are waiting, running and failed.
SELECT status::text, count(*) FROM procrastinate_jobs WHERE status IN ('todo', 'doing', 'failed') GROUP BY status;
