-- Purchases, refunds, disputes, the daily allowance and the provider's events.

-- name: insert_purchase
-- A purchase at its first recovery point; it counts for the day on which its transaction began.
INSERT INTO purchases (id, user_id, idempotency_key, amount_cents, tokens, payment_method_id, spend_day, next_check_at)
VALUES ($1, $2, $3, $4, $5, $6, (now() AT TIME ZONE 'UTC')::date, now() + $7 * interval '1 second')
RETURNING *;

-- name: purchase
-- A purchase as it is.
SELECT * FROM purchases WHERE id = $1;

-- name: lock_purchase
-- A purchase, held until the transaction ends.
SELECT * FROM purchases WHERE id = $1 FOR NO KEY UPDATE;

-- name: purchase_of_payment
-- The purchase a payment at the provider was made for: the one it is confirmed for, else the one it names.
SELECT id FROM purchases WHERE payment_intent_id = $1 OR id = $2 ORDER BY payment_intent_id = $1 DESC NULLS LAST LIMIT 1;

-- name: save_purchase
-- Write what an event changed; the next look is due in that many seconds.
UPDATE purchases SET
    status = $2::purchase_status, payment_intent_id = $3, decline_code = $4, failure = $5,
    finished_at = CASE WHEN $2::purchase_status IN ('succeeded', 'failed') THEN now() END,
    next_check_at = now() + $6 * interval '1 second'
WHERE id = $1
RETURNING *;

-- name: save_reversal
-- Write how far refunds and disputes have come.
UPDATE purchases SET
    refunded_cents = $2, disputed_cents = $3, reversed_cents = $4, reversed_tokens = $5, owed_tokens = $6, adjustments = $7
WHERE id = $1;

-- name: due_purchases
-- Unfinished purchases nobody has looked at for too long.
SELECT id FROM purchases WHERE status NOT IN ('succeeded', 'failed') AND next_check_at <= now()
ORDER BY next_check_at LIMIT $1;

-- name: take_check
-- Take a purchase that is due, so that one job looks at it; the next look comes after a growing pause.
UPDATE purchases SET checks = checks + 1, next_check_at = now() + $2 * interval '1 second'
WHERE id = $1 AND status NOT IN ('succeeded', 'failed') AND next_check_at <= now()
RETURNING *, now() - created_at AS age;

-- name: check_again
-- The next look is due in that many seconds.
UPDATE purchases SET next_check_at = now() + $2 * interval '1 second'
WHERE id = $1 AND status NOT IN ('succeeded', 'failed');

-- name: reserve_spend
-- Take a part of today's allowance, if it has that much left; answers nothing if it has not. Days are UTC. What is plainly
-- too much is refused without waiting for the row, which those who buy at the same time hold one after the other.
INSERT INTO daily_spend AS d (user_id, day, spent_cents)
SELECT $1, t.day, $2::bigint FROM (SELECT (now() AT TIME ZONE 'UTC')::date AS day) t
WHERE coalesce((SELECT spent_cents FROM daily_spend WHERE user_id = $1 AND day = t.day), 0) + $2::bigint <= $3::bigint
ON CONFLICT (user_id, day) DO UPDATE SET spent_cents = d.spent_cents + excluded.spent_cents
WHERE d.spent_cents + excluded.spent_cents <= $3::bigint
RETURNING true;

-- name: spent_today
-- What is spent of today's allowance, and when the next day begins.
SELECT coalesce((SELECT spent_cents FROM daily_spend WHERE user_id = $1 AND day = t.day), 0) AS spent_cents,
    (t.day + 1)::timestamp AT TIME ZONE 'UTC' AS resets_at
FROM (SELECT (now() AT TIME ZONE 'UTC')::date AS day) t;

-- name: change_spend
-- Give a part of a day's allowance back (negative), or count what was spent beyond it.
UPDATE daily_spend SET spent_cents = spent_cents + $3 WHERE user_id = $1 AND day = $2;

-- name: expire_spend
-- Remove days long past; no purchase of theirs is unfinished.
DELETE FROM daily_spend WHERE day < (now() AT TIME ZONE 'UTC')::date - 35;

-- name: order_refund
-- Order a refund, unless one is being carried out or was.
INSERT INTO refund_orders (purchase_id, admin_id, idempotency_key, next_check_at)
VALUES ($1, $2, $3, now() + $4 * interval '1 second')
ON CONFLICT (purchase_id) DO UPDATE SET
    admin_id = excluded.admin_id, idempotency_key = excluded.idempotency_key, status = 'claimed',
    next_check_at = excluded.next_check_at, created_at = now()
WHERE refund_orders.status = 'refused'
RETURNING true;

-- name: refund_order
-- The order to pay a purchase back, if there is one.
SELECT purchase_id, admin_id, idempotency_key, status, created_at FROM refund_orders WHERE purchase_id = $1;

-- name: take_refund_check
-- Take an order that is due, so that one job carries it on.
UPDATE refund_orders SET next_check_at = now() + $2 * interval '1 second'
WHERE purchase_id = $1 AND status = 'claimed' AND next_check_at <= now()
RETURNING purchase_id, admin_id, idempotency_key, status, created_at;

-- name: due_refunds
-- Orders nobody has carried on for too long.
SELECT purchase_id FROM refund_orders WHERE status = 'claimed' AND next_check_at <= now() ORDER BY next_check_at LIMIT $1;

-- name: finish_refund
-- The order is carried out, or refused by the provider.
UPDATE refund_orders SET status = $2 WHERE purchase_id = $1;

-- name: note_dispute
-- Where a dispute stands: once decided, an older event changes nothing.
INSERT INTO disputes (id, purchase_id, amount_cents, status) VALUES ($1, $2, $3, $4)
ON CONFLICT (id) DO UPDATE SET
    status = excluded.status, amount_cents = excluded.amount_cents, changed_at = now()
WHERE disputes.status = 'open';

-- name: disputed_cents
-- What disputes, open or lost, hold of a purchase.
SELECT coalesce(sum(amount_cents), 0)::bigint FROM disputes WHERE purchase_id = $1 AND status <> 'won';

-- name: note_event
-- Keep an event if it is new.
INSERT INTO stripe_events (id, type, facts) VALUES ($1, $2, $3) ON CONFLICT (id) DO NOTHING RETURNING true;

-- name: lock_event
-- An event that has not taken effect yet, held until the transaction ends.
SELECT id, type, facts FROM stripe_events WHERE id = $1 AND applied_at IS NULL FOR NO KEY UPDATE;

-- name: event
-- An event that has not taken effect yet.
SELECT id, type, facts FROM stripe_events WHERE id = $1 AND applied_at IS NULL;

-- name: finish_event
-- The event has taken effect, or needs none; answers nothing if another was quicker to say so.
UPDATE stripe_events SET applied_at = now(), outcome = $2, attempts = attempts + 1
WHERE id = $1 AND applied_at IS NULL
RETURNING true;

-- name: note_attempt
-- The event could not take effect now.
UPDATE stripe_events SET attempts = attempts + 1 WHERE id = $1 AND applied_at IS NULL;

-- name: pending_events
-- Events that were kept and have not taken effect.
SELECT id FROM stripe_events WHERE applied_at IS NULL AND received_at < now() - $1 * interval '1 second'
ORDER BY received_at LIMIT $2;

-- name: expire_events
-- Remove events whose repetition can no longer come: Stripe repeats one for three days.
DELETE FROM stripe_events WHERE applied_at < now() - interval '60 days';
