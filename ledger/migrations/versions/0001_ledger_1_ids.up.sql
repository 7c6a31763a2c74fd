-- Time and ids: a journal's id is (milliseconds since 2020-01-01) << 22 | sequence, made while the accounts' locks are
-- held and never below an account's last id. So ids are ordered by time, entries of one account are ordered by journal_id
-- as they are by version, and both big tables are partitioned by month on the id alone: the primary keys stay (id) and
-- (journal_id, account_id).

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
