-- What the ledger holds of the payment provider's money.

-- name: began
-- Where journals written from now on begin.
SELECT ledger_id_at(clock_timestamp());

-- name: clearing
-- Each payment's money in the clearing account, in cents: what came in, what went back, and whether any of it since `began`.
SELECT j.details ->> 'paymentIntentId' AS payment,
       sum(e.amount) FILTER (WHERE e.amount > 0 AND j.type = 'purchase')::bigint AS charged,
       sum(-e.amount) FILTER (WHERE j.type <> 'purchase')::bigint AS reversed,
       bool_or(j.id >= %(began)s) AS lately
FROM entries e
JOIN journals j ON j.id = e.journal_id
WHERE e.account_id = ledger_platform_account('stripe_clearing')
GROUP BY 1;

-- name: in_flight
-- Payments whose purchase is not finished: the jobs look after them.
SELECT payment_intent_id AS payment FROM purchases
WHERE payment_intent_id IS NOT NULL AND status NOT IN ('succeeded', 'failed');

-- name: kept_since
-- When the oldest month that was not detached began; NULL while none was.
SELECT ledger_time(max(to_id)) FROM detached_partitions;
