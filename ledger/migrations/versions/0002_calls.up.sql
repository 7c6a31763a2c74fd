-- Calls, who is in one, and the meter.
--
-- A call's terms (rate, fee, period, grace, rounding) are frozen into its row when it is made. The meter is the function
-- `bill_calls`: it bills every due call it can lock, in one statement of the client and one transaction, by the
-- database's clock, whoever calls it. The states follow realtime/domain/transitions.py; a trigger refuses any other move.

CREATE TYPE call_status AS ENUM ('ringing', 'active', 'ended');
CREATE TYPE call_end_reason AS ENUM (
    'hangup', 'declined', 'cancelled', 'missed', 'insufficient_funds', 'disconnected', 'failed'
);

-- The one clock of metering. Tests of jumping clocks replace it; nothing else reads the time.
CREATE FUNCTION meter_now() RETURNS timestamptz LANGUAGE sql VOLATILE AS 'SELECT clock_timestamp()';

CREATE TABLE user_rates (
    user_id text PRIMARY KEY CHECK (char_length(user_id) BETWEEN 1 AND 128),
    rate_tokens_per_period bigint NOT NULL CHECK (rate_tokens_per_period BETWEEN 1 AND 1000000),
    changed_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE calls (
    id uuid PRIMARY KEY,
    caller_id text NOT NULL CHECK (char_length(caller_id) BETWEEN 1 AND 128),
    callee_id text NOT NULL CHECK (char_length(callee_id) BETWEEN 1 AND 128),
    request_id text NOT NULL CHECK (char_length(request_id) BETWEEN 1 AND 128),
    status call_status NOT NULL DEFAULT 'ringing',
    -- frozen terms
    rate_tokens_per_period bigint NOT NULL CHECK (rate_tokens_per_period > 0),
    fee_tokens_per_period bigint NOT NULL,
    fee_percent smallint NOT NULL CHECK (fee_percent BETWEEN 0 AND 100),
    period_seconds integer NOT NULL CHECK (period_seconds > 0),
    grace_seconds integer NOT NULL CHECK (grace_seconds >= 0),
    refund_unused_seconds boolean NOT NULL,
    -- the ledger accounts it moves tokens between
    caller_wallet_id bigint NOT NULL,
    callee_earnings_id bigint NOT NULL,
    -- its course
    created_at timestamptz NOT NULL,
    ring_expires_at timestamptz NOT NULL,
    answered_by text,
    started_at timestamptz,
    paid_through timestamptz,
    ended_at timestamptz,
    end_reason call_end_reason,
    periods_billed integer NOT NULL DEFAULT 0,
    tokens_spent bigint NOT NULL DEFAULT 0,
    -- since when no tab of that side has been connected anywhere
    caller_absent_since timestamptz,
    callee_absent_since timestamptz,

    CONSTRAINT calls_not_with_oneself CHECK (caller_id <> callee_id),
    CONSTRAINT calls_one_per_request UNIQUE (caller_id, request_id),
    CONSTRAINT calls_fee_within_rate CHECK (fee_tokens_per_period BETWEEN 0 AND rate_tokens_per_period),
    CONSTRAINT calls_ended_says_why CHECK ((status = 'ended') = (end_reason IS NOT NULL)),
    CONSTRAINT calls_ended_says_when CHECK ((status = 'ended') = (ended_at IS NOT NULL)),
    CONSTRAINT calls_active_is_started CHECK (status <> 'active' OR started_at IS NOT NULL),
    CONSTRAINT calls_started_is_paid_up CHECK ((started_at IS NULL) = (paid_through IS NULL)),
    -- The clock of a call cannot advance without a debit, nor a debit without the clock.
    CONSTRAINT calls_paid_time_is_periods CHECK (
        paid_through IS NULL
        OR paid_through = started_at + periods_billed * period_seconds * interval '1 second'
    ),
    CONSTRAINT calls_spend_is_periods CHECK (
        tokens_spent BETWEEN 0 AND periods_billed * rate_tokens_per_period
        AND (tokens_spent = periods_billed * rate_tokens_per_period OR (status = 'ended' AND refund_unused_seconds))
    )
) WITH (fillfactor = 80); -- each period updates the row: room on the page keeps the update off unrelated indexes' pages

-- The meter's queue: only active calls, in the order they fall due.
CREATE INDEX calls_due ON calls (paid_through) WHERE status = 'active';
-- Calls nobody has answered yet, in the order they ring out.
CREATE INDEX calls_ringing ON calls (ring_expires_at) WHERE status = 'ringing';
-- Calls one side of which has gone.
CREATE INDEX calls_absent ON calls (least(caller_absent_since, callee_absent_since))
    WHERE status <> 'ended' AND (caller_absent_since IS NOT NULL OR callee_absent_since IS NOT NULL);
-- One's own history, newest first.
CREATE INDEX calls_by_caller ON calls (caller_id, created_at DESC, id DESC);
CREATE INDEX calls_by_callee ON calls (callee_id, created_at DESC, id DESC);

-- Who is in a call now, ringing included: the primary key is what makes "one call at a time" true.
CREATE TABLE live_parties (
    user_id text PRIMARY KEY,
    call_id uuid NOT NULL REFERENCES calls ON DELETE CASCADE
);
CREATE INDEX live_parties_call ON live_parties (call_id);

CREATE FUNCTION calls_refuse_other_moves() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (OLD.status, NEW.status) NOT IN (('ringing', 'active'), ('ringing', 'ended'), ('active', 'ended')) THEN
        RAISE EXCEPTION 'call % cannot go from % to %', OLD.id, OLD.status, NEW.status USING ERRCODE = 'CM101';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER calls_status_moves BEFORE UPDATE OF status ON calls
    FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION calls_refuse_other_moves();

CREATE FUNCTION calls_refuse_change_after_end() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'call % has ended and does not change', OLD.id USING ERRCODE = 'CM102';
END $$;
CREATE TRIGGER calls_ended_is_final BEFORE UPDATE ON calls
    FOR EACH ROW WHEN (OLD.status = 'ended') EXECUTE FUNCTION calls_refuse_change_after_end();

-- A call that ends lets its two people go, in the same transaction, whoever ends it.
CREATE FUNCTION calls_release_parties() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM live_parties WHERE call_id = NEW.id;
    RETURN NULL;
END $$;
CREATE TRIGGER calls_end_releases_parties AFTER UPDATE OF status ON calls
    FOR EACH ROW WHEN (NEW.status = 'ended' AND OLD.status <> 'ended') EXECUTE FUNCTION calls_release_parties();

-- Bill one period of each due call: of `p_call_ids` if given, else of up to `p_limit` calls no other meter holds.
--
-- due       active and paid_through has come
-- outlived  the database's clock is past paid_through + grace (the video token has run out): ended where it was paid
--           to, reason 'failed', nothing billed
-- posted    one journal `call:{id}:{period}`: wallet → earnings + platform revenue; the call's clock advances by a period
-- duplicate the journal was there already (it cannot be, unless rows were restored by hand): the clock advances the same
-- refused   insufficient_funds ends the call where it was paid to; any other refusal ends it as 'failed'
--
-- Answers each call as it is afterwards, with what the push needs. Calls that are several periods behind come again at
-- the next invocation; the caller loops until nothing is due.
CREATE FUNCTION bill_calls(p_limit integer, p_call_ids uuid[] DEFAULT NULL)
RETURNS TABLE (
    call calls, outcome text,
    wallet_balance bigint, wallet_version bigint, earnings_balance bigint, earnings_version bigint
)
LANGUAGE plpgsql AS $$
DECLARE
    v_now timestamptz := meter_now();
    v_revenue_id bigint;
    v_ids uuid[];
BEGIN
    IF p_call_ids IS NULL THEN
        SELECT array_agg(due.id) INTO v_ids FROM (
            SELECT c.id FROM calls c WHERE c.status = 'active' AND c.paid_through <= v_now
            ORDER BY c.paid_through LIMIT p_limit FOR UPDATE SKIP LOCKED
        ) due;
    ELSE
        SELECT array_agg(due.id) INTO v_ids FROM (
            SELECT c.id FROM calls c WHERE c.id = ANY (p_call_ids) AND c.status = 'active' AND c.paid_through <= v_now
            ORDER BY c.id FOR UPDATE
        ) due;
    END IF;
    IF v_ids IS NULL THEN
        RETURN;
    END IF;
    v_revenue_id := ledger_platform_account('platform_revenue');

    RETURN QUERY
    WITH due AS MATERIALIZED (
        SELECT c.*, row_number() OVER ()::integer AS ordinal,
               c.paid_through + c.grace_seconds * interval '1 second' < v_now AND c.periods_billed > 0 AS outlived
        FROM calls c WHERE c.id = ANY (v_ids)
    ), billable AS MATERIALIZED (
        SELECT d.*, row_number() OVER (ORDER BY d.ordinal)::integer AS journal FROM due d WHERE NOT d.outlived
    ), journals_in AS MATERIALIZED (
        SELECT array_agg('call:' || b.id || ':' || (b.periods_billed + 1) ORDER BY b.journal) AS keys,
               array_agg('call_debit'::transaction_type ORDER BY b.journal) AS types,
               array_agg(jsonb_build_object('callId', b.id, 'period', b.periods_billed + 1) ORDER BY b.journal) AS details
        FROM billable b
    ), legs AS MATERIALIZED (
        SELECT b.journal, 1 AS side, b.caller_wallet_id AS account_id, b.rate_tokens_per_period AS amount FROM billable b
        UNION ALL
        SELECT b.journal, 2, b.callee_earnings_id, b.fee_tokens_per_period - b.rate_tokens_per_period FROM billable b
        WHERE b.fee_tokens_per_period < b.rate_tokens_per_period
        UNION ALL
        SELECT b.journal, 3, v_revenue_id, -b.fee_tokens_per_period FROM billable b WHERE b.fee_tokens_per_period > 0
    ), legs_in AS MATERIALIZED (
        SELECT array_agg(l.journal ORDER BY l.journal, l.side) AS journals,
               array_agg(l.account_id ORDER BY l.journal, l.side) AS accounts,
               array_agg(l.amount ORDER BY l.journal, l.side) AS amounts
        FROM legs l
    ), posted AS MATERIALIZED (
        SELECT p.* FROM journals_in j, legs_in l, LATERAL ledger_post(
            j.keys, j.types, j.details, l.journals, l.accounts, l.amounts, 'meter'
        ) p WHERE j.keys IS NOT NULL
    ), outcomes AS MATERIALIZED (
        SELECT d.id, d.outlived, p.outcome AS posting, p.balances, p.versions,
               d.fee_tokens_per_period < d.rate_tokens_per_period AS callee_earns
        FROM due d LEFT JOIN billable b ON b.id = d.id LEFT JOIN posted p ON p.ordinal = b.journal
    ), updated AS (
        UPDATE calls c SET
            periods_billed = c.periods_billed + (o.posting IN ('posted', 'duplicate') AND NOT o.outlived)::integer,
            tokens_spent = c.tokens_spent
                + CASE WHEN o.posting IN ('posted', 'duplicate') THEN c.rate_tokens_per_period ELSE 0 END,
            paid_through = c.paid_through
                + CASE WHEN o.posting IN ('posted', 'duplicate') THEN c.period_seconds ELSE 0 END * interval '1 second',
            status = CASE WHEN o.posting IN ('posted', 'duplicate') THEN c.status ELSE 'ended' END,
            end_reason = CASE
                WHEN o.posting IN ('posted', 'duplicate') THEN NULL
                WHEN o.posting = 'insufficient_funds' THEN 'insufficient_funds'
                ELSE 'failed'
            END::call_end_reason,
            ended_at = CASE WHEN o.posting IN ('posted', 'duplicate') THEN NULL ELSE c.paid_through END
        FROM outcomes o WHERE c.id = o.id
        RETURNING c AS call, CASE WHEN o.outlived THEN 'outlived' ELSE o.posting END AS outcome,
            o.balances[1] AS wallet_balance, o.versions[1] AS wallet_version,
            CASE WHEN o.callee_earns THEN o.balances[2] END AS earnings_balance,
            CASE WHEN o.callee_earns THEN o.versions[2] END AS earnings_version
    )
    SELECT u.call, u.outcome, u.wallet_balance, u.wallet_version, u.earnings_balance, u.earnings_version FROM updated u;
END $$;
