-- Queries on calls. Times come from meter_now(), the one clock of metering. It goes on while a statement runs: where rows are
-- looked for by it, it is asked first, in a query of its own; else each row would be, and no index.

-- name: call_of_request
-- The call a caller's request made before, if it did.
SELECT c.* FROM calls c WHERE c.caller_id = $1 AND c.request_id = $2;

-- name: rate_of
-- What a user's own calls cost, if they have said so.
SELECT rate_tokens_per_period FROM user_rates WHERE user_id = $1;

-- name: set_rate
-- Set what a user's own calls cost from the next call on.
INSERT INTO user_rates (user_id, rate_tokens_per_period) VALUES ($1, $2)
ON CONFLICT (user_id) DO UPDATE SET rate_tokens_per_period = excluded.rate_tokens_per_period, changed_at = now();

-- name: insert_call
-- Make a ringing call; the terms are frozen here. Answers nothing if the request made one already.
INSERT INTO calls (
    id, caller_id, callee_id, request_id, rate_tokens_per_period, fee_tokens_per_period, fee_percent, period_seconds,
    grace_seconds, refund_unused_seconds, caller_wallet_id, callee_earnings_id, created_at, ring_expires_at
) SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, n.now, n.now + $13 * interval '1 second'
FROM meter_now() AS n(now)
ON CONFLICT (caller_id, request_id) DO NOTHING
RETURNING *;

-- name: take_parties
-- Put both users into the call, in one order of users; fewer than two rows mean that one is busy.
INSERT INTO live_parties (user_id, call_id)
SELECT u, $2 FROM unnest($1::text[]) AS u ORDER BY u
ON CONFLICT (user_id) DO NOTHING
RETURNING user_id;

-- name: call_and_now
-- A call as it is, and the time.
SELECT c.*, meter_now() AS now FROM calls c WHERE c.id = $1;

-- name: call
-- A call as it is.
SELECT * FROM calls WHERE id = $1;

-- name: live_calls_of
-- The calls these users are in or are being rung for.
SELECT p.user_id, c.* FROM live_parties p JOIN calls c ON c.id = p.call_id WHERE p.user_id = ANY ($1::text[]);

-- name: answer_call
-- Make a ringing call active and bill its first period, if the call is still as it was decided on: see the function.
SELECT (b.call).*, b.outcome, b.wallet_balance, b.wallet_version, b.earnings_balance, b.earnings_version,
    meter_now() AS now, put_out_of_channel(b.call, $4, $5)
FROM answer_call($1, $2, $3) b;

-- name: end_call
-- End a call and give back what is left over, if the call is still as it was decided on: see the function.
SELECT (b.call).*, b.outcome, b.wallet_balance, b.wallet_version, b.earnings_balance, b.earnings_version,
    put_out_of_channel(b.call, $9, $10)
FROM end_call($1, $2, $3, $4, $5, $6, $7, $8) b;

-- name: bill_due
-- One batch of the meter, with the jobs for those that ended unpaid: see the functions for their rules.
SELECT (b.call).*, b.outcome, b.wallet_balance, b.wallet_version, b.earnings_balance, b.earnings_version,
    meter_now() AS now, put_out_of_channel(b.call, $2, $3)
FROM bill_calls($1) b;

-- name: bill_call
-- Bring one call's billing up to now.
SELECT (b.call).*, b.outcome, b.wallet_balance, b.wallet_version, b.earnings_balance, b.earnings_version,
    meter_now() AS now, put_out_of_channel(b.call, $2, $3)
FROM bill_calls(1, ARRAY[$1::uuid]) b;

-- name: due
-- The calls whose next period has started, longest due first.
SELECT id FROM calls WHERE status = 'active' AND paid_through <= (SELECT meter_now()) ORDER BY paid_through LIMIT $1;

-- name: next_due_in_s
-- Seconds until the next period of any active call starts; negative if it has.
SELECT EXTRACT(EPOCH FROM min(paid_through) - meter_now())::float8 FROM calls WHERE status = 'active';

-- name: overdue_rings
-- Calls that have rung out.
SELECT id FROM calls WHERE status = 'ringing' AND ring_expires_at <= (SELECT meter_now()) ORDER BY ring_expires_at LIMIT $1;

-- name: overdue_absences
-- Calls one side of which has been gone for longer than the grace.
SELECT id, caller_id, callee_id FROM calls
WHERE status <> 'ended' AND (caller_absent_since IS NOT NULL OR callee_absent_since IS NOT NULL)
    AND least(caller_absent_since, callee_absent_since) <= (SELECT meter_now() - $1 * interval '1 second')
ORDER BY least(caller_absent_since, callee_absent_since) LIMIT $2;

-- name: absences
-- Calls one side of which is noted as gone, the longest first.
SELECT id, caller_id, callee_id, caller_absent_since IS NOT NULL AS caller_absent,
    callee_absent_since IS NOT NULL AS callee_absent
FROM calls WHERE status <> 'ended' AND (caller_absent_since IS NOT NULL OR callee_absent_since IS NOT NULL)
ORDER BY least(caller_absent_since, callee_absent_since) LIMIT $1;

-- name: live_page
-- The next page of live calls by id, with what is known of who is absent; a call has two parties and counts once.
SELECT c.id, c.caller_id, c.callee_id,
    c.caller_absent_since IS NOT NULL AS caller_absent, c.callee_absent_since IS NOT NULL AS callee_absent
FROM calls c WHERE c.id IN (SELECT DISTINCT call_id FROM live_parties WHERE call_id > $1 ORDER BY call_id LIMIT $2)
ORDER BY c.id;

-- name: mark_presence
-- Note since when each side has been gone, keeping the first time, or that it is back.
UPDATE calls c SET
    caller_absent_since = CASE WHEN m.caller_absent THEN coalesce(c.caller_absent_since, meter_now()) END,
    callee_absent_since = CASE WHEN m.callee_absent THEN coalesce(c.callee_absent_since, meter_now()) END
FROM unnest($1::uuid[], $2::boolean[], $3::boolean[]) AS m(id, caller_absent, callee_absent)
WHERE c.id = m.id AND c.status <> 'ended';

-- name: mark_present
-- A user has a tab again.
UPDATE calls c SET
    caller_absent_since = CASE WHEN c.caller_id = $1 THEN NULL ELSE c.caller_absent_since END,
    callee_absent_since = CASE WHEN c.callee_id = $1 THEN NULL ELSE c.callee_absent_since END
FROM live_parties p
WHERE p.user_id = $1 AND c.id = p.call_id AND c.status <> 'ended'
    AND (CASE WHEN c.caller_id = $1 THEN c.caller_absent_since ELSE c.callee_absent_since END) IS NOT NULL;

-- name: calls_of
-- One's own calls, newest first, after a place in that order.
SELECT * FROM (
    (SELECT * FROM calls WHERE caller_id = $1 AND ($2::timestamptz IS NULL OR (created_at, id) < ($2, $3::uuid))
     ORDER BY created_at DESC, id DESC LIMIT $4)
    UNION ALL
    (SELECT * FROM calls WHERE callee_id = $1 AND ($2::timestamptz IS NULL OR (created_at, id) < ($2, $3::uuid))
     ORDER BY created_at DESC, id DESC LIMIT $4)
) own ORDER BY created_at DESC, id DESC LIMIT $4;

-- name: live_users
-- Which of these users are in a call.
SELECT user_id FROM live_parties WHERE user_id = ANY($1::text[]);

-- name: rates_of
-- The rates these users have set.
SELECT user_id, rate_tokens_per_period FROM user_rates WHERE user_id = ANY($1::text[]);
