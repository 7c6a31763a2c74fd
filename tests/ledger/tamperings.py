"""Every way in which whoever goes past the triggers might change a ledger, and who `verify` must name for it.

The ledger is the one of `busy.py`. SQL stands for the rows: their ids differ from run to run.
"""

# ruff: noqa: E501  (a statement is read whole)

# The rows that are tampered with.
CALL = "(SELECT id FROM journals WHERE idempotency_key = 'call:1:2')"
OTHER = "(SELECT id FROM journals WHERE idempotency_key = 'call:1:3')"
BY_HAND = "(SELECT id FROM journals WHERE idempotency_key = 'by hand')"
WALLET = "(SELECT id FROM accounts WHERE owner_id = 'ann' AND kind = 'wallet')"
BOBS = "(SELECT id FROM accounts WHERE owner_id = 'bob' AND kind = 'wallet')"
EARNINGS = "(SELECT id FROM accounts WHERE owner_id = 'bob' AND kind = 'earnings')"
REVENUE = "(SELECT id FROM accounts WHERE kind = 'platform_revenue')"
UNUSED = "(SELECT id FROM accounts WHERE owner_id = 'cat' AND kind = 'earnings' OR kind = 'stripe_losses' ORDER BY version LIMIT 1)"
ENTRY = f"journal_id = {CALL} AND account_id = {WALLET}"
LAST = "(SELECT max(seq) FROM financial_audit_log WHERE stream = 1)"
POSTED = f"(SELECT min(seq) FROM financial_audit_log WHERE stream = 1 AND {CALL} = ANY (journal_ids))"
REFUND = "(SELECT seq FROM financial_audit_log WHERE stream = 1 AND action = 'refund')"

JOURNAL_NAMED = f"SELECT 'journal ' || {CALL}"
BY_HAND_NAMED = f"SELECT 'journal ' || {BY_HAND}"
WALLET_NAMED = f"SELECT 'account ' || {WALLET}"
POSTED_NAMED = f"SELECT 'audit row 1/' || {POSTED}"
REFUND_NAMED = f"SELECT 'audit row 1/' || {REFUND}"
LAST_NAMED = f"SELECT 'audit row 1/' || {LAST}"

UNDO_NEWEST = (
    f"CREATE TEMP TABLE undone ON COMMIT DROP AS SELECT * FROM entries WHERE journal_id = {BY_HAND};"
    "UPDATE accounts a SET balance = a.balance - u.amount * ledger_normal_side(a.type), version = a.version - 1,"
    " last_journal_id = (SELECT max(journal_id) FROM entries e WHERE e.account_id = a.id AND e.version = u.version - 1)"
    " FROM undone u WHERE a.id = u.account_id;"
    "DELETE FROM entries WHERE journal_id IN (SELECT journal_id FROM undone);"
    "DELETE FROM journal_keys WHERE journal_id IN (SELECT journal_id FROM undone);"
    "DELETE FROM journals WHERE id IN (SELECT journal_id FROM undone)"
)

# Every column: the row, what it is set to, and who must be named.
ALTERED = {
    "entries.journal_id": (ENTRY, OTHER.replace("call:1:3", "call:2:1"), JOURNAL_NAMED),
    "entries.account_id": (ENTRY, BOBS, JOURNAL_NAMED),
    "entries.amount": (ENTRY, "amount + 1", JOURNAL_NAMED),
    "entries.balance_after": (ENTRY, "balance_after - 1", WALLET_NAMED),
    "entries.version": (ENTRY, "version + 1", WALLET_NAMED),
    "journals.id": (f"id = {CALL}", "id + 1000000", JOURNAL_NAMED),
    "journals.type": (f"id = {CALL}", "'grant'", JOURNAL_NAMED),
    "journals.entry_count": (f"id = {CALL}", "2", JOURNAL_NAMED),
    "journals.idempotency_key": (f"id = {CALL}", "'call:1:9'", JOURNAL_NAMED),
    "journals.content_hash": (f"id = {CALL}", "sha256('other')", JOURNAL_NAMED),
    "journals.details": (f"id = {CALL}", """'{"call": 1, "period": 9}'""", JOURNAL_NAMED),
    "accounts.id": (f"id = {WALLET}", "DEFAULT", WALLET_NAMED),
    "accounts.owner_id": (f"id = {WALLET}", "'eve'", WALLET_NAMED),
    "accounts.kind": (f"id = {WALLET}", "'receivable'", WALLET_NAMED),
    "accounts.type": (f"id = {WALLET}", "'revenue'", WALLET_NAMED),
    "accounts.unit": (f"id = {WALLET}", "'USD_CENT'", WALLET_NAMED),
    "accounts.non_negative": (f"id = {WALLET}", "false", WALLET_NAMED),
    "accounts.status": ("status = 'closed'", "'open'", "SELECT 'account ' || id FROM accounts WHERE status = 'closed'"),
    "accounts.created_at": (f"id = {WALLET}", "created_at - interval '1 day'", WALLET_NAMED),
    "accounts.balance": (f"id = {WALLET}", "balance + 1", WALLET_NAMED),
    "accounts.version": (f"id = {WALLET}", "version + 1", WALLET_NAMED),
    "accounts.last_journal_id": (f"id = {WALLET}", "last_journal_id - 1", WALLET_NAMED),
    "financial_audit_log.stream": (f"stream = 1 AND seq = {REFUND}", "2", "SELECT 'audit row 2/' || " + REFUND),
    "financial_audit_log.seq": (f"stream = 1 AND seq = {LAST}", "seq + 1", f"SELECT 'audit row 1/' || ({LAST} + 1)"),
    "financial_audit_log.created_at": (f"stream = 1 AND seq = {REFUND}", "created_at - interval '1 us'", REFUND_NAMED),
    "financial_audit_log.actor": (f"stream = 1 AND seq = {REFUND}", "'nobody'", REFUND_NAMED),
    "financial_audit_log.action": (f"stream = 1 AND seq = {REFUND}", "'grant'", REFUND_NAMED),
    "financial_audit_log.subject": (f"stream = 1 AND seq = {REFUND}", "'purchase:ann'", REFUND_NAMED),
    "financial_audit_log.details": (f"stream = 1 AND seq = {REFUND}", """'{"why": "no reason"}'""", REFUND_NAMED),
    "financial_audit_log.journal_ids": (
        f"stream = 1 AND seq = {POSTED}",
        f"array_remove(journal_ids, {CALL})",
        JOURNAL_NAMED,
    ),
    "financial_audit_log.digest": (f"stream = 1 AND seq = {POSTED}", "sha256('other')", POSTED_NAMED),
    "financial_audit_log.previous_hash": (f"stream = 1 AND seq = {REFUND}", "sha256('other')", REFUND_NAMED),
    "financial_audit_log.hash": (f"stream = 1 AND seq = {REFUND}", "sha256('other')", REFUND_NAMED),
    "audit_heads.stream": ("stream = 1", "DEFAULT", LAST_NAMED),
    "audit_heads.seq": ("stream = 1", "seq - 1", f"SELECT 'audit row 1/' || ({LAST} - 1)"),
    "audit_heads.hash": ("stream = 1", "sha256('other')", LAST_NAMED),
    "journal_keys.idempotency_key": (f"journal_id = {CALL}", "'call:1:9'", JOURNAL_NAMED),
    "journal_keys.journal_id": (f"journal_id = {CALL}", OTHER, JOURNAL_NAMED),
    "journal_keys.content_hash": (f"journal_id = {CALL}", "sha256('other')", JOURNAL_NAMED),
}
# What cannot be altered alone, or says nothing once a transaction is over.
NOT_ALTERED = {
    "journals.created_at",  # generated from the id
    "journals.tx",  # lets entries join in the transaction that made the journal, and is renumbered by every restore
}

CHAIN_FROM = """
DO $$
DECLARE
    v_row financial_audit_log;
    v_previous bytea;
BEGIN
    FOR v_row IN SELECT * FROM financial_audit_log WHERE stream = 1 ORDER BY seq LOOP
        v_row.hash := ledger_audit_hash(coalesce(v_previous, '\\x'), v_row.stream, v_row.seq, v_row.created_at, v_row.actor, v_row.action,
                                        v_row.subject, v_row.details, v_row.digest);
        UPDATE financial_audit_log SET previous_hash = coalesce(v_previous, '\\x'), hash = v_row.hash WHERE stream = 1 AND seq = v_row.seq;
        v_previous := v_row.hash;
    END LOOP;
END $$"""
MOVE_HEAD = """
UPDATE audit_heads h SET seq = l.seq, hash = l.hash
FROM (SELECT * FROM financial_audit_log WHERE stream = 1 ORDER BY seq DESC LIMIT 1) l WHERE h.stream = 1"""
FORGE_CONTENT_HASHES = f"""
UPDATE journals j SET content_hash = sha256(convert_to(j.type || ' ' || j.details || e.legs, 'UTF8'))
FROM (SELECT string_agg(' ' || account_id || ':' || amount, '' ORDER BY account_id) AS legs FROM entries WHERE journal_id = {CALL}) e
WHERE j.id = {CALL};
UPDATE journal_keys k SET content_hash = j.content_hash FROM journals j WHERE j.id = {CALL} AND k.journal_id = j.id"""

# Rows removed, added and exchanged, and forgeries that keep the sums; each with who must be named.
TAMPERED = {
    "an entry is deleted": (f"DELETE FROM entries WHERE {ENTRY}", JOURNAL_NAMED),
    "all entries of a journal are deleted": (f"DELETE FROM entries WHERE journal_id = {CALL}", JOURNAL_NAMED),
    "an entry is added": (f"INSERT INTO entries VALUES ({CALL}, {BOBS}, 5, 5, 1)", JOURNAL_NAMED),
    "an entry of no journal is added": (f"INSERT INTO entries VALUES (1, {WALLET}, 5, 5, 1)", "SELECT 'journal 1'"),
    "two entries exchange their amounts": (
        f"UPDATE entries e SET amount = o.amount FROM entries o WHERE e.journal_id = {CALL} AND o.journal_id = {CALL}"
        f" AND e.account_id IN ({EARNINGS}, {REVENUE}) AND o.account_id IN ({EARNINGS}, {REVENUE}) AND e.account_id <> o.account_id",
        JOURNAL_NAMED,
    ),
    "two legs of a journal change alike": (
        f"UPDATE entries SET amount = amount + CASE account_id WHEN {WALLET} THEN 1 ELSE -1 END"
        f" WHERE journal_id = {CALL} AND account_id IN ({WALLET}, {EARNINGS})",
        JOURNAL_NAMED,
    ),
    "a journal is cheaper, and all that follows agrees": (
        # One token less was taken from the wallet and came to the earnings, then and in every figure since.
        f"UPDATE entries SET amount = amount + CASE account_id WHEN {WALLET} THEN -1 ELSE 1 END"
        f" WHERE journal_id = {CALL} AND account_id IN ({WALLET}, {EARNINGS});"
        f"UPDATE entries SET balance_after = balance_after + 1 WHERE account_id = {WALLET} AND journal_id >= {CALL};"
        f"UPDATE entries SET balance_after = balance_after - 1 WHERE account_id = {EARNINGS} AND journal_id >= {CALL};"
        f"UPDATE accounts SET balance = balance + CASE id WHEN {WALLET} THEN 1 ELSE -1 END WHERE id IN ({WALLET}, {EARNINGS});"
        + FORGE_CONTENT_HASHES,
        POSTED_NAMED,
    ),
    "a journal that was posted whole looks as if posted by hand": (
        f"UPDATE journals SET entry_count = NULL, content_hash = NULL WHERE id = {CALL};"
        f"UPDATE journal_keys SET content_hash = NULL WHERE journal_id = {CALL}",
        POSTED_NAMED,
    ),
    "a journal is deleted": (f"DELETE FROM journals WHERE id = {CALL}", JOURNAL_NAMED),
    "a journal is deleted with its entries and its key": (
        f"CREATE TEMP TABLE doomed ON COMMIT DROP AS SELECT {CALL} AS id;"
        "DELETE FROM entries WHERE journal_id = (SELECT id FROM doomed);"
        "DELETE FROM journal_keys WHERE journal_id = (SELECT id FROM doomed);"
        "DELETE FROM journals WHERE id = (SELECT id FROM doomed)",
        JOURNAL_NAMED,
    ),
    "the newest journal is undone without a trace in figures": (
        UNDO_NEWEST,
        BY_HAND_NAMED,
    ),
    "the newest journal is undone without a trace in figures, and its audit row names it no longer": (
        f"UPDATE financial_audit_log SET journal_ids = NULL WHERE journal_ids = ARRAY[{BY_HAND}];"
        + UNDO_NEWEST,
        f"SELECT 'audit row ' || stream || '/' || seq FROM financial_audit_log WHERE {BY_HAND} = ANY (journal_ids)",
    ),
    "a month is said to be detached": (
        "INSERT INTO detached_partitions VALUES ('entries_of_nobody', 0, 9223372036854775807)",
        "SELECT 'table entries_of_nobody'",
    ),
    "a journal without entries is added": (
        "INSERT INTO journals (id, idempotency_key, type) VALUES (1, 'forged', 'grant')",
        "SELECT 'journal 1'",
    ),
    "a whole journal is added that nothing else contradicts": (
        "INSERT INTO journals (id, idempotency_key, type) VALUES (ledger_next_journal_id(), 'forged', 'grant');"
        "INSERT INTO journal_keys SELECT idempotency_key, id FROM journals WHERE idempotency_key = 'forged';"
        "INSERT INTO entries SELECT j.id, a.id, l.amount, a.balance + l.amount * ledger_normal_side(a.type), a.version + 1"
        " FROM journals j, accounts a JOIN (VALUES ('granted_tokens', NULL, 5), ('wallet', 'ann', -5)) AS l(kind, owner, amount)"
        " ON a.kind = l.kind AND a.owner_id IS NOT DISTINCT FROM l.owner WHERE j.idempotency_key = 'forged';"
        "UPDATE accounts a SET balance = e.balance_after, version = e.version, last_journal_id = e.journal_id"
        " FROM entries e JOIN journals j ON j.id = e.journal_id WHERE j.idempotency_key = 'forged' AND a.id = e.account_id",
        "SELECT 'journal ' || id FROM journals WHERE idempotency_key = 'forged'",
    ),
    "two journals exchange their keys": (
        f"UPDATE journals j SET idempotency_key = o.idempotency_key FROM journals o"
        f" WHERE j.id IN ({CALL}, {OTHER}) AND o.id IN ({CALL}, {OTHER}) AND j.id <> o.id",
        JOURNAL_NAMED,
    ),
    "two journals exchange their keys and their registration": (
        f"UPDATE journals j SET idempotency_key = o.idempotency_key FROM journals o"
        f" WHERE j.id IN ({CALL}, {OTHER}) AND o.id IN ({CALL}, {OTHER}) AND j.id <> o.id;"
        "UPDATE journal_keys k SET journal_id = j.id, content_hash = j.content_hash FROM journals j"
        " WHERE j.idempotency_key = k.idempotency_key",
        POSTED_NAMED,
    ),
    "a journal is left unfinished": (f"INSERT INTO journals_unfinished VALUES ({CALL})", JOURNAL_NAMED),
    "a key is deleted": (f"DELETE FROM journal_keys WHERE journal_id = {CALL}", JOURNAL_NAMED),
    "a key of no journal is added": ("INSERT INTO journal_keys VALUES ('call:1:4', 1)", "SELECT 'journal 1'"),
    "an account is deleted": (f"DELETE FROM accounts WHERE id = {WALLET}", WALLET_NAMED),
    "an account is deleted that had no entries": (f"DELETE FROM accounts WHERE id = {UNUSED}", f"SELECT 'account ' || {UNUSED}"),
    "an account is added": (
        "INSERT INTO accounts (type, unit, non_negative, owner_id, kind) VALUES ('liability', 'TOKEN', true, 'eve', 'wallet')",
        "SELECT 'account ' || id FROM accounts WHERE owner_id = 'eve'",
    ),
    "an account is added that holds something": (
        "INSERT INTO accounts (type, unit, non_negative, owner_id, kind, balance) VALUES ('liability', 'TOKEN', true, 'eve', 'wallet', 9)",
        "SELECT 'account ' || id FROM accounts WHERE owner_id = 'eve'",
    ),
    "two accounts exchange their owners": (
        # Through a third name, since the two may not be the same for a moment.
        "UPDATE accounts SET owner_id = '-' WHERE owner_id = 'ann' AND kind = 'wallet';"
        "UPDATE accounts SET owner_id = 'ann' WHERE owner_id = 'bob' AND kind = 'wallet';"
        "UPDATE accounts SET owner_id = 'bob' WHERE owner_id = '-'",
        WALLET_NAMED,
    ),
    "two accounts exchange their balances": (
        f"UPDATE accounts a SET balance = o.balance FROM accounts o"
        f" WHERE a.id IN ({WALLET}, {BOBS}) AND o.id IN ({WALLET}, {BOBS}) AND a.id <> o.id",
        WALLET_NAMED,
    ),
    "wallets of a kind may go below zero, and the kind says so": (
        "UPDATE account_kinds SET non_negative = false WHERE kind = 'wallet';"
        "UPDATE accounts SET non_negative = false WHERE kind = 'wallet'",
        WALLET_NAMED,
    ),
    "an audit row in the middle is deleted": (
        f"DELETE FROM financial_audit_log WHERE stream = 1 AND seq = {REFUND}",
        f"SELECT 'audit row 1/' || ({REFUND} + 1)",
    ),
    "the first audit row is deleted": ("DELETE FROM financial_audit_log WHERE stream = 1 AND seq = 1", "SELECT 'audit row 1/2'"),
    "the end of the audit log is cut off": (
        f"DELETE FROM financial_audit_log WHERE stream = 1 AND seq >= {LAST} - 1",
        LAST_NAMED,
    ),
    "the end of the audit log is cut off, and its head moved back": (
        f"DELETE FROM financial_audit_log WHERE stream = 1 AND seq >= {POSTED};" + MOVE_HEAD,
        JOURNAL_NAMED,
    ),
    "a stream is deleted whole": (
        "DELETE FROM financial_audit_log WHERE stream = 2; DELETE FROM audit_heads WHERE stream = 2",
        "SELECT 'journal ' || id FROM journals WHERE idempotency_key = 'purchase:cat'",
    ),
    "an audit row is added at the end": (
        "INSERT INTO financial_audit_log SELECT stream, seq + 1, created_at, 'eve', action, subject, details, journal_ids, digest, hash, hash"
        f" FROM financial_audit_log WHERE stream = 1 AND seq = {LAST}",
        f"SELECT 'audit row 1/' || ({LAST} + 1)",
    ),
    "an audit row is added to a stream of its own": (
        "INSERT INTO financial_audit_log SELECT 9, 1, created_at, actor, action, subject, details, journal_ids, digest, '', hash"
        f" FROM financial_audit_log WHERE stream = 1 AND seq = {LAST}",
        "SELECT 'audit row 9/1'",
    ),
    "two audit rows exchange what they say": (
        f"UPDATE financial_audit_log l SET (actor, action, subject, details, journal_ids, digest)"
        " = (o.actor, o.action, o.subject, o.details, o.journal_ids, o.digest) FROM financial_audit_log o"
        f" WHERE l.stream = 1 AND o.stream = 1 AND l.seq IN ({REFUND}, {POSTED}) AND o.seq IN ({REFUND}, {POSTED}) AND l.seq <> o.seq",
        POSTED_NAMED,
    ),
    "an audit row records its journals in another order": (
        f"UPDATE financial_audit_log SET journal_ids = ARRAY(SELECT unnest(journal_ids) ORDER BY 1 DESC) WHERE stream = 1 AND seq = {POSTED}",
        POSTED_NAMED,
    ),
    "an audit row is altered and given the hash it then has": (
        f"UPDATE financial_audit_log SET actor = 'nobody', hash = ledger_audit_hash(previous_hash, stream, seq, created_at, 'nobody', action, subject,"
        f" details, digest) WHERE stream = 1 AND seq = {REFUND}",
        f"SELECT 'audit row 1/' || ({REFUND} + 1)",
    ),
    "an audit row is altered and the whole chain after it written anew": (
        f"UPDATE financial_audit_log SET actor = 'nobody' WHERE stream = 1 AND seq = {REFUND};" + CHAIN_FROM,
        LAST_NAMED,
    ),
    "an entry is altered and its audit row, chain and head written anew": (
        # The figures still have to agree with each other.
        f"UPDATE entries SET amount = amount + 1 WHERE {ENTRY}; UPDATE financial_audit_log SET digest = sha256('forged')"
        f" WHERE stream = 1 AND seq = {POSTED};" + CHAIN_FROM + ";" + MOVE_HEAD,
        JOURNAL_NAMED,
    ),
    # What is not even of the kind of value that a check reckons with.
    "an audit row says when in infinity": (
        f"UPDATE financial_audit_log SET created_at = 'infinity' WHERE stream = 1 AND seq = {REFUND}",
        REFUND_NAMED,
    ),
    "an account was made in infinity": (f"UPDATE accounts SET created_at = '-infinity' WHERE id = {WALLET}", WALLET_NAMED),
    "a running balance is as large as it can be": (f"UPDATE entries SET balance_after = 9223372036854775807 WHERE {ENTRY}", WALLET_NAMED),
    "a version is as large as it can be": (f"UPDATE accounts SET version = 9223372036854775807 WHERE id = {WALLET}", WALLET_NAMED),
    "an audit row's number is as large as it can be": (
        f"UPDATE financial_audit_log SET seq = 9223372036854775807 WHERE stream = 1 AND seq = {LAST}",
        "SELECT 'audit row 1/9223372036854775807'",
    ),
    "an audit row of accounts holds none": (
        """UPDATE financial_audit_log SET details = '"x"' WHERE stream = 1 AND seq = 1""",
        "SELECT 'audit row 1/1'",
    ),
    "an audit row of accounts holds nonsense": (
        """UPDATE financial_audit_log SET details = '{"accounts": [1, [], ["x"], null]}' WHERE stream = 1 AND seq = 1""",
        "SELECT 'audit row 1/1'",
    ),
}  # fmt: skip
