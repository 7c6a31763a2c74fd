"""A double-entry ledger in PostgreSQL: the database keeps the invariants, Python carries values to it and back."""
