-- The audit log: chains of hashes over every journal with its entries, and over what every account is.

-- A stream is one hash chain. A writer takes any free head and keeps it until commit; one that finds every head taken
-- opens a new stream: writers never wait for each other here.
CREATE TABLE audit_heads (
    stream int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    seq    bigint NOT NULL DEFAULT 0,
    hash   bytea NOT NULL DEFAULT '\x'
) WITH (fillfactor = 10);  -- every commit updates a head: room for many versions on the page

CREATE TABLE financial_audit_log (
    stream        int NOT NULL,
    seq           bigint NOT NULL,
    created_at    timestamptz NOT NULL,
    actor         text NOT NULL,
    action        text NOT NULL,
    subject       text NOT NULL,
    details       jsonb NOT NULL,
    journal_ids   bigint[],  -- of an action "post"
    digest        bytea,     -- sha256 over those journals and their entries, as ledger_journal_line and ledger_entry_line write them
    previous_hash bytea NOT NULL,
    hash          bytea NOT NULL,
    PRIMARY KEY (stream, seq)
);

CREATE FUNCTION ledger_audit_hash(
    p_previous bytea, p_stream int, p_seq bigint, p_created_at timestamptz, p_actor text, p_action text, p_subject text,
    p_details jsonb, p_digest bytea
) RETURNS bytea
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT sha256(p_previous || convert_to(jsonb_build_array(
       p_stream, p_seq, (extract(epoch FROM p_created_at) * 1000000)::bigint, p_actor, p_action, p_subject, p_details,
       encode(p_digest, 'hex'))::text, 'UTF8')) $$;

-- Each line is made of strict operators on text alone, so that PostgreSQL puts it into the calling query: a call of an SQL
-- function for each row would cost five times as much.
CREATE FUNCTION ledger_journal_line(p_id bigint, p_key text, p_type transaction_type, p_entry_count smallint, p_details jsonb) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE AS
$$ SELECT 'J' || p_id::text || ' ' || p_type::text || ' ' || coalesce(p_entry_count, 0::smallint)::text || ' '
       || octet_length(p_key)::text || ':' || p_key || p_details::text || E'\n' $$;

-- What an account is: all that no entry says of it.
CREATE FUNCTION ledger_account_line(
    p_id bigint, p_owner_id text, p_kind text, p_type account_type, p_unit account_unit, p_non_negative boolean, p_created_at timestamptz,
    p_status account_status
) RETURNS jsonb
LANGUAGE sql STABLE PARALLEL SAFE AS
$$ SELECT jsonb_build_array(p_id, p_owner_id, p_kind, p_type, p_unit, p_non_negative, (extract(epoch FROM p_created_at) * 1000000)::bigint, p_status) $$;

CREATE FUNCTION ledger_entry_line(p_journal_id bigint, p_account_id bigint, p_amount bigint, p_balance_after bigint, p_version bigint)
RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS
$$ SELECT 'E' || p_journal_id::text || ' ' || p_account_id::text || ' ' || p_amount::text || ' ' || p_balance_after::text || ' '
       || p_version::text || E'\n' $$;

CREATE FUNCTION ledger_audit_append(
    p_actor text, p_action text, p_subject text, p_details jsonb, p_journal_ids bigint[], p_digest bytea
) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    v_at timestamptz := clock_timestamp();
BEGIN
    LOOP
        WITH head AS (
            SELECT stream, seq, hash FROM audit_heads ORDER BY stream LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED
        ), next AS MATERIALIZED (
            SELECT stream, seq + 1 AS seq, hash AS previous_hash,
                   ledger_audit_hash(hash, stream, seq + 1, v_at, p_actor, p_action, p_subject, p_details, p_digest) AS hash FROM head
        ), logged AS (
            INSERT INTO financial_audit_log (stream, seq, created_at, actor, action, subject, details, journal_ids, digest, previous_hash, hash)
            SELECT stream, seq, v_at, p_actor, p_action, p_subject, p_details, p_journal_ids, p_digest, previous_hash, hash FROM next
        )
        UPDATE audit_heads h SET seq = n.seq, hash = n.hash FROM next n WHERE h.stream = n.stream;
        EXIT WHEN FOUND;
        INSERT INTO audit_heads DEFAULT VALUES;
    END LOOP;
END $$;

CREATE FUNCTION ledger_audit(p_actor text, p_action text, p_subject text, p_details jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT AS $$
BEGIN
    IF p_action IN ('post', 'accounts') THEN
        RAISE EXCEPTION 'the audit action "%" is the ledger''s own', p_action USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM ledger_audit_append(p_actor, p_action, p_subject, coalesce(p_details, '{}'), NULL, NULL);
END $$;
COMMENT ON FUNCTION ledger_audit IS 'Adds a row to the audit log in the caller''s transaction.';
