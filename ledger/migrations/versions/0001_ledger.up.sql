-- The double-entry ledger: accounts, journals, entries, and the audit log.
--
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
--
-- Time and ids: a journal's id is (milliseconds since 2020-01-01) << 22 | sequence, made while the accounts' locks are
-- held and never below an account's last id. So ids are ordered by time, entries of one account are ordered by journal_id
-- as they are by version, and both big tables are partitioned by month on the id alone: the primary keys stay (id) and
-- (journal_id, account_id).

CREATE TYPE account_type AS ENUM ('asset', 'liability', 'equity', 'revenue', 'expense');
CREATE TYPE transaction_type AS ENUM ('purchase', 'call_debit', 'call_refund', 'grant', 'refund', 'dispute', 'dispute_reversal', 'adjustment');
CREATE TYPE account_unit AS ENUM ('TOKEN', 'USD_CENT');
CREATE TYPE account_status AS ENUM ('open', 'closed');

-- Journal ids ---------------------------------------------------------------------------------------------------------

-- The low 22 bits of a journal's id. It wraps: two ids can only meet if the clock is set back by the time 4 million
-- journals take, and then the primary key refuses the second.
CREATE SEQUENCE journal_id_low AS bigint MINVALUE 0 MAXVALUE 4194303 START 0 CYCLE;

CREATE FUNCTION ledger_id_at(p_at timestamptz) RETURNS bigint
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS
$$ SELECT (floor(extract(epoch FROM p_at) * 1000)::bigint - 1577836800000) << 22 $$;
COMMENT ON FUNCTION ledger_id_at IS 'The least journal id of the millisecond p_at lies in: ids below it are older.';

CREATE FUNCTION ledger_time(p_journal_id bigint) RETURNS timestamptz
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS
$$ SELECT to_timestamp((((p_journal_id >> 22) + 1577836800000) / 1000.0)::double precision) $$;

CREATE FUNCTION ledger_next_journal_id() RETURNS bigint
LANGUAGE sql VOLATILE AS
$$ SELECT ledger_id_at(clock_timestamp()) | nextval('journal_id_low') $$;

-- Outside, a journal is a UUID of version 7 (RFC 9562) made from its id and turned back into it: time-ordered, not stored.
CREATE FUNCTION ledger_public_id(p_journal_id bigint) RETURNS uuid
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS
$$ SELECT (lpad(to_hex((p_journal_id >> 22) + 1577836800000), 12, '0')
           || '7' || lpad(to_hex((p_journal_id >> 10) & 4095), 3, '0')
           || to_hex(8 | (p_journal_id >> 8 & 3)) || lpad(to_hex(p_journal_id & 255), 2, '0')
           || left(md5('journal ' || p_journal_id), 13))::uuid $$;

CREATE FUNCTION ledger_journal_id(p_public_id uuid) RETURNS bigint
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS
$$ SELECT CASE WHEN ledger_public_id(v.id) = p_public_id THEN v.id END
   FROM (SELECT replace(p_public_id::text, '-', '') AS hex) h,
   LATERAL (SELECT ((('x' || lpad(left(hex, 12), 16, '0'))::bit(64)::bigint - 1577836800000) << 22)
                 | (('x' || substr(hex, 14, 3))::bit(12)::int::bigint << 10)
                 | ((('x' || substr(hex, 17, 3))::bit(12)::int & 1023)::bigint) AS id) v
   -- An id from outside may be any UUID: one whose time no journal can have is nobody's.
   WHERE left(hex, 12) BETWEEN '016f5e66e800' AND '036f5e66e7ff' $$;
COMMENT ON FUNCTION ledger_journal_id IS 'The journal id a public id stands for; NULL for a UUID no journal has.';

-- Accounts ------------------------------------------------------------------------------------------------------------

-- The chart of accounts: what an account of each kind is. New kinds come by migration.
CREATE TABLE account_kinds (
    kind         text COLLATE "C" PRIMARY KEY,
    type         account_type NOT NULL,
    unit         account_unit NOT NULL,
    owned        boolean NOT NULL,  -- one for each owner, or one for the platform
    non_negative boolean NOT NULL,
    purpose      text NOT NULL
);
INSERT INTO account_kinds (kind, type, unit, owned, non_negative, purpose) VALUES
    ('wallet',           'liability', 'TOKEN',    true,  true,  'tokens a user can spend'),
    ('earnings',         'liability', 'TOKEN',    true,  true,  'what a user''s answered calls brought'),
    ('receivable',       'asset',     'TOKEN',    true,  false, 'tokens a user owes: refunded or disputed after they were spent'),
    ('platform_revenue', 'revenue',   'TOKEN',    false, false, 'the platform''s share of calls'),
    ('granted_tokens',   'expense',   'TOKEN',    false, false, 'tokens given away'),
    ('tokens_issued',    'asset',     'TOKEN',    false, false, 'counter-leg of tokens sold: mirrors token_sales in the other unit'),
    ('stripe_clearing',  'asset',     'USD_CENT', false, false, 'money at the payment provider'),
    ('token_sales',      'liability', 'USD_CENT', false, false, 'money taken for tokens: owed in service until they are spent'),
    ('stripe_losses',    'expense',   'USD_CENT', false, false, 'dispute fees and other losses at the payment provider');

-- Rows are updated for ever and never grow: half of each page stays free, so that updates stay on their page and touch no
-- index (HOT); none of the changing columns is indexed.
CREATE TABLE accounts (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    balance         bigint NOT NULL DEFAULT 0,
    version         bigint NOT NULL DEFAULT 0,
    last_journal_id bigint NOT NULL DEFAULT 0,
    created_at      timestamptz NOT NULL DEFAULT now(),
    type            account_type NOT NULL,
    unit            account_unit NOT NULL,
    status          account_status NOT NULL DEFAULT 'open',
    non_negative    boolean NOT NULL DEFAULT false,
    owner_id        text COLLATE "C" CHECK (length(owner_id) BETWEEN 1 AND 128),
    kind            text COLLATE "C" NOT NULL REFERENCES account_kinds,
    -- Who asks for an owner's accounts finds them here, and two that make them at once make them once.
    CONSTRAINT accounts_owner_kind_unit UNIQUE NULLS NOT DISTINCT (owner_id, kind, unit),
    CONSTRAINT accounts_not_below_zero CHECK (balance >= 0 OR NOT non_negative),
    CONSTRAINT accounts_wallets_not_below_zero CHECK (balance >= 0 OR kind NOT IN ('wallet', 'earnings')),
    -- 2^53 - 1: every balance is exact as a JSON number, and sums of balances stay far inside bigint.
    CONSTRAINT accounts_balance_range CHECK (balance BETWEEN -9007199254740991 AND 9007199254740991),
    CONSTRAINT accounts_closed_empty CHECK (status = 'open' OR balance = 0)
) WITH (fillfactor = 50);
COMMENT ON COLUMN accounts.balance IS 'Sum of the entries'' amounts, turned to the normal side: debit for asset and expense, credit for the rest.';
COMMENT ON COLUMN accounts.version IS 'Number of entries.';
COMMENT ON COLUMN accounts.last_journal_id IS 'The journal of the newest entry; journal ids of an account only grow.';

-- Not STRICT: a CASE is not, and PostgreSQL puts a strict function into the calling query only if its body is.
CREATE FUNCTION ledger_normal_side(p_type account_type) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT CASE WHEN p_type IN ('asset', 'expense') THEN 1 ELSE -1 END::bigint $$;
COMMENT ON FUNCTION ledger_normal_side IS '1 where debits raise the balance, -1 where credits do.';

-- Journals and entries ------------------------------------------------------------------------------------------------

CREATE TABLE journals (
    id              bigint NOT NULL DEFAULT ledger_next_journal_id(),
    created_at      timestamptz NOT NULL GENERATED ALWAYS AS (to_timestamp((((id >> 22) + 1577836800000) / 1000.0)::double precision)) STORED,
    tx              xid8 NOT NULL DEFAULT pg_current_xact_id(),  -- entries may join only in the transaction that made the journal
    type            transaction_type NOT NULL,
    entry_count     smallint CHECK (entry_count >= 2),           -- NULL: entries come one by one and are counted at commit
    idempotency_key text COLLATE "C" NOT NULL CHECK (length(idempotency_key) BETWEEN 1 AND 255),
    content_hash    bytea,                                       -- of type, details and entries: tells a repeat from a reused key
    details         jsonb NOT NULL DEFAULT '{}',
    PRIMARY KEY (id),
    CONSTRAINT journals_whole_are_hashed CHECK ((entry_count IS NULL) = (content_hash IS NULL))
) PARTITION BY RANGE (id);

CREATE TABLE entries (
    journal_id    bigint NOT NULL,
    account_id    bigint NOT NULL,
    amount        bigint NOT NULL CHECK (amount <> 0 AND amount BETWEEN -9007199254740991 AND 9007199254740991),
    balance_after bigint NOT NULL,  -- on the account's normal side
    version       bigint NOT NULL,
    PRIMARY KEY (journal_id, account_id)  -- a journal's entries; written in ascending order, at the index's right edge
) PARTITION BY RANGE (journal_id);
-- An account's history by keyset, and its balance at any time in one probe.
CREATE UNIQUE INDEX entries_account_journal ON entries (account_id, journal_id);
COMMENT ON COLUMN entries.amount IS 'Signed: debit positive, credit negative.';

-- The authority on idempotency, never partitioned: journals may be detached by month and their keys still refuse a repeat.
CREATE TABLE journal_keys (
    idempotency_key text COLLATE "C" PRIMARY KEY,
    journal_id      bigint NOT NULL,
    content_hash    bytea
);

-- Journals made in the running transaction whose entries are not all there. Empty whenever nobody is posting by hand.
CREATE TABLE journals_unfinished (journal_id bigint PRIMARY KEY);

-- Audit log -----------------------------------------------------------------------------------------------------------

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

-- Guards --------------------------------------------------------------------------------------------------------------

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

-- Partitions ----------------------------------------------------------------------------------------------------------

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

-- Finding and making accounts -----------------------------------------------------------------------------------------

CREATE FUNCTION ledger_platform_account(p_kind text) RETURNS bigint
LANGUAGE sql STABLE STRICT PARALLEL SAFE
AS $$ SELECT id FROM accounts WHERE owner_id IS NULL AND kind = p_kind $$;

CREATE FUNCTION ledger_ensure_accounts(p_owners text[], p_kinds text[]) RETURNS bigint[]
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    v_ids     bigint[];
    v_unknown text;
BEGIN
    FOR attempt IN 1 .. 2 LOOP
        SELECT array_agg(a.id ORDER BY w.ord) INTO v_ids
        FROM unnest(p_owners, p_kinds) WITH ORDINALITY AS w(owner_id, kind, ord)
        LEFT JOIN (SELECT id, owner_id, kind FROM accounts WHERE owner_id = ANY (p_owners)) a USING (owner_id, kind);
        EXIT WHEN array_position(v_ids, NULL) IS NULL;
        SELECT w.kind INTO v_unknown FROM unnest(p_kinds) AS w(kind)
        WHERE NOT EXISTS (SELECT FROM account_kinds k WHERE k.kind = w.kind AND k.owned) LIMIT 1;
        IF FOUND OR attempt = 2 THEN
            RAISE EXCEPTION 'no account of kind % for an owner', v_unknown USING ERRCODE = 'LG013';
        END IF;
        -- In one order, and yielding to whoever makes the same account at the same time.
        INSERT INTO accounts (type, unit, non_negative, owner_id, kind)
        SELECT k.type, k.unit, k.non_negative, w.owner_id, k.kind
        FROM (SELECT DISTINCT owner_id, kind FROM unnest(p_owners, p_kinds) AS u(owner_id, kind)) w JOIN account_kinds k USING (kind)
        ORDER BY w.owner_id, w.kind
        ON CONFLICT ON CONSTRAINT accounts_owner_kind_unit DO NOTHING;
    END LOOP;
    RETURN coalesce(v_ids, '{}');
END $$;
COMMENT ON FUNCTION ledger_ensure_accounts IS 'The accounts of p_owners[i], p_kinds[i], made where missing; ids in the order asked. LG013 for a kind owners do not have.';

-- Posting -------------------------------------------------------------------------------------------------------------

-- Posts a batch of journals as if one by one in the order given, and answers each with an outcome, in order:
--   posted              written
--   duplicate           this key was posted with the same content: journal_id, balances and versions are the original's
--   key_reused          this key was posted with other content
--   invalid_journal     fewer than 2 or more than 1,000 legs, an account twice, no type, a key not of 1 to 255 characters
--   invalid_amount      zero, missing or beyond ±(2^53 - 1), or it would take a balance there
--   unknown_account, closed_account
--   mixed_units         sums to zero only across units
--   unbalanced          does not sum to zero
--   insufficient_funds  would take an account that may not below zero
-- tested in this order; the first that holds is the answer. Only posted journals are written; the others change nothing.
--
-- p_leg_journals[l] says which journal leg l belongs to (1 = p_keys[1]); p_leg_amounts: debit positive, credit negative.
-- accounts, balances and versions are parallel to the journal's legs as given, with the values after this journal (refused:
-- the values it found).
--
-- How: lock the accounts in id order, look up the keys, then decide and add up in plpgsql's own arrays, which touches no
-- table, and write all rows with one INSERT each. No statement joins the batch to itself, so there is no plan to turn bad.
-- A journal is first added up as if nothing were wrong with it, in few steps; only one that shows anything odd is taken
-- back and asked what.
-- Transactions that call this once cannot deadlock: accounts in id order, then keys in key order, then a free audit head.
CREATE FUNCTION ledger_post(
    p_keys text[], p_types transaction_type[], p_details jsonb[], p_leg_journals int[], p_leg_accounts bigint[], p_leg_amounts bigint[],
    p_actor text
) RETURNS TABLE (ordinal int, outcome text, journal_id bigint, accounts bigint[], balances bigint[], versions bigint[])
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT SET plan_cache_mode = force_generic_plan SET enable_nestloop = off
SET enable_seqscan = off SET jit = off SET work_mem = '64MB' AS $$
#variable_conflict use_column
DECLARE
    c_most   CONSTANT bigint := 9007199254740991;
    c_units  CONSTANT account_unit[] := enum_range(NULL::account_unit);
    c_zeros  CONSTANT bigint[] := array_fill(0::bigint, ARRAY[cardinality(c_units)]);
    v_count  int := cardinality(p_keys);
    v_legs   int := cardinality(p_leg_journals);
    -- The accounts, in id order. a_least: what the balance may not go below; NULL if the account is closed.
    a_id bigint[]; a_balance bigint[]; a_version bigint[]; a_side bigint[]; a_unit int[]; a_least bigint[];
    v_last   bigint;
    -- The legs, by journal and account. l_slot: where their account is in the arrays above; l_place: where they were given;
    -- l_change: by what they change the balance, NULL for no possible amount; l_text: how they stand in the content hash.
    l_journal int[]; l_account bigint[]; l_amount bigint[]; l_slot int[]; l_place bigint[]; l_change bigint[]; l_text text[];
    l_balance bigint[]; l_version bigint[];
    -- The journals. k_: what their keys stand for already. If keys repeat, k_group: the first journal with the same key, and
    -- k_from: where the legs of the one posted begin. j_id: 0 for those not posted here.
    k_journal bigint[]; k_hash bytea[]; k_group int[]; k_from int[]; v_known boolean; v_repeats boolean;
    j_id bigint[]; j_given bigint[]; j_hash bytea[]; j_legs smallint[]; j_outcome text[]; j_answer bigint[];
    v_posted int := 0;
    d_balance bigint[]; d_version bigint[];
    v_from int; l int := 1; v_slot int; v_before_slot int; v_amount bigint; v_balance bigint; v_before bigint; v_sums bigint[];
    v_sum bigint; v_unit int; v_total bigint; v_text text; v_outcome text; v_odd boolean; v_fits boolean; v_original int;
    v_bad_shape boolean; v_bad_amount boolean; v_unknown boolean; v_closed boolean; v_short boolean; v_over boolean;
BEGIN
    IF v_count IS DISTINCT FROM cardinality(p_types) OR v_count IS DISTINCT FROM cardinality(p_details)
       OR v_legs IS DISTINCT FROM cardinality(p_leg_accounts) OR v_legs IS DISTINCT FROM cardinality(p_leg_amounts) THEN
        RAISE EXCEPTION 'ledger_post: the arrays do not fit each other' USING ERRCODE = 'invalid_parameter_value';
    END IF;

    SELECT array_agg(id), array_agg(balance), array_agg(version), array_agg(side), array_agg(unit_no), array_agg(least),
           coalesce(max(last_journal_id), 0)
    INTO a_id, a_balance, a_version, a_side, a_unit, a_least, v_last
    FROM (SELECT id, balance, version, ledger_normal_side(type) AS side, array_position(c_units, unit) AS unit_no,
                 CASE WHEN status = 'open' THEN CASE WHEN non_negative THEN 0 ELSE -c_most END END AS least, last_journal_id
          FROM accounts WHERE id = ANY (p_leg_accounts) ORDER BY id FOR NO KEY UPDATE) held;

    SELECT array_agg(journal), array_agg(account), array_agg(amount), array_agg(slot), array_agg(ord), array_agg(change), array_agg(text),
           bool_and(journal BETWEEN 1 AND v_count) AND count(journal) = v_legs
    INTO l_journal, l_account, l_amount, l_slot, l_place, l_change, l_text, v_fits
    FROM (SELECT t.journal, t.account, t.amount, s.slot, t.ord,
                 CASE WHEN t.amount <> 0 AND t.amount BETWEEN -c_most AND c_most THEN t.amount * s.side END AS change,
                 ' ' || coalesce(t.account, 0)::text || ':' || coalesce(t.amount, 0)::text AS text
          FROM unnest(p_leg_journals, p_leg_accounts, p_leg_amounts) WITH ORDINALITY AS t(journal, account, amount, ord)
          LEFT JOIN unnest(a_id, a_side) WITH ORDINALITY AS s(account, side, slot) ON s.account = t.account
          ORDER BY t.journal, t.account) leg;
    IF NOT v_fits THEN
        RAISE EXCEPTION 'ledger_post: a leg is of no journal of the batch' USING ERRCODE = 'invalid_parameter_value';
    END IF;

    SELECT array_agg(known.journal_id ORDER BY given.ord), array_agg(known.content_hash ORDER BY given.ord), count(known.journal_id) > 0,
           count(given.key) > count(DISTINCT given.key)
    INTO k_journal, k_hash, v_known, v_repeats
    FROM unnest(p_keys) WITH ORDINALITY AS given(key, ord)
    LEFT JOIN (SELECT idempotency_key, journal_id, content_hash FROM journal_keys WHERE idempotency_key = ANY (p_keys)) known
           ON known.idempotency_key = given.key;
    IF v_repeats THEN
        SELECT array_agg(first ORDER BY ord) INTO k_group
        FROM (SELECT ord, min(ord) OVER (PARTITION BY key) AS first FROM unnest(p_keys) WITH ORDINALITY AS t(key, ord)) same;
    END IF;

    -- Ids in time order, above all that these accounts have; taken again if the sequence wraps between them.
    LOOP
        j_given := ARRAY(SELECT nextval('journal_id_low') FROM generate_series(1, v_count));
        EXIT WHEN v_count = 0 OR j_given[1] <= j_given[v_count];
    END LOOP;
    v_before := greatest(ledger_id_at(clock_timestamp()), v_last >> 22 << 22);
    IF v_before | j_given[1] <= v_last THEN
        v_before := ((v_last >> 22) + 1) << 22;
    END IF;

    j_id := array_fill(0::bigint, ARRAY[v_count]);
    j_hash := array_fill(NULL::bytea, ARRAY[v_count]);
    j_legs := array_fill(NULL::smallint, ARRAY[v_count]);
    j_outcome := array_fill('posted'::text, ARRAY[v_count]);
    j_answer := array_fill(NULL::bigint, ARRAY[v_count]);
    k_from := array_fill(NULL::int, ARRAY[v_count]);
    l_balance := array_fill(NULL::bigint, ARRAY[v_legs]);
    l_version := l_balance;

    FOR i IN 1 .. v_count LOOP
        v_from := l;
        v_sum := 0;
        v_unit := NULL;
        v_before_slot := NULL;
        v_text := p_types[i] || ' ' || coalesce(p_details[i], '{}');
        v_odd := false;
        WHILE l <= v_legs AND l_journal[l] = i LOOP
            v_text := v_text || l_text[l];
            v_slot := l_slot[l];
            v_balance := a_balance[v_slot] + l_change[l];
            IF (v_balance BETWEEN a_least[v_slot] AND c_most AND v_slot IS DISTINCT FROM v_before_slot
                AND a_unit[v_slot] = coalesce(v_unit, a_unit[v_slot]) AND l - v_from < 1000) IS NOT TRUE THEN
                v_odd := true;
            ELSIF NOT v_odd THEN
                v_sum := v_sum + l_amount[l];
                v_unit := a_unit[v_slot];
                v_before_slot := v_slot;
                l_balance[l] := v_balance;
            END IF;
            l := l + 1;
        END LOOP;
        j_hash[i] := sha256(convert_to(v_text, 'UTF8'));

        IF v_odd OR v_sum <> 0 OR v_known OR v_repeats OR v_text IS NULL OR l - v_from NOT BETWEEN 2 AND 1000
           OR (length(p_keys[i]) BETWEEN 1 AND 255) IS NOT TRUE THEN
            -- Not plainly in order: the tests, in the order of the outcomes.
            IF v_repeats AND k_journal[k_group[i]] IS NOT NULL AND k_journal[i] IS NULL THEN
                k_journal[i] := k_journal[k_group[i]];
                k_hash[i] := k_hash[k_group[i]];
                v_known := true;
            END IF;
            v_sums := c_zeros;
            v_bad_shape := v_text IS NULL OR l - v_from NOT BETWEEN 2 AND 1000 OR (length(p_keys[i]) BETWEEN 1 AND 255) IS NOT TRUE;
            v_bad_amount := false;
            v_unknown := false;
            v_closed := false;
            v_short := false;
            v_over := false;
            FOR k IN v_from .. l - 1 LOOP
                v_slot := l_slot[k];
                IF v_slot IS NULL THEN
                    v_unknown := true;
                ELSE
                    v_closed := v_closed OR a_least[v_slot] IS NULL;
                    v_bad_shape := v_bad_shape OR (k > v_from AND v_slot IS NOT DISTINCT FROM l_slot[k - 1]);
                    IF l_change[k] IS NOT NULL AND k - v_from < 1000 THEN  -- a thousand cannot overflow the sums
                        v_sums[a_unit[v_slot]] := v_sums[a_unit[v_slot]] + l_amount[k];
                        l_balance[k] := a_balance[v_slot] + l_change[k];
                        v_short := v_short OR (l_balance[k] < 0 AND a_least[v_slot] = 0);
                        v_over := v_over OR (l_balance[k] NOT BETWEEN -c_most AND c_most AND NOT (l_balance[k] < 0 AND a_least[v_slot] = 0));
                    END IF;
                END IF;
                v_bad_amount := v_bad_amount OR (l_amount[k] <> 0 AND l_amount[k] BETWEEN -c_most AND c_most) IS NOT TRUE;
            END LOOP;
            v_total := 0;
            FOREACH v_amount IN ARRAY v_sums LOOP
                v_total := v_total + v_amount;
            END LOOP;
            v_outcome := CASE
                WHEN k_journal[i] IS NOT NULL AND k_hash[i] = j_hash[i] THEN 'duplicate'
                WHEN k_journal[i] IS NOT NULL THEN 'key_reused'
                WHEN v_bad_shape THEN 'invalid_journal'
                WHEN v_bad_amount THEN 'invalid_amount'
                WHEN v_unknown THEN 'unknown_account'
                WHEN v_closed THEN 'closed_account'
                WHEN v_sums <> c_zeros AND v_total = 0 THEN 'mixed_units'
                WHEN v_sums <> c_zeros THEN 'unbalanced'
                WHEN v_over THEN 'invalid_amount'
                WHEN v_short THEN 'insufficient_funds'
                ELSE 'posted' END;
            IF v_outcome <> 'posted' THEN
                j_outcome[i] := v_outcome;
                d_balance := NULL;
                IF v_outcome = 'duplicate' THEN
                    j_answer[i] := k_journal[i];
                    -- A repeat answers what the original did: same content, so the same accounts in the same order.
                    v_original := CASE WHEN v_repeats THEN k_from[k_group[i]] END;
                    IF v_original IS NULL THEN
                        SELECT array_agg(e.balance_after ORDER BY e.account_id), array_agg(e.version ORDER BY e.account_id)
                        INTO d_balance, d_version FROM entries e WHERE e.journal_id = k_journal[i];
                    END IF;
                END IF;
                FOR k IN v_from .. l - 1 LOOP
                    IF v_outcome <> 'duplicate' THEN
                        l_balance[k] := a_balance[l_slot[k]];
                        l_version[k] := a_version[l_slot[k]];
                    ELSIF v_original IS NULL THEN
                        l_balance[k] := d_balance[k - v_from + 1];
                        l_version[k] := d_version[k - v_from + 1];
                    ELSE
                        l_balance[k] := l_balance[v_original + k - v_from];
                        l_version[k] := l_version[v_original + k - v_from];
                    END IF;
                END LOOP;
                CONTINUE;
            END IF;
        END IF;

        -- Past this point the journal is certain.
        v_posted := v_posted + 1;
        j_id[i] := v_before | j_given[i];
        j_answer[i] := j_id[i];
        j_legs[i] := l - v_from;
        IF v_repeats THEN
            k_journal[k_group[i]] := j_id[i];
            k_hash[k_group[i]] := j_hash[i];
            k_from[k_group[i]] := v_from;
        END IF;
        FOR k IN v_from .. l - 1 LOOP
            v_slot := l_slot[k];
            a_balance[v_slot] := l_balance[k];
            a_version[v_slot] := a_version[v_slot] + 1;
            l_version[k] := a_version[v_slot];
        END LOOP;
    END LOOP;

    IF v_posted > 0 THEN
        v_text := set_config('ledger.actor', p_actor, true);
        INSERT INTO journals (id, type, idempotency_key, content_hash, details, entry_count)
        SELECT t.id, t.type, t.key, t.hash, coalesce(t.details, '{}'), t.legs
        FROM unnest(j_id, p_types, p_keys, j_hash, p_details, j_legs) AS t(id, type, key, hash, details, legs)
        WHERE t.id > 0;
        INSERT INTO entries (journal_id, account_id, amount, balance_after, version)
        SELECT j_id[t.journal], t.account, t.amount, t.balance, t.version
        FROM unnest(l_journal, l_account, l_amount, l_balance, l_version) AS t(journal, account, amount, balance, version)
        WHERE j_id[t.journal] > 0;
    END IF;

    RETURN QUERY
    SELECT j.ord::int, j.outcome, j.id, coalesce(a.accounts, '{}'), coalesce(a.balances, '{}'), coalesce(a.versions, '{}')
    FROM unnest(j_outcome, j_answer) WITH ORDINALITY AS j(outcome, id, ord)
    LEFT JOIN (SELECT t.journal, array_agg(t.account) AS accounts, array_agg(t.balance) AS balances, array_agg(t.version) AS versions
               FROM (SELECT * FROM unnest(l_journal, l_place, l_account, l_balance, l_version) AS u(journal, place, account, balance, version)
                     ORDER BY u.journal, u.place) t
               GROUP BY t.journal) a ON a.journal = j.ord
    ORDER BY j.ord;
END $$;

CREATE FUNCTION ledger_post_or_raise(
    p_keys text[], p_types transaction_type[], p_details jsonb[], p_leg_journals int[], p_leg_accounts bigint[], p_leg_amounts bigint[],
    p_actor text
) RETURNS TABLE (ordinal int, outcome text, journal_id bigint, accounts bigint[], balances bigint[], versions bigint[])
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT AS $$
BEGIN
    FOR ordinal, outcome, journal_id, accounts, balances, versions IN
        SELECT * FROM ledger_post(p_keys, p_types, p_details, p_leg_journals, p_leg_accounts, p_leg_amounts, p_actor)
    LOOP
        IF outcome NOT IN ('posted', 'duplicate') THEN
            RAISE EXCEPTION 'journal % of the batch refused: %', ordinal, outcome USING ERRCODE = CASE outcome
                WHEN 'unbalanced' THEN 'LG001'
                WHEN 'mixed_units' THEN 'LG002'
                WHEN 'invalid_amount' THEN 'LG003'
                WHEN 'invalid_journal' THEN 'LG004'
                WHEN 'unknown_account' THEN 'LG005'
                WHEN 'closed_account' THEN 'LG006'
                WHEN 'insufficient_funds' THEN 'LG007'
                WHEN 'key_reused' THEN 'LG008' END;
        END IF;
        RETURN NEXT;
    END LOOP;
END $$;
COMMENT ON FUNCTION ledger_post_or_raise IS 'As ledger_post, for who wants all of a batch or nothing: the first refusal is an error with a SQLSTATE of its own.';
