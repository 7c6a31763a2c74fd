DROP FUNCTION put_out_of_channel(calls, text, text);
DROP FUNCTION channel_of_call(uuid);
DROP FUNCTION end_call(uuid, call_status, integer, timestamptz, timestamptz, call_end_reason, bigint, bigint);
DROP FUNCTION answer_call(uuid, text, timestamptz);
DROP FUNCTION decision_holds(timestamptz);
