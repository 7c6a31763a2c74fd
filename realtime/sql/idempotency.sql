-- Idempotency keys. Times are the database's.

-- name: claim
-- Make the key's record ours if there is none, or only one whose time is over.
INSERT INTO idempotency_keys (user_id, key, request_hash, holder, held_until, expires_at)
VALUES ($1, $2, $3, $4, now() + $5 * interval '1 second', now() + $6 * interval '1 second')
ON CONFLICT (user_id, key) DO UPDATE SET
    request_hash = excluded.request_hash, holder = excluded.holder, held_until = excluded.held_until,
    subject = NULL, outcome = NULL, created_at = now(), expires_at = excluded.expires_at
WHERE idempotency_keys.outcome IS NOT NULL AND idempotency_keys.expires_at <= now()
RETURNING holder;

-- name: record
-- A key's record as it is.
SELECT request_hash, outcome, subject, held_until > now() AS held FROM idempotency_keys WHERE user_id = $1 AND key = $2;

-- name: take_over
-- Make a record ours whose holder has gone.
UPDATE idempotency_keys SET holder = $3, held_until = now() + $4 * interval '1 second'
WHERE user_id = $1 AND key = $2 AND outcome IS NULL AND held_until <= now()
RETURNING subject;

-- name: hold
-- Say that we still work on it.
UPDATE idempotency_keys SET held_until = now() + $4 * interval '1 second'
WHERE user_id = $1 AND key = $2 AND holder = $3 AND outcome IS NULL
RETURNING subject;

-- name: keep_jobs_away
-- Keep the jobs away from a purchase for as long as its request is held. A statement of its own: outcomes take the
-- purchase first and the key after it.
UPDATE purchases SET next_check_at = greatest(next_check_at, now() + $2 * interval '1 second')
WHERE id = $1 AND status NOT IN ('succeeded', 'failed');

-- name: set_subject
-- Note what the request is about, in the transaction that makes it.
UPDATE idempotency_keys SET subject = $4 WHERE user_id = $1 AND key = $2 AND holder = $3 AND outcome IS NULL
RETURNING true;

-- name: finish
-- Keep the answer of a request that is still its holder's. However late it comes, it is there for a minute: whoever
-- asked has yet to hear it.
UPDATE idempotency_keys SET
    outcome = $4, held_until = now(), expires_at = greatest(expires_at, now() + interval '1 minute')
WHERE user_id = $1 AND key = $2 AND holder = $3 AND outcome IS NULL
RETURNING true;

-- name: finish_subject
-- Keep the answer to whatever request made this subject, whoever finished it, for a minute at least. The first answer
-- stands.
UPDATE idempotency_keys SET
    outcome = $4, held_until = now(), expires_at = greatest(expires_at, now() + interval '1 minute')
WHERE user_id = $1 AND key = $2 AND subject = $3 AND outcome IS NULL;

-- name: forget
-- Let the key go: nothing happened that it would have to remember.
DELETE FROM idempotency_keys WHERE user_id = $1 AND key = $2 AND holder = $3 AND outcome IS NULL AND subject IS NULL;

-- name: forget_subject
-- Let the key go of a purchase that came to nothing.
DELETE FROM idempotency_keys WHERE user_id = $1 AND key = $2 AND subject = $3 AND outcome IS NULL;

-- name: expire
-- Remove what is over, a batch at a time: answers kept long enough, and claims that never came to anything.
DELETE FROM idempotency_keys WHERE (user_id, key) IN (
    SELECT user_id, key FROM idempotency_keys
    WHERE expires_at <= now() AND (outcome IS NOT NULL OR subject IS NULL AND held_until <= now())
    LIMIT $1 FOR UPDATE SKIP LOCKED
);
