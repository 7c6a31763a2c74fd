-- What a person does to a call, in one statement.
--
-- Each period pays into the platform's account, whose row is held until its transaction commits. With the commit in a
-- round trip of its own, all who pay would wait for each other's network; in one statement they wait for the database
-- alone. So an event is decided on the call as it was read, and carried out by one of these functions if the call is still
-- in the state that was decided on. That state is its status and its number of periods, which both only go forward.
-- Answers nothing if it is not: then something else happened to the call first, and the event is decided anew.

-- A decision made by a process that has hung since, or before the clock was set back, is made anew.
CREATE FUNCTION decision_holds(p_decided_at timestamptz) RETURNS boolean LANGUAGE sql VOLATILE AS
$$ SELECT n.now >= p_decided_at AND n.now < p_decided_at + interval '3 seconds' FROM meter_now() AS n(now) $$;

-- A ringing call becomes active and its first period is billed; the answer is that of bill_calls.
CREATE FUNCTION answer_call(p_id uuid, p_answered_by text, p_decided_at timestamptz)
RETURNS TABLE (
    call calls, outcome text,
    wallet_balance bigint, wallet_version bigint, earnings_balance bigint, earnings_version bigint
)
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM calls c WHERE c.id = p_id AND c.status = 'ringing' FOR UPDATE;
    IF NOT FOUND OR NOT decision_holds(p_decided_at) THEN
        RETURN;
    END IF;
    UPDATE calls SET status = 'active', answered_by = p_answered_by, started_at = p_decided_at, paid_through = p_decided_at
    WHERE id = p_id;
    RETURN QUERY SELECT b.* FROM bill_calls(1, ARRAY[p_id]) b;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'call % was answered and not billed: the clock was set back meanwhile', p_id USING ERRCODE = 'CM103';
    END IF;
END $$;

-- A call ends, and what its last period has left over is given back first: earnings and the platform's fee → wallet. What
-- comes back is decided by the caller; `outcome` is the ledger's word on it, NULL if nothing was to come back.
CREATE FUNCTION end_call(
    p_id uuid, p_status call_status, p_periods_billed integer, p_decided_at timestamptz,
    p_ended_at timestamptz, p_reason call_end_reason, p_back_tokens bigint, p_back_from_earnings_tokens bigint
) RETURNS TABLE (
    call calls, outcome text,
    wallet_balance bigint, wallet_version bigint, earnings_balance bigint, earnings_version bigint
)
LANGUAGE plpgsql AS $$
DECLARE
    v_call     calls;
    v_accounts bigint[];
    v_amounts  bigint[];
    v_posting  record;
    v_back     bigint := 0;
BEGIN
    SELECT * INTO v_call FROM calls c WHERE c.id = p_id FOR UPDATE;
    IF NOT FOUND OR v_call.status <> p_status OR v_call.periods_billed <> p_periods_billed OR NOT decision_holds(p_decided_at) THEN
        RETURN;
    END IF;
    IF p_back_tokens > 0 THEN
        SELECT array_agg(leg.account ORDER BY leg.side), array_agg(leg.amount ORDER BY leg.side) INTO v_accounts, v_amounts
        FROM (VALUES
            (1, v_call.caller_wallet_id, -p_back_tokens),
            (2, v_call.callee_earnings_id, p_back_from_earnings_tokens),
            (3, ledger_platform_account('platform_revenue'), p_back_tokens - p_back_from_earnings_tokens)
        ) AS leg(side, account, amount) WHERE leg.amount <> 0;
        SELECT p.outcome, p.balances, p.versions INTO v_posting FROM ledger_post(
            ARRAY['call:' || p_id || ':settle'], ARRAY['call_refund']::transaction_type[], ARRAY[jsonb_build_object('callId', p_id)],
            array_fill(1, ARRAY[cardinality(v_accounts)]), v_accounts, v_amounts, 'meter'
        ) p;
        outcome := v_posting.outcome;
        IF outcome = 'posted' THEN
            v_back := p_back_tokens;
            wallet_balance := v_posting.balances[1];
            wallet_version := v_posting.versions[1];
            IF p_back_from_earnings_tokens > 0 THEN
                earnings_balance := v_posting.balances[2];
                earnings_version := v_posting.versions[2];
            END IF;
        END IF;
    END IF;
    UPDATE calls c SET
        status = 'ended', ended_at = p_ended_at, end_reason = p_reason, tokens_spent = c.tokens_spent - v_back
    WHERE c.id = p_id RETURNING c.* INTO v_call;
    call := v_call;
    RETURN NEXT;
END $$;

-- The Agora channel of a call, as Call.channel in realtime/domain/call.py has it.
CREATE FUNCTION channel_of_call(p_id uuid) RETURNS text LANGUAGE sql IMMUTABLE AS
$$ SELECT 'call_' || replace(p_id::text, '-', '') $$;

-- Queue the jobs that put both sides of a call out of its Agora channel, if it has ended; answers how many. They are there
-- once the call's end is committed. A NULL task queues nothing. The sides are AGORA_UID in realtime/domain/call.py.
CREATE FUNCTION put_out_of_channel(p_call calls, p_queue text, p_task text) RETURNS integer LANGUAGE plpgsql AS $$
BEGIN
    IF p_task IS NULL OR (p_call).status <> 'ended' THEN
        RETURN 0;
    END IF;
    RETURN cardinality(procrastinate_defer_jobs_v1(array_agg(ROW(
        p_queue, p_task, 0, NULL, NULL,
        jsonb_build_object('channel', channel_of_call((p_call).id), 'uid', side.uid), NULL
    )::procrastinate_job_to_defer_v1 ORDER BY side.uid))) FROM (VALUES (1), (2)) AS side(uid);
END $$;
