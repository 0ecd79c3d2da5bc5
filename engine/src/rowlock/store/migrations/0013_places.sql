-- minimum code level: 4
-- 0013_places: the journal itself hands places over (functions/hand_over.sql).

-- They get other arguments; `create or replace` can't do that.
drop function if exists rowlock.journal(
    bigint, json, integer, boolean, boolean, jsonb, jsonb, jsonb, jsonb, jsonb, text[], boolean);
drop function if exists rowlock.claim_next(
    bigint, text, text, text[], text, integer, boolean, timestamptz, text);
drop function if exists rowlock.held(bigint, text, uuid[]);
drop function if exists rowlock.may_hand_over(text, text, text[]);
