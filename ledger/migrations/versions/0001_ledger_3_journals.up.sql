-- Journals, their entries, and the keys that make each journal happen once.

CREATE TYPE transaction_type AS ENUM ('purchase', 'call_debit', 'call_refund', 'grant', 'refund', 'dispute', 'dispute_reversal', 'adjustment');

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
