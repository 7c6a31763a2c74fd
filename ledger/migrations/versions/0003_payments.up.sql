-- Money in: idempotency keys, purchases, refunds, disputes, the daily allowance and the provider's events.
--
-- The record that keeps a card from being charged twice is here: a purchase row names the one payment that may ever be
-- confirmed for it, and its states follow realtime/domain/purchase.py; a trigger refuses any other move.

CREATE TYPE purchase_status AS ENUM ('claimed', 'prepared', 'requires_action', 'processing', 'succeeded', 'failed');
CREATE TYPE refund_status AS ENUM ('claimed', 'done', 'refused');
CREATE TYPE dispute_status AS ENUM ('open', 'won', 'lost');

-- One row for each key of a user. While `outcome` is null somebody works on it, and holds it until `held_until`, which
-- they push on; a row whose holder died is taken over by the next request with that key, or finished by a job.
CREATE TABLE idempotency_keys (
    user_id text COLLATE "C" NOT NULL CHECK (char_length(user_id) BETWEEN 1 AND 128),
    key text COLLATE "C" NOT NULL CHECK (char_length(key) BETWEEN 1 AND 255),
    request_hash bytea NOT NULL,
    holder uuid NOT NULL,
    held_until timestamptz NOT NULL,
    subject uuid, -- the purchase this key's request is about, once there is one
    outcome json, -- json, not jsonb: the answer is replayed with its members in their order
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (user_id, key)
);
CREATE INDEX idempotency_keys_expiry ON idempotency_keys (expires_at);

-- What a user's purchases hold of each UTC day's limit: reserved with the purchase, given back if it fails.
CREATE TABLE daily_spend (
    user_id text COLLATE "C" NOT NULL CHECK (char_length(user_id) BETWEEN 1 AND 128),
    day date NOT NULL,
    spent_cents bigint NOT NULL CHECK (spent_cents >= 0),
    PRIMARY KEY (user_id, day)
) WITH (fillfactor = 80);

CREATE TABLE purchases (
    id uuid PRIMARY KEY,
    user_id text COLLATE "C" NOT NULL CHECK (char_length(user_id) BETWEEN 1 AND 128),
    idempotency_key text COLLATE "C" NOT NULL,
    amount_cents bigint NOT NULL CHECK (amount_cents > 0),
    tokens bigint NOT NULL CHECK (tokens > 0),
    payment_method_id text NOT NULL,
    status purchase_status NOT NULL DEFAULT 'claimed',
    spend_day date NOT NULL,
    payment_intent_id text UNIQUE,
    decline_code text,
    failure text,
    created_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    -- when a job should ask the provider how it stands, if nobody has finished it by then
    next_check_at timestamptz NOT NULL,
    checks integer NOT NULL DEFAULT 0,
    -- refunds and disputes: cumulative, as the provider says, and what of it the ledger has booked
    refunded_cents bigint NOT NULL DEFAULT 0 CHECK (refunded_cents >= 0),
    disputed_cents bigint NOT NULL DEFAULT 0 CHECK (disputed_cents >= 0),
    reversed_cents bigint NOT NULL DEFAULT 0,
    reversed_tokens bigint NOT NULL DEFAULT 0,
    owed_tokens bigint NOT NULL DEFAULT 0,
    adjustments integer NOT NULL DEFAULT 0,

    CONSTRAINT purchases_sent_is_named CHECK (
        status NOT IN ('prepared', 'requires_action', 'processing', 'succeeded') OR payment_intent_id IS NOT NULL
    ),
    CONSTRAINT purchases_finished_says_when CHECK ((status IN ('succeeded', 'failed')) = (finished_at IS NOT NULL)),
    CONSTRAINT purchases_reversed_is_paid CHECK (reversed_cents = 0 OR status = 'succeeded'),
    CONSTRAINT purchases_reversed_within CHECK (
        reversed_cents BETWEEN 0 AND amount_cents AND reversed_tokens BETWEEN 0 AND tokens
        AND owed_tokens BETWEEN 0 AND reversed_tokens
    )
);
CREATE INDEX purchases_of_user ON purchases (user_id, created_at DESC, id DESC);
-- The jobs' queue: only what is not finished.
CREATE INDEX purchases_due ON purchases (next_check_at) WHERE status NOT IN ('succeeded', 'failed');

CREATE FUNCTION purchases_refuse_other_moves() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (OLD.status, NEW.status) NOT IN (
        ('claimed', 'prepared'), ('claimed', 'failed'),
        ('prepared', 'requires_action'), ('prepared', 'processing'), ('prepared', 'succeeded'), ('prepared', 'failed'),
        ('requires_action', 'processing'), ('requires_action', 'succeeded'), ('requires_action', 'failed'),
        ('processing', 'requires_action'), ('processing', 'succeeded'), ('processing', 'failed'),
        ('failed', 'succeeded')
    ) THEN
        RAISE EXCEPTION 'purchase % cannot go from % to %', OLD.id, OLD.status, NEW.status USING ERRCODE = 'CM301';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER purchases_status_moves BEFORE UPDATE OF status ON purchases
    FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION purchases_refuse_other_moves();

CREATE FUNCTION purchases_keep_their_payment() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'purchase %: what was bought, and the payment that is confirmed for it, do not change', OLD.id
        USING ERRCODE = 'CM302';
END $$;
CREATE TRIGGER purchases_one_payment BEFORE UPDATE ON purchases FOR EACH ROW
    WHEN ((OLD.user_id, OLD.amount_cents, OLD.tokens) IS DISTINCT FROM (NEW.user_id, NEW.amount_cents, NEW.tokens)
        OR (OLD.payment_intent_id IS NOT NULL AND OLD.payment_intent_id IS DISTINCT FROM NEW.payment_intent_id))
    EXECUTE FUNCTION purchases_keep_their_payment();

-- An admin's order to pay a purchase back: at most one is being carried out.
CREATE TABLE refund_orders (
    purchase_id uuid PRIMARY KEY REFERENCES purchases,
    admin_id text COLLATE "C" NOT NULL,
    idempotency_key text COLLATE "C" NOT NULL,
    status refund_status NOT NULL DEFAULT 'claimed',
    created_at timestamptz NOT NULL DEFAULT now(),
    next_check_at timestamptz NOT NULL
);
CREATE INDEX refund_orders_due ON refund_orders (next_check_at) WHERE status = 'claimed';

CREATE TABLE disputes (
    id text PRIMARY KEY,
    purchase_id uuid NOT NULL REFERENCES purchases,
    amount_cents bigint NOT NULL CHECK (amount_cents >= 0),
    status dispute_status NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX disputes_of_purchase ON disputes (purchase_id);

-- Each event of the provider once. Only what an event says of a payment is kept, not its payload: that carries names
-- and addresses.
CREATE TABLE stripe_events (
    id text PRIMARY KEY,
    type text NOT NULL,
    facts jsonb NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now(),
    applied_at timestamptz,
    outcome text,
    attempts integer NOT NULL DEFAULT 0
);
CREATE INDEX stripe_events_pending ON stripe_events (received_at) WHERE applied_at IS NULL;
