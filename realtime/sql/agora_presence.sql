-- Who Agora says is in a call's channel.

-- name: lock
-- One writer at a time for a channel's user, whose row may not be there yet.
SELECT pg_advisory_xact_lock(hashtextextended($1, $2));

-- name: presence
-- The newest that is known of a user of a channel, and when it was stored, in unix seconds.
SELECT client_seq, in_channel, left_at, reason, extract(epoch FROM stored_at)::bigint AS stored_at,
    extract(epoch FROM now())::bigint AS now
FROM agora_presence WHERE channel = $1 AND uid = $2;

-- name: store
-- What is known now.
INSERT INTO agora_presence (channel, uid, client_seq, in_channel, left_at, reason) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (channel, uid) DO UPDATE SET
    client_seq = excluded.client_seq, in_channel = excluded.in_channel, left_at = excluded.left_at,
    reason = excluded.reason, stored_at = now();

-- name: expire
-- Remove what is known of channels of calls that have ended; nobody is in one for longer than its token lasts.
DELETE FROM agora_presence p WHERE p.stored_at < now() - interval '2 days'
    AND NOT EXISTS (SELECT FROM live_parties l WHERE channel_of_call(l.call_id) = p.channel);
