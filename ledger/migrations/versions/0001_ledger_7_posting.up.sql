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
                        v_over := v_over OR l_balance[k] NOT BETWEEN -c_most AND c_most;
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
