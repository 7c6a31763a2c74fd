-- What ledger/store.py asks of the database.

-- name: post
-- A batch of journals; one row for each, in the order that the function returns them in, which is the batch's.
SELECT outcome, journal_id, balances, versions
FROM ledger_post($1::text[], $2::text[]::transaction_type[], $3::text[]::jsonb[], $4::int[], $5::bigint[], $6::bigint[], $7::text);

-- name: ensure_accounts
-- Account ids for owners and kinds, made where missing.
SELECT ledger_ensure_accounts($1::text[], $2::text[]);

-- name: platform_account
SELECT ledger_platform_account($1);

-- name: account
SELECT id, owner_id, kind, type::text, unit::text, balance, version, status = 'open' AS is_open FROM accounts WHERE id = $1;

-- name: balance
SELECT balance, version FROM accounts WHERE owner_id = $1 AND kind = $2;

-- name: balances
SELECT owner_id, balance, version FROM accounts WHERE owner_id = ANY ($1::text[]) AND kind = $2;

-- name: balance_at
-- The newest entry not after the given millisecond. Month by month, newest first, and no further than the first that has one: each
-- step is one probe of (account_id, journal_id) in that month's partition, and the others are never executed. The first step
-- reaches from this month into the future, where a journal may be of a clock that was set back; the last is 2020, where ids begin.
SELECT e.balance_after AS balance, e.version
FROM (SELECT age, ledger_id_at((newest - make_interval(months => age)) AT TIME ZONE 'UTC') AS from_id,
             CASE age WHEN 0 THEN ledger_id_at($2) + 4194304
                 ELSE ledger_id_at((newest - make_interval(months => age - 1)) AT TIME ZONE 'UTC') END AS to_id
      FROM date_trunc('month', least($2, now()) AT TIME ZONE 'UTC') AS newest,
      LATERAL generate_series(0, (extract(year FROM newest)::int - 2020) * 12 + extract(month FROM newest)::int - 1) AS age
      ORDER BY age) month,
LATERAL (SELECT balance_after, version FROM entries
         WHERE account_id = $1 AND journal_id >= month.from_id AND journal_id < month.to_id
         ORDER BY journal_id DESC LIMIT 1) e
ORDER BY month.age LIMIT 1;

-- name: balance_before_entries
-- What the account brought to the oldest entry that is here, and whether that is what it held at the given millisecond: nothing
-- happened since then that was detached.
SELECT coalesce(oldest.balance_after - oldest.amount * ledger_normal_side(a.type), a.balance) AS balance,
       coalesce(oldest.version - 1, a.version) AS version,
       oldest.version = 1 OR (oldest.version IS NULL AND a.last_journal_id < ledger_id_at($2) + 4194304)
           OR NOT EXISTS (SELECT FROM detached_partitions WHERE to_id > ledger_id_at($2) + 4194304) AS is_known
FROM accounts a
LEFT JOIN LATERAL (SELECT * FROM entries WHERE account_id = a.id ORDER BY journal_id LIMIT 1) oldest ON true
WHERE a.id = $1;

-- name: history
-- Newest first, older than the journal $2. The page is cut before it is joined, so that no plan walks the newer journals.
SELECT e.journal_id, ledger_public_id(e.journal_id) AS public_id, j.created_at, j.type::text, j.idempotency_key AS key, j.details::text,
       e.amount * ledger_normal_side(a.type) AS delta, e.balance_after, e.version
FROM (SELECT * FROM entries WHERE account_id = $1 AND journal_id < $2 ORDER BY journal_id DESC LIMIT $3) e
JOIN journals j ON j.id = e.journal_id
JOIN accounts a ON a.id = e.account_id
ORDER BY e.journal_id DESC;

-- name: audit
SELECT ledger_audit($1, $2, $3, $4::text::jsonb);

-- name: account_id
SELECT id FROM accounts WHERE owner_id = $1 AND kind = $2;
