-- Takes a month's journals and entries out of the two tables, as two tables of their own to be dumped, moved or dropped.
--
-- journal_keys stays whole, with each journal's content hash, so a key of the month still answers duplicate or key_reused;
-- accounts carry balance and version by themselves. What is gone is the month's history.
--
-- Months leave oldest first: then an account's entries that remain are its newest, and verify can follow them without a gap.
-- LG014: the month is not over; LG015: it is not there; LG016: older journals still are.
CREATE FUNCTION ledger_detach_month(p_month date) RETURNS text[]
LANGUAGE plpgsql SET search_path FROM CURRENT
-- Posting locks journals before entries, readers entries before journals. Whoever of them waits for this one waits shorter than
-- deadlock_timeout (1 s): it is this one that gives up, with lock_not_available and nothing changed.
SET lock_timeout = '400ms' AS $$
DECLARE
    v_start  timestamp := date_trunc('month', p_month::timestamp);
    v_month  text := to_char(v_start, 'YYYY-MM');
    v_tables CONSTANT text[] := ARRAY['journals', 'entries'];
    v_parts  text[] := ARRAY(SELECT t || to_char(v_start, '_YYYY_MM') FROM unnest(v_tables) AS t);
    v_from   bigint;
    v_to     bigint;
    v_older  bigint;
BEGIN
    -- A journal has its id before its row is written: for an hour, a transaction that began in the month may still be on its way.
    IF (v_start + interval '1 month') AT TIME ZONE 'UTC' > now() - interval '1 hour' THEN
        RAISE EXCEPTION 'month % cannot be detached before it has been over for an hour', v_month USING ERRCODE = 'LG014';
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('ledger_make_partitions'), hashtext(current_schema()));
    LOCK TABLE ONLY journals, ONLY entries IN ACCESS EXCLUSIVE MODE;
    IF EXISTS (SELECT FROM unnest(v_tables, v_parts) AS t(parent, part)
               WHERE NOT EXISTS (SELECT FROM pg_inherits WHERE inhparent = parent::regclass AND inhrelid = to_regclass(quote_ident(part)))) THEN
        RAISE EXCEPTION 'month % is not there: it has no partition, or is detached already', v_month USING ERRCODE = 'LG015';
    END IF;
    v_from := ledger_id_at(v_start AT TIME ZONE 'UTC');
    v_to := ledger_id_at((v_start + interval '1 month') AT TIME ZONE 'UTC');
    SELECT min(id) INTO v_older FROM journals WHERE id < v_from;
    IF v_older IS NOT NULL THEN
        RAISE EXCEPTION 'month % cannot be detached while older journals are there, the first of %', v_month,
            to_char(ledger_time(v_older) AT TIME ZONE 'UTC', 'YYYY-MM') USING ERRCODE = 'LG016', HINT = 'Detach the oldest month first.';
    END IF;
    FOR i IN 1 .. cardinality(v_tables) LOOP
        EXECUTE format('ALTER TABLE %I DETACH PARTITION %I', v_tables[i], v_parts[i]);
        -- A row written here would register a key or claim a balance that no proof reads: now INSERT is refused too.
        EXECUTE format('DROP TRIGGER guard ON %I', v_parts[i]);
        EXECUTE format('CREATE TRIGGER complete BEFORE INSERT ON %I FOR EACH STATEMENT EXECUTE FUNCTION ledger_append_only()', v_parts[i]);
        INSERT INTO detached_partitions (table_name, from_id, to_id) VALUES (v_parts[i], v_from, v_to);
    END LOOP;
    PERFORM ledger_audit(ledger_actor(), 'detach', v_month, jsonb_build_object('tables', v_parts, 'from_id', v_from, 'to_id', v_to));
    RETURN v_parts;
END $$;
COMMENT ON FUNCTION ledger_detach_month IS 'Takes the month p_month lies in (UTC) out of journals and entries; answers the tables it is in from now on.';
