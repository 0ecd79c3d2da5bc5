-- minimum code level: 4
-- 0010_hand_over: claim_next and pick_limited get arguments; `create or replace` can't do that.
drop function if exists rowlock.claim_next(bigint, text, text, text[], text, integer, boolean);
drop function if exists rowlock.pick_limited(
    text, text, boolean, rowlock.queue_gate, text[], bigint, text[], integer);
