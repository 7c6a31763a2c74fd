-- Accounts: what kinds there are, what an account is, and finding and making them.

CREATE TYPE account_type AS ENUM ('asset', 'liability', 'equity', 'revenue', 'expense');
CREATE TYPE account_unit AS ENUM ('TOKEN', 'USD_CENT');
CREATE TYPE account_status AS ENUM ('open', 'closed');

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
