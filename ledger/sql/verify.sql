-- The ledger proved from its rows. Each query answers what is wrong, one row (what, problem) each, first by id; none when all is well.
--
-- Rows may say anything here: whoever altered them went past every guard. So sums are numeric, which cannot overflow, joins are
-- outer where a row may be gone, and what is read of a document is tested for its type.
-- Rows of detached months are not here to be read: an account may begin where they left it, and only their keys are known.

-- name: entries_have_their_journal_and_account
-- entries without a journal or an account
SELECT 'journal ' || e.journal_id AS what,
       CASE WHEN j.id IS NULL THEN 'has entries but no row in journals' ELSE 'has an entry of account ' || e.account_id || ', which does not exist' END AS problem
FROM entries e LEFT JOIN journals j ON j.id = e.journal_id LEFT JOIN accounts a ON a.id = e.account_id
WHERE j.id IS NULL OR a.id IS NULL
ORDER BY e.journal_id LIMIT 20;

-- name: journals_balance
-- journals that do not sum to zero in each unit
SELECT 'journal ' || t.journal_id AS what, 'does not sum to zero: ' || t.total || ' ' || t.unit AS problem
FROM (SELECT e.journal_id, a.unit, sum(e.amount) AS total FROM entries e JOIN accounts a ON a.id = e.account_id GROUP BY e.journal_id, a.unit) t
WHERE t.total <> 0
ORDER BY t.journal_id LIMIT 20;

-- name: journals_are_whole
-- journals with entries missing or added, or other than their content hash says
SELECT 'journal ' || j.id AS what,
       CASE WHEN e.entries IS NULL THEN 'has no entries'
            WHEN e.entries <> coalesce(j.entry_count, greatest(e.entries, 2)) THEN 'has ' || e.entries || ' entries instead of ' || coalesce(j.entry_count::text, 'two or more')
            WHEN j.entry_count IS NULL THEN 'has a content hash though it was posted by hand'
            WHEN j.content_hash IS NULL THEN 'has no content hash though it was posted whole'
            ELSE 'is not what its content hash says' END AS problem
FROM journals j
LEFT JOIN (SELECT journal_id, count(*) AS entries, string_agg(' ' || account_id || ':' || amount, '' ORDER BY account_id) AS legs
           FROM entries GROUP BY journal_id) e ON e.journal_id = j.id
WHERE e.entries IS NULL OR e.entries <> coalesce(j.entry_count, greatest(e.entries, 2))
   OR (j.entry_count IS NULL) <> (j.content_hash IS NULL)
   OR (j.entry_count IS NOT NULL AND j.content_hash IS DISTINCT FROM sha256(convert_to(j.type || ' ' || j.details || e.legs, 'UTF8')))
ORDER BY j.id LIMIT 20;

-- name: journals_are_finished
-- journals left unfinished by a committed transaction
SELECT 'journal ' || journal_id AS what, 'is unfinished in a committed transaction' AS problem FROM journals_unfinished ORDER BY journal_id LIMIT 20;

-- name: accounts_match_entries
-- accounts whose balance, version or last journal is not that of their entries
SELECT 'account ' || a.id AS what,
       CASE WHEN a.version <> coalesce(e.version, 0) THEN 'has version ' || a.version || ' instead of ' || coalesce(e.version, 0)
            WHEN a.balance <> coalesce(e.total, 0) * ledger_normal_side(a.type)
              THEN 'has balance ' || a.balance || ' instead of ' || coalesce(e.total, 0) * ledger_normal_side(a.type)
            ELSE 'has last journal ' || a.last_journal_id || ' instead of ' || coalesce(e.last_journal_id, 0) END AS problem
FROM accounts a
LEFT JOIN (SELECT account_id, sum(amount) AS total, count(*) AS version, max(journal_id) AS last_journal_id FROM entries GROUP BY account_id) e
       ON e.account_id = a.id
WHERE (a.version <> coalesce(e.version, 0) OR a.balance <> coalesce(e.total, 0) * ledger_normal_side(a.type)
       OR a.last_journal_id <> coalesce(e.last_journal_id, 0))
  -- An account with older entries in a detached month is held to the newest it has here by entries_continue_their_account.
  AND NOT (a.version > coalesce(e.version, 0) AND CASE WHEN e.version IS NULL
           THEN EXISTS (SELECT FROM detached_partitions d WHERE a.last_journal_id >= d.from_id AND a.last_journal_id < d.to_id)
           ELSE EXISTS (SELECT FROM detached_partitions) END)
ORDER BY a.id LIMIT 20;

-- name: accounts_keep_their_kind
-- accounts that are not what their kind says, or below zero where they may not be, and kinds whose platform account is gone
SELECT what, problem FROM (
    SELECT a.id, 'account ' || a.id AS what,
           CASE WHEN a.non_negative AND a.balance < 0 THEN 'is at ' || a.balance ELSE 'is not what an account of kind ' || a.kind || ' is' END AS problem
    FROM accounts a LEFT JOIN account_kinds k USING (kind)
    WHERE (a.type, a.unit, a.non_negative, a.owner_id IS NOT NULL) IS DISTINCT FROM (k.type, k.unit, k.non_negative, k.owned)
       OR (a.balance < 0 AND a.non_negative)
    UNION ALL
    SELECT 0, 'account of kind ' || k.kind, 'is gone: the platform has none'
    FROM account_kinds k WHERE NOT k.owned AND NOT EXISTS (SELECT FROM accounts a WHERE a.kind = k.kind)
) wrong ORDER BY id, what LIMIT 20;

-- name: accounts_match_audit
-- accounts that are not what the audit log last said of them
SELECT 'account ' || (coalesce(a.number, s.id) #>> '{}') AS what,
       CASE WHEN s.id IS NULL THEN 'is in no audit row'
            ELSE CASE WHEN a.id IS NULL THEN 'is gone, and was recorded by audit row ' ELSE 'is not what was recorded by audit row ' END
                 || s.stream || '/' || s.seq END AS problem
FROM (SELECT id, to_jsonb(id) AS number, -- no account was made in another millennium, and a bigint holds this one's microseconds
             CASE WHEN created_at BETWEEN '2000-01-01' AND '3000-01-01'
                  THEN ledger_account_line(id, owner_id, kind, type, unit, non_negative, created_at, status) END AS line FROM accounts) a
FULL JOIN (SELECT DISTINCT ON (line -> 0) line -> 0 AS id, line, stream, seq
           FROM financial_audit_log,
                jsonb_array_elements(CASE jsonb_typeof(details -> 'accounts') WHEN 'array' THEN details -> 'accounts' ELSE '[]' END) AS line
           WHERE action = 'accounts' ORDER BY line -> 0, created_at DESC, stream DESC, seq DESC) s ON s.id = a.number
WHERE a.line IS DISTINCT FROM s.line
ORDER BY coalesce(a.number, s.id) LIMIT 20;

-- name: units_sum_to_zero
-- units whose accounts, all together, do not sum to zero
SELECT 'unit ' || unit AS what, 'does not sum to zero: ' || sum(balance * ledger_normal_side(type)) AS problem
FROM accounts GROUP BY unit HAVING sum(balance * ledger_normal_side(type)) <> 0 ORDER BY unit;

-- name: entries_continue_their_account
-- running balances and versions that do not follow from the entry before, or do not lead to where the account is
SELECT 'account ' || t.account_id AS what,
       CASE WHEN t.follows THEN 'is not where its last entry, of journal ' || t.journal_id || ', leaves it'
            ELSE 'entry of journal ' || t.journal_id || ' has version ' || t.version || ' and balance ' || t.balance_after || ' after version '
                 || coalesce(t.version_before, 0) || ' and balance ' || coalesce(t.balance_before, 0) END AS problem
FROM (SELECT s.account_id, s.journal_id, s.version, s.balance_after, s.version_before, s.balance_before, s.leads_elsewhere,
             -- In this range nothing overflows.
             CASE WHEN s.version < 1 OR s.balance_after NOT BETWEEN -9007199254740991 AND 9007199254740991 THEN false
                  WHEN s.balance_after < 0 AND s.non_negative THEN false
                  WHEN s.version_before IS NULL AND detached.some_are THEN true
                  ELSE s.version - 1 = coalesce(s.version_before, 0) AND s.balance_after - s.delta = coalesce(s.balance_before, 0) END AS follows
      FROM (SELECT e.account_id, e.journal_id, e.version, e.balance_after, e.amount * ledger_normal_side(a.type) AS delta, a.non_negative,
                   lag(e.version) OVER w AS version_before, lag(e.balance_after) OVER w AS balance_before,
                   lead(e.version) OVER w IS NULL
                   AND (e.version, e.balance_after, e.journal_id) IS DISTINCT FROM (a.version, a.balance, a.last_journal_id) AS leads_elsewhere
            FROM entries e JOIN accounts a ON a.id = e.account_id WINDOW w AS (PARTITION BY e.account_id ORDER BY e.journal_id)) s,
           (SELECT EXISTS (SELECT FROM detached_partitions) AS some_are) detached) t
WHERE NOT t.follows OR t.leads_elsewhere
ORDER BY t.account_id, t.journal_id LIMIT 20;

-- name: journals_have_their_key
-- journals whose key is not registered as theirs, and keys of journals that are gone
SELECT 'journal ' || coalesce(j.id, k.journal_id) AS what,
       CASE WHEN j.id IS NULL THEN 'is gone but its key ' || quote_literal(k.idempotency_key) || ' is registered'
            WHEN k.journal_id IS NULL THEN 'has an unregistered key ' || quote_literal(j.idempotency_key)
            ELSE 'has a key registered with other content' END AS problem
FROM journals j FULL JOIN journal_keys k ON k.idempotency_key = j.idempotency_key AND k.journal_id = j.id
WHERE (j.id IS NULL AND NOT EXISTS (SELECT FROM detached_partitions d WHERE k.journal_id >= d.from_id AND k.journal_id < d.to_id))
   OR k.journal_id IS NULL OR (j.id IS NOT NULL AND k.content_hash IS DISTINCT FROM j.content_hash)
ORDER BY coalesce(j.id, k.journal_id) LIMIT 20;

-- name: audit_chain_holds
-- audit rows altered, removed or inserted
SELECT 'audit row ' || t.stream || '/' || t.seq AS what,
       CASE WHEN t.seq <> t.seq_before + 1 THEN 'follows row ' || t.seq_before || ': rows are missing'
            WHEN t.previous_hash <> t.hash_before THEN 'does not carry the hash of the row before it'
            ELSE 'is not what its hash says' END AS problem
FROM (SELECT l.*, coalesce(lag(l.seq::numeric) OVER w, 0) AS seq_before, coalesce(lag(l.hash) OVER w, '\x') AS hash_before
      FROM financial_audit_log l WINDOW w AS (PARTITION BY l.stream ORDER BY l.seq)) t
WHERE t.seq <> t.seq_before + 1 OR t.previous_hash <> t.hash_before
   OR CASE WHEN t.created_at BETWEEN '2000-01-01' AND '3000-01-01'
           THEN t.hash <> ledger_audit_hash(t.previous_hash, t.stream, t.seq, t.created_at, t.actor, t.action, t.subject, t.details, t.digest)
           ELSE true END
ORDER BY t.stream, t.seq LIMIT 20;

-- name: audit_heads_match
-- streams whose last rows are gone
SELECT 'audit row ' || coalesce(h.stream, l.stream) || '/' || coalesce(h.seq, l.seq) AS what, 'is not where its stream ends' AS problem
FROM (SELECT DISTINCT ON (stream) stream, seq, hash FROM financial_audit_log ORDER BY stream, seq DESC) l
FULL JOIN audit_heads h ON h.stream = l.stream
WHERE h.stream IS NULL OR (h.seq, h.hash) IS DISTINCT FROM (coalesce(l.seq, 0), coalesce(l.hash, '\x'))
ORDER BY coalesce(h.stream, l.stream) LIMIT 20;

-- name: audit_covers_journals
-- journals that no audit row records, or more than one, and recorded journals that no key knows
SELECT 'journal ' || coalesce(k.journal_id, l.journal_id) AS what,
       CASE WHEN k.journal_id IS NULL THEN 'is recorded by audit row ' || l.stream || '/' || l.seq || ' and does not exist'
            WHEN l.journal_id IS NULL THEN 'is in no audit row' ELSE 'is in two audit rows' END AS problem
FROM journal_keys k
FULL JOIN (SELECT id AS journal_id, min(stream) AS stream, min(seq) AS seq, count(*) AS times
           FROM financial_audit_log, unnest(journal_ids) AS id GROUP BY id) l ON l.journal_id = k.journal_id
WHERE k.journal_id IS NULL OR l.journal_id IS NULL OR l.times > 1
ORDER BY coalesce(k.journal_id, l.journal_id) LIMIT 20;

-- name: audit_digests_match
-- audit rows whose journals and entries are not what was recorded
WITH recorded AS (
    SELECT l.stream, l.seq, id AS journal_id, place FROM financial_audit_log l, unnest(l.journal_ids) WITH ORDINALITY AS t(id, place)
), journal_text AS (
    SELECT r.stream, r.seq,
           string_agg(ledger_journal_line(j.id, j.idempotency_key, j.type, j.entry_count, j.details), '' ORDER BY r.place) AS text
    FROM recorded r JOIN journals j ON j.id = r.journal_id GROUP BY r.stream, r.seq
), entry_text AS (
    SELECT r.stream, r.seq, string_agg(ledger_entry_line(e.journal_id, e.account_id, e.amount, e.balance_after, e.version), ''
                                       ORDER BY r.place, e.account_id) AS text
    FROM recorded r JOIN entries e ON e.journal_id = r.journal_id GROUP BY r.stream, r.seq
)
SELECT 'audit row ' || l.stream || '/' || l.seq AS what,
       CASE WHEN l.journal_ids IS NULL THEN 'is of a posting and names no journal'
            WHEN l.action = 'post' THEN 'is not what journals ' || l.journal_ids[1] || ' to ' || l.journal_ids[cardinality(l.journal_ids)] || ' say'
            ELSE 'records journals, and is not of a posting' END AS problem
FROM financial_audit_log l LEFT JOIN journal_text j USING (stream, seq) LEFT JOIN entry_text e USING (stream, seq)
WHERE (l.journal_ids IS NOT NULL OR l.action = 'post')
  AND (l.action <> 'post' OR sha256(convert_to(coalesce(j.text, '') || coalesce(e.text, ''), 'UTF8')) IS DISTINCT FROM l.digest)
  AND NOT EXISTS (SELECT FROM detached_partitions d WHERE d.from_id <= l.journal_ids[cardinality(l.journal_ids)] AND d.to_id > l.journal_ids[1])
ORDER BY l.stream, l.seq LIMIT 20;

-- name: audit_rows_name_their_journals
-- audit rows that name other journals than they were written with (those of a time before migration 0009 do not say)
SELECT 'audit row ' || l.stream || '/' || l.seq AS what, 'does not name the journals it was written with' AS problem
FROM financial_audit_log l
WHERE l.action = 'post' AND l.details -> 'journals' IS NOT NULL
  AND l.details ->> 'journals' IS DISTINCT FROM encode(sha256(convert_to(l.journal_ids::text, 'UTF8')), 'hex')
ORDER BY l.stream, l.seq LIMIT 20;

-- name: detached_months_are_recorded
-- months said to be detached of which no audit row tells, and such rows whose months are not said to be
SELECT 'table ' || coalesce(d.table_name, l.table_name) AS what,
       CASE WHEN l.table_name IS NULL THEN 'is said to be detached, and no audit row tells of it'
            ELSE 'was detached by audit row ' || l.stream || '/' || l.seq || ', and is not listed so' END AS problem
FROM detached_partitions d
FULL JOIN (SELECT stream, seq, t.table_name, details ->> 'from_id' AS from_id, details ->> 'to_id' AS to_id
           FROM financial_audit_log l,
                jsonb_array_elements_text(CASE WHEN jsonb_typeof(details -> 'tables') = 'array' THEN details -> 'tables' ELSE '[]' END) AS t(table_name)
           WHERE action = 'detach') l
       ON l.table_name = d.table_name AND l.from_id = d.from_id::text AND l.to_id = d.to_id::text
WHERE d.table_name IS NULL OR l.table_name IS NULL
ORDER BY 1 LIMIT 20;

-- name: witnessed
-- Rows the witness saw at a stream's end that are not in the log any more as they were.
SELECT 'audit row ' || w.stream || '/' || w.seq AS what, 'is not the one the witness saw' AS problem
FROM unnest(%(streams)s::int[], %(seqs)s::bigint[], %(hashes)s::bytea[]) AS w(stream, seq, hash)
LEFT JOIN financial_audit_log l ON l.stream = w.stream AND l.seq = w.seq
WHERE l.hash IS DISTINCT FROM w.hash
ORDER BY w.stream LIMIT 20;

-- name: heads
-- Where each stream ends.
SELECT DISTINCT ON (stream) stream, seq, hash FROM financial_audit_log ORDER BY stream, seq DESC;

-- name: summary
SELECT (SELECT count(*) FROM accounts) AS accounts, (SELECT count(*) FROM journals) AS journals, (SELECT count(*) FROM entries) AS entries,
       (SELECT count(*) FROM financial_audit_log) AS audit_rows;
