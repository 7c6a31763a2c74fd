-- Months: each has its partition of journals and of entries, made ahead.

-- Where a journal goes whose month nobody made ahead: a missed job never refuses money.
CREATE TABLE journals_default PARTITION OF journals DEFAULT;
CREATE TABLE entries_default PARTITION OF entries DEFAULT;
SELECT ledger_guard_table('journals_default', 'journals'), ledger_guard_table('entries_default', 'entries');

-- Months taken out of the two tables: what verify may miss, and what "migrate down" removes too.
CREATE TABLE detached_partitions (
    table_name  text PRIMARY KEY,
    from_id     bigint NOT NULL,
    to_id       bigint NOT NULL,
    detached_at timestamptz NOT NULL DEFAULT now()
);

CREATE FUNCTION ledger_make_partitions(p_months_ahead int DEFAULT 3) RETURNS int
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    v_month timestamptz;
    v_from  bigint;
    v_to    bigint;
    v_part  text;
    v_made  int := 0;
    v_table record;
    v_late  bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('ledger_make_partitions'), hashtext(current_schema()));
    FOR i IN 0 .. p_months_ahead LOOP
        v_month := (date_trunc('month', now() AT TIME ZONE 'UTC') + make_interval(months => i)) AT TIME ZONE 'UTC';
        v_from := ledger_id_at(v_month);
        v_to := ledger_id_at((v_month AT TIME ZONE 'UTC' + interval '1 month') AT TIME ZONE 'UTC');
        FOR v_table IN
            SELECT t.name, t.key, (SELECT string_agg(quote_ident(attname), ', ') FROM pg_attribute
                                   WHERE attrelid = t.name::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = '') AS columns
            FROM (VALUES ('journals', 'id'), ('entries', 'journal_id')) AS t(name, key)
        LOOP
            v_part := v_table.name || to_char(v_month AT TIME ZONE 'UTC', '_YYYY_MM');
            CONTINUE WHEN to_regclass(quote_ident(v_part)) IS NOT NULL;
            EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL)', v_part, v_table.name);
            -- Rows of that month that came before its partition wait in the default one, and move.
            EXECUTE format('SELECT 1 FROM %I WHERE %I >= $1 AND %I < $2 LIMIT 1', v_table.name || '_default', v_table.key, v_table.key)
                INTO v_late USING v_from, v_to;
            IF v_late IS NOT NULL THEN
                EXECUTE format('ALTER TABLE %I DISABLE TRIGGER append_only', v_table.name || '_default');
                EXECUTE format('WITH late AS (DELETE FROM %1$I WHERE %2$I >= $1 AND %2$I < $2 RETURNING *) INSERT INTO %3$I (%4$s) SELECT %4$s FROM late',
                               v_table.name || '_default', v_table.key, v_part, v_table.columns) USING v_from, v_to;
                EXECUTE format('ALTER TABLE %I ENABLE TRIGGER append_only', v_table.name || '_default');
            END IF;
            EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%s) TO (%s)', v_table.name, v_part, v_from, v_to);
            PERFORM ledger_guard_table(v_part::regclass, v_table.name);
            v_made := v_made + 1;
        END LOOP;
    END LOOP;
    RETURN v_made;
END $$;
COMMENT ON FUNCTION ledger_make_partitions IS 'Makes the partitions of this month and the next ones where they are missing; answers how many tables it made. For a job to call.';

SELECT ledger_make_partitions();
