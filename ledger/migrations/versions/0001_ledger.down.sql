-- Everything 0001_ledger_*.up.sql made, and whatever was partitioned off since.
DO $$
DECLARE
    v_name text;
BEGIN
    FOR v_name IN SELECT table_name FROM detached_partitions LOOP
        EXECUTE format('DROP TABLE IF EXISTS %I', v_name);
    END LOOP;
END $$;
DROP TABLE entries, journals, journal_keys, journals_unfinished, financial_audit_log, audit_heads, accounts, account_kinds, detached_partitions;
DROP FUNCTION ledger_post_or_raise, ledger_post, ledger_ensure_accounts, ledger_platform_account, ledger_make_partitions, ledger_guard_table,
    ledger_finish_journal, ledger_actor, ledger_guard_entries, ledger_raise_unbalanced, ledger_raise_wrong_entry, ledger_fill_entry,
    ledger_guard_journals, ledger_guard_accounts, ledger_append_only, ledger_audit_accounts, ledger_account_line, ledger_audit, ledger_audit_append, ledger_entry_line,
    ledger_journal_line, ledger_audit_hash, ledger_normal_side, ledger_journal_id, ledger_public_id, ledger_next_journal_id,
    ledger_time, ledger_id_at;
DROP SEQUENCE journal_id_low;
DROP TYPE account_status, account_unit, transaction_type, account_type;
