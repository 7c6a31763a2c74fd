-- Tables of the ledger's shape and indexes without its guards, and a function that writes a batch's rows into them: what
-- PostgreSQL can do at most. It checks nothing and answers nothing.

CREATE TABLE raw_accounts (LIKE accounts INCLUDING ALL EXCLUDING CONSTRAINTS EXCLUDING IDENTITY) WITH (fillfactor = 50);
CREATE TABLE raw_journals (LIKE journals INCLUDING ALL EXCLUDING CONSTRAINTS) PARTITION BY RANGE (id);
CREATE TABLE raw_entries (LIKE entries INCLUDING ALL EXCLUDING CONSTRAINTS) PARTITION BY RANGE (journal_id);
CREATE TABLE raw_journal_keys (LIKE journal_keys INCLUDING ALL EXCLUDING CONSTRAINTS);
CREATE TABLE raw_audit_log (LIKE financial_audit_log INCLUDING ALL EXCLUDING CONSTRAINTS);
CREATE TABLE raw_audit_heads (LIKE audit_heads INCLUDING ALL EXCLUDING CONSTRAINTS EXCLUDING IDENTITY) WITH (fillfactor = 10);
INSERT INTO raw_audit_heads (stream) SELECT generate_series(1, 100);

-- The months of ours, and their default partition: finding the partition of a row costs raw what it costs us.
DO $$
DECLARE
    v_part record;
BEGIN
    FOR v_part IN
        SELECT c.relname AS name, p.relname AS parent, pg_get_expr(c.relpartbound, c.oid) AS bounds
        FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_class p ON p.oid = i.inhparent
        WHERE i.inhparent IN ('journals'::regclass, 'entries'::regclass)
    LOOP
        EXECUTE format('CREATE TABLE %I PARTITION OF %I %s', 'raw_' || v_part.name, 'raw_' || v_part.parent, v_part.bounds);
    END LOOP;
END $$;

CREATE FUNCTION raw_post(
    p_keys text[], p_types text[], p_details text[], p_leg_journals int[], p_leg_accounts bigint[], p_leg_amounts bigint[],
    p_accounts bigint[], p_moved bigint[], p_entries bigint[]
) RETURNS void LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan SET enable_nestloop = off SET enable_seqscan = off SET jit = off SET work_mem = '64MB' AS $$
DECLARE
    c_hash   CONSTANT bytea := sha256('');  -- as wide as a real one
    v_stream int;
    v_seq    bigint;
    v_ids    bigint[] := ARRAY(SELECT ledger_next_journal_id() FROM generate_series(1, cardinality(p_keys)));
BEGIN
    PERFORM FROM raw_accounts WHERE id = ANY (p_accounts) ORDER BY id FOR NO KEY UPDATE;
    INSERT INTO raw_journals (id, type, idempotency_key, content_hash, details, entry_count)
    SELECT t.id, t.type::transaction_type, t.key, c_hash, t.details::jsonb, 2 FROM unnest(v_ids, p_types, p_keys, p_details) AS t(id, type, key, details);
    INSERT INTO raw_journal_keys (idempotency_key, journal_id, content_hash)
    SELECT t.key, t.id, c_hash FROM unnest(v_ids, p_keys) AS t(id, key);
    INSERT INTO raw_entries (journal_id, account_id, amount, balance_after, version)
    SELECT v_ids[t.journal], t.account, t.amount, 0, 0 FROM unnest(p_leg_journals, p_leg_accounts, p_leg_amounts) AS t(journal, account, amount);
    UPDATE raw_accounts a SET balance = a.balance + t.moved, version = a.version + t.entries, last_journal_id = v_ids[1]
    FROM unnest(p_accounts, p_moved, p_entries) AS t(id, moved, entries) WHERE a.id = ANY (p_accounts) AND a.id = t.id;
    UPDATE raw_audit_heads SET seq = seq + 1, hash = c_hash
    WHERE stream = (SELECT stream FROM raw_audit_heads ORDER BY stream LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED)
    RETURNING stream, seq INTO v_stream, v_seq;
    INSERT INTO raw_audit_log (stream, seq, created_at, actor, action, subject, details, journal_ids, digest, previous_hash, hash)
    VALUES (v_stream, v_seq, clock_timestamp(), 'benchmark', 'post', '', '{}', v_ids, c_hash, c_hash, c_hash);
END $$;
