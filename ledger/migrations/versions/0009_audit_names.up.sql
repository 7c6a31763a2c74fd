-- An audit row of a posting has a hash of the numbers of its journals among its details, and so in its own hash. The digest covers
-- them too, but where a month is detached nothing is left to make it of, and the numbers alone could be exchanged.
CREATE OR REPLACE FUNCTION ledger_audit_append(
    p_actor text, p_action text, p_subject text, p_details jsonb, p_journal_ids bigint[], p_digest bytea
) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    v_at      timestamptz := clock_timestamp();
    v_details jsonb := CASE WHEN p_journal_ids IS NULL THEN p_details
                            ELSE p_details || jsonb_build_object('journals', encode(sha256(convert_to(p_journal_ids::text, 'UTF8')), 'hex')) END;
BEGIN
    LOOP
        WITH head AS (
            SELECT stream, seq, hash FROM audit_heads ORDER BY stream LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED
        ), next AS MATERIALIZED (
            SELECT stream, seq + 1 AS seq, hash AS previous_hash,
                   ledger_audit_hash(hash, stream, seq + 1, v_at, p_actor, p_action, p_subject, v_details, p_digest) AS hash FROM head
        ), logged AS (
            INSERT INTO financial_audit_log (stream, seq, created_at, actor, action, subject, details, journal_ids, digest, previous_hash, hash)
            SELECT stream, seq, v_at, p_actor, p_action, p_subject, v_details, p_journal_ids, p_digest, previous_hash, hash FROM next
        )
        UPDATE audit_heads h SET seq = n.seq, hash = n.hash FROM next n WHERE h.stream = n.stream;
        EXIT WHEN FOUND;
        INSERT INTO audit_heads DEFAULT VALUES;
    END LOOP;
END $$;
