-- minimum code level: 4
-- 0010_hand_over: claim_next gets an argument; `create or replace` can't do that.
drop function if exists rowlock.claim_next(bigint, text, text, text[], text, integer, boolean);
