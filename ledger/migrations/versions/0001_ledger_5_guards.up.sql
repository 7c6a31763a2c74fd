-- Who enforces what
--   entries_guard      after each INSERT into entries: the only writer of accounts.balance and accounts.version; checks
--                      running balances and versions, and that whole journals sum to zero in each unit
--   unfinished_guard   at commit: a journal whose entries came in several statements is whole and sums to zero
--   journals_guard     after each INSERT into journals: registers the idempotency keys
--   accounts_guard     balance and version change with entries only; identity never changes
--   accounts_audit     every account, and its closing and opening, goes into the audit log
--   append_only        UPDATE, DELETE and TRUNCATE of journals, entries, keys and audit log are refused
--   ledger_post        names each refusal instead of raising it, and posts the rest of the batch
-- The guards work for whoever writes, by ledger_post or by hand.

CREATE FUNCTION ledger_append_only() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% of % refused: it is append-only', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'LG010', HINT = 'Correct by posting another journal.';
END $$;

CREATE FUNCTION ledger_guard_accounts() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND (OLD.id, OLD.owner_id, OLD.kind, OLD.type, OLD.unit, OLD.non_negative, OLD.created_at)
        IS DISTINCT FROM (NEW.id, NEW.owner_id, NEW.kind, NEW.type, NEW.unit, NEW.non_negative, NEW.created_at) THEN
        RAISE EXCEPTION 'account %: what an account is cannot be changed', OLD.id USING ERRCODE = 'LG011';
    END IF;
    RAISE EXCEPTION 'account %: balance, version and last journal change with entries only', NEW.id
        USING ERRCODE = 'LG011', HINT = 'Post a journal.';
END $$;

CREATE TRIGGER accounts_guard_insert BEFORE INSERT ON accounts FOR EACH ROW
    WHEN (NEW.balance <> 0 OR NEW.version <> 0 OR NEW.last_journal_id <> 0)
    EXECUTE FUNCTION ledger_guard_accounts();
-- entries_guard updates accounts from inside a trigger, so at depth 1; a client's own UPDATE comes at depth 0.
CREATE TRIGGER accounts_guard_balance BEFORE UPDATE ON accounts FOR EACH ROW
    WHEN (pg_trigger_depth() = 0
          AND (OLD.balance <> NEW.balance OR OLD.version <> NEW.version OR OLD.last_journal_id <> NEW.last_journal_id))
    EXECUTE FUNCTION ledger_guard_accounts();
CREATE TRIGGER accounts_guard_identity BEFORE UPDATE OF id, owner_id, kind, type, unit, non_negative, created_at ON accounts FOR EACH ROW
    WHEN ((OLD.id, OLD.owner_id, OLD.kind, OLD.type, OLD.unit, OLD.non_negative, OLD.created_at)
        IS DISTINCT FROM (NEW.id, NEW.owner_id, NEW.kind, NEW.type, NEW.unit, NEW.non_negative, NEW.created_at))
    EXECUTE FUNCTION ledger_guard_accounts();
CREATE TRIGGER accounts_append_only BEFORE DELETE OR TRUNCATE ON accounts FOR EACH STATEMENT EXECUTE FUNCTION ledger_append_only();
CREATE TRIGGER journal_keys_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON journal_keys FOR EACH STATEMENT EXECUTE FUNCTION ledger_append_only();
CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON financial_audit_log FOR EACH STATEMENT EXECUTE FUNCTION ledger_append_only();
CREATE TRIGGER audit_heads_append_only BEFORE DELETE OR TRUNCATE ON audit_heads FOR EACH STATEMENT EXECUTE FUNCTION ledger_append_only();

CREATE FUNCTION ledger_guard_journals() RETURNS trigger
LANGUAGE plpgsql SET search_path FROM CURRENT SET plan_cache_mode = force_generic_plan AS $$
BEGIN
    -- In key order, so that two batches with the same keys wait for each other in one order.
    WITH registered AS (
        INSERT INTO journal_keys (idempotency_key, journal_id, content_hash)
        SELECT idempotency_key, id, content_hash FROM fresh_journals ORDER BY idempotency_key
    )
    INSERT INTO journals_unfinished (journal_id)
    SELECT id FROM fresh_journals WHERE entry_count IS NULL ORDER BY id;
    RETURN NULL;
END $$;

-- Fills balance_after and version of an entry inserted by hand. ledger_post brings both.
CREATE FUNCTION ledger_fill_entry() RETURNS trigger
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    v_account accounts;
    v_last    entries;
BEGIN
    SELECT * INTO v_account FROM accounts WHERE id = NEW.account_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'journal %: there is no account %', NEW.journal_id, NEW.account_id USING ERRCODE = 'LG005';
    END IF;
    -- The rows this statement has already inserted are seen here; the account's row does not know them yet.
    SELECT * INTO v_last FROM entries WHERE account_id = NEW.account_id AND journal_id >= v_account.last_journal_id
    ORDER BY journal_id DESC LIMIT 1;
    NEW.version := coalesce(v_last.version, v_account.version) + 1;
    NEW.balance_after := coalesce(v_last.balance_after, v_account.balance) + NEW.amount * ledger_normal_side(v_account.type);
    RETURN NEW;
END $$;


-- Says what is wrong with the new entries of one account. p_entries holds them as (journal_id, amount, balance_after, version).
CREATE FUNCTION ledger_raise_wrong_entry(p_account_id bigint, p_journal_ids bigint[], p_amounts bigint[], p_balances bigint[], p_versions bigint[])
RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    v_account accounts;
BEGIN
    SELECT * INTO v_account FROM accounts WHERE id = p_account_id;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'journal %: there is no account %', p_journal_ids[1], p_account_id USING ERRCODE = 'LG005';
    ELSIF v_account.status = 'closed' THEN
        RAISE EXCEPTION 'journal %: account % is closed', p_journal_ids[1], p_account_id USING ERRCODE = 'LG006';
    END IF;
    FOR i IN 1 .. cardinality(p_journal_ids) LOOP
        v_account.balance := v_account.balance + p_amounts[i] * ledger_normal_side(v_account.type);
        v_account.version := v_account.version + 1;
        IF p_journal_ids[i] <= v_account.last_journal_id THEN
            RAISE EXCEPTION 'journal %: account % already has entries of journal %', p_journal_ids[i], p_account_id, v_account.last_journal_id
                USING ERRCODE = 'LG012';
        ELSIF p_balances[i] <> v_account.balance OR p_versions[i] <> v_account.version THEN
            RAISE EXCEPTION 'journal %: the entry of account % should bring version % and balance %, not % and %',
                p_journal_ids[i], p_account_id, v_account.version, v_account.balance, p_versions[i], p_balances[i]
                USING ERRCODE = 'LG011';
        ELSIF v_account.non_negative AND v_account.balance < 0 THEN
            RAISE EXCEPTION 'journal %: account % would go to %', p_journal_ids[i], p_account_id, v_account.balance
                USING ERRCODE = 'LG007';
        END IF;
        v_account.last_journal_id := p_journal_ids[i];
    END LOOP;
    RAISE EXCEPTION 'account % was changed by another transaction', p_account_id USING ERRCODE = 'serialization_failure';
END $$;

-- Raises what is wrong with a journal that does not balance.
CREATE FUNCTION ledger_raise_unbalanced(p_journal_id bigint) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    v_sums text;
    v_sum  numeric;
BEGIN
    SELECT string_agg(total || ' ' || unit, ', '), sum(total) INTO v_sums, v_sum
    FROM (SELECT a.unit, sum(e.amount) AS total FROM entries e JOIN accounts a ON a.id = e.account_id
          WHERE e.journal_id = p_journal_id GROUP BY a.unit) t WHERE total <> 0;
    IF v_sum = 0 THEN
        RAISE EXCEPTION 'journal % balances only across units: %', p_journal_id, v_sums USING ERRCODE = 'LG002';
    END IF;
    RAISE EXCEPTION 'journal % does not sum to zero: %', p_journal_id, v_sums USING ERRCODE = 'LG001';
END $$;

-- Applies new entries to their accounts, whoever inserted them, and refuses entries that do not continue their accounts
-- or complete journals that do not balance.
--
-- The new entries are read in four passes and joined with nothing but accounts and journals found by their keys.
CREATE FUNCTION ledger_guard_entries() RETURNS trigger
LANGUAGE plpgsql SET search_path FROM CURRENT SET plan_cache_mode = force_generic_plan SET enable_nestloop = off SET enable_seqscan = off
SET jit = off SET work_mem = '64MB' AS $$
DECLARE
    v_accounts  bigint[] := ARRAY(SELECT account_id FROM fresh_entries GROUP BY account_id);
    v_journals  bigint[];
    v_moved     bigint;
    v_units     account_unit[];
    v_wrong     bigint;
    v_foreign   bigint;
    v_skewed    bigint;
    v_whole     bigint;
    v_text      text;
BEGIN
    IF cardinality(v_accounts) = 0 THEN
        RETURN NULL;
    END IF;

    -- Each entry takes its account from the version and balance before it to the next, and the first one from the account's own.
    WITH step AS (
        SELECT account_id, journal_id, amount, balance_after, version,
               lag(version) OVER w AS version_before, lag(balance_after) OVER w AS balance_before
        FROM fresh_entries WINDOW w AS (PARTITION BY account_id ORDER BY journal_id)
    ), move AS MATERIALIZED (
        SELECT account_id, min(version) - 1 AS version_before, max(version) AS version,
               max(balance_after - amount) FILTER (WHERE version_before IS NULL) AS balance_before_debit,
               max(balance_after + amount) FILTER (WHERE version_before IS NULL) AS balance_before_credit,
               bool_and(balance_after - balance_before = amount) IS NOT FALSE AS debits_add,
               bool_and(balance_before - balance_after = amount) IS NOT FALSE AS credits_add,
               bool_and(version = version_before + 1) IS NOT FALSE AS gapless,
               sum(amount)::bigint AS amount, min(balance_after) AS lowest,
               min(journal_id) AS first_journal_id, max(journal_id) AS last_journal_id
        FROM step GROUP BY account_id
    ), moved AS (
        UPDATE accounts a
        SET balance = a.balance + m.amount * ledger_normal_side(a.type), version = m.version, last_journal_id = m.last_journal_id
        FROM move m
        WHERE a.id = ANY (v_accounts) AND a.id = m.account_id AND a.version = m.version_before AND m.gapless
          AND CASE ledger_normal_side(a.type)
                  WHEN 1 THEN m.debits_add AND a.balance = m.balance_before_debit
                  ELSE m.credits_add AND a.balance = m.balance_before_credit END
          AND a.status = 'open' AND (m.lowest >= 0 OR NOT a.non_negative) AND m.first_journal_id > a.last_journal_id
        RETURNING a.unit
    )
    SELECT sum(accounts), array_agg(unit) INTO v_moved, v_units FROM (SELECT unit, count(*) AS accounts FROM moved GROUP BY unit) t;
    IF v_moved IS DISTINCT FROM cardinality(v_accounts) THEN
        -- Which one: the first whose newest entry the accounts do not show.
        SELECT f.account_id INTO v_wrong
        FROM fresh_entries f LEFT JOIN accounts a ON a.id = f.account_id
        GROUP BY f.account_id, a.version, a.last_journal_id
        HAVING a.version IS DISTINCT FROM max(f.version) OR a.last_journal_id IS DISTINCT FROM max(f.journal_id)
        ORDER BY min(f.journal_id), f.account_id LIMIT 1;
        PERFORM ledger_raise_wrong_entry(v_wrong, array_agg(journal_id ORDER BY journal_id), array_agg(amount ORDER BY journal_id),
                                         array_agg(balance_after ORDER BY journal_id), array_agg(version ORDER BY journal_id))
        FROM fresh_entries WHERE account_id = v_wrong;
    END IF;

    -- A journal whose entries are all here balances here and now; the others are counted at commit. Where all accounts
    -- count one unit, the sum of a journal says it all; else each unit's.
    v_journals := ARRAY(SELECT journal_id FROM fresh_entries GROUP BY journal_id ORDER BY journal_id);
    WITH by_journal AS (
        SELECT journal_id, sum(amount) = 0 AS balanced, count(*) AS entry_count FROM fresh_entries GROUP BY journal_id
    ), made AS MATERIALIZED (
        SELECT id, entry_count, ledger_journal_line(id, idempotency_key, type, entry_count, details) AS line
        FROM journals
        WHERE id = ANY (v_journals) AND id BETWEEN v_journals[1] AND v_journals[cardinality(v_journals)] AND tx = pg_current_xact_id()
    )
    SELECT min(b.journal_id) FILTER (WHERE m.id IS NULL OR b.entry_count > m.entry_count),
           min(b.journal_id) FILTER (WHERE b.entry_count = m.entry_count AND NOT b.balanced),
           count(*) FILTER (WHERE b.entry_count = m.entry_count),
           string_agg(m.line, '' ORDER BY m.id)
    INTO v_foreign, v_skewed, v_whole, v_text
    FROM by_journal b LEFT JOIN made m ON m.id = b.journal_id;
    IF v_foreign IS NOT NULL THEN
        RAISE EXCEPTION 'journal % takes no more entries: it is complete, or not of this transaction', v_foreign USING ERRCODE = 'LG012';
    ELSIF v_skewed IS NULL AND v_whole = cardinality(v_journals) AND cardinality(v_units) > 1 THEN
        SELECT min(journal_id) INTO v_skewed
        FROM (SELECT f.journal_id FROM fresh_entries f JOIN (SELECT id, unit FROM accounts WHERE id = ANY (v_accounts)) a ON a.id = f.account_id
              GROUP BY f.journal_id, a.unit HAVING sum(f.amount) <> 0) t;
    END IF;
    IF v_skewed IS NOT NULL THEN
        PERFORM ledger_raise_unbalanced(v_skewed);
    ELSIF v_whole < cardinality(v_journals) THEN
        -- By hand: all journals of the statement wait for commit, there to be checked and audited one by one.
        INSERT INTO journals_unfinished (journal_id) SELECT unnest(v_journals) ON CONFLICT DO NOTHING;
    ELSE
        v_text := v_text || (SELECT string_agg(ledger_entry_line(journal_id, account_id, amount, balance_after, version), ''
                                               ORDER BY journal_id, account_id) FROM fresh_entries);
        PERFORM ledger_audit_append(ledger_actor(), 'post', '', '{}', v_journals, sha256(convert_to(v_text, 'UTF8')));
    END IF;
    RETURN NULL;
END $$;

CREATE FUNCTION ledger_actor() RETURNS text
LANGUAGE sql STABLE AS
$$ SELECT coalesce(nullif(current_setting('ledger.actor', true), ''), session_user::text) $$;
COMMENT ON FUNCTION ledger_actor IS 'Who posts, as ledger_post was told; by hand, the database user.';

-- What a journal written by hand, statement by statement, must be when its transaction commits.
CREATE FUNCTION ledger_finish_journal() RETURNS trigger
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    v_journal journals;
    v_count   bigint;
    v_even    boolean;
    v_text    text;
BEGIN
    SELECT * INTO STRICT v_journal FROM journals WHERE id = NEW.journal_id;
    SELECT coalesce(sum(entry_count), 0), coalesce(bool_and(total = 0), false) INTO v_count, v_even
    FROM (SELECT sum(e.amount) AS total, count(*) AS entry_count
          FROM entries e JOIN accounts a ON a.id = e.account_id WHERE e.journal_id = NEW.journal_id GROUP BY a.unit) t;
    IF v_count < 2 OR v_count <> coalesce(v_journal.entry_count, v_count) THEN
        RAISE EXCEPTION 'journal % has % entries', NEW.journal_id, v_count USING ERRCODE = 'LG001';
    ELSIF NOT v_even THEN
        PERFORM ledger_raise_unbalanced(NEW.journal_id);
    END IF;
    v_text := ledger_journal_line(v_journal.id, v_journal.idempotency_key, v_journal.type, v_journal.entry_count, v_journal.details)
        || (SELECT string_agg(ledger_entry_line(journal_id, account_id, amount, balance_after, version), '' ORDER BY account_id)
            FROM entries WHERE journal_id = NEW.journal_id);
    PERFORM ledger_audit_append(ledger_actor(), 'post', '', '{}', ARRAY[NEW.journal_id], sha256(convert_to(v_text, 'UTF8')));
    DELETE FROM journals_unfinished WHERE journal_id = NEW.journal_id;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER unfinished_guard AFTER INSERT ON journals_unfinished DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION ledger_finish_journal();

CREATE TRIGGER entries_fill BEFORE INSERT ON entries FOR EACH ROW
    WHEN (NEW.version IS NULL OR NEW.balance_after IS NULL) EXECUTE FUNCTION ledger_fill_entry();

-- Statement triggers of a partitioned table do not fire for statements that name a partition: each partition has its own.
CREATE FUNCTION ledger_guard_table(p_table regclass, p_like text) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    EXECUTE format('CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON %s FOR EACH STATEMENT EXECUTE FUNCTION ledger_append_only()', p_table);
    EXECUTE format('CREATE TRIGGER guard AFTER INSERT ON %s REFERENCING NEW TABLE AS fresh_%s FOR EACH STATEMENT EXECUTE FUNCTION ledger_guard_%s()',
                   p_table, p_like, p_like);
END $$;
SELECT ledger_guard_table('journals', 'journals'), ledger_guard_table('entries', 'entries');

-- An account's owner is worth what it holds, and no entry names it: what an account is goes into the audit log when it is made,
-- and again when it is closed or opened.
CREATE FUNCTION ledger_audit_accounts() RETURNS trigger
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    v_accounts jsonb;
BEGIN
    IF TG_OP = 'UPDATE' THEN
        v_accounts := jsonb_build_array(ledger_account_line(
            NEW.id, NEW.owner_id, NEW.kind, NEW.type, NEW.unit, NEW.non_negative, NEW.created_at, NEW.status));
        PERFORM ledger_audit_append(ledger_actor(), 'accounts', '', jsonb_build_object('accounts', v_accounts), NULL, NULL);
        RETURN NULL;
    END IF;
    -- A row each 10,000: a statement may make any number.
    FOR v_accounts IN
        SELECT jsonb_agg(ledger_account_line(id, owner_id, kind, type, unit, non_negative, created_at, status) ORDER BY id)
        FROM (SELECT *, (row_number() OVER (ORDER BY id) - 1) / 10000 AS part FROM fresh_accounts) fresh GROUP BY part ORDER BY part
    LOOP
        PERFORM ledger_audit_append(ledger_actor(), 'accounts', '', jsonb_build_object('accounts', v_accounts), NULL, NULL);
    END LOOP;
    RETURN NULL;
END $$;
CREATE TRIGGER accounts_audit_insert AFTER INSERT ON accounts REFERENCING NEW TABLE AS fresh_accounts
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_audit_accounts();
CREATE TRIGGER accounts_audit_status AFTER UPDATE OF status ON accounts FOR EACH ROW
    WHEN (OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION ledger_audit_accounts();

INSERT INTO accounts (type, unit, non_negative, owner_id, kind)
SELECT type, unit, non_negative, NULL, kind FROM account_kinds WHERE NOT owned ORDER BY kind;
