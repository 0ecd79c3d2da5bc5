-- minimum code level: 4
-- 0011_pinned: claims and counts that need not walk past what has ended, while a transaction elsewhere
-- keeps it from being removed (functions/behind.sql, functions/limits.sql).

-- In the order of their claims, so that a count may begin with the oldest that still runs.
drop index rowlock.task_limited;
create index task_limited on rowlock.task (app, queue, coalesce(partition, ''), claimed_at)
    where state = 'running' and limited;

alter table rowlock.queue_gate add column oldest timestamptz;
comment on column rowlock.queue_gate.oldest is
    'None of its runs that are counted, and in no partition, was claimed before (task.claimed_at), nor will one be; null: that is not known.';

-- They get more arguments or columns; `create or replace` can't do that.
drop function if exists rowlock.claim_next(bigint, text, text, text[], text, integer, boolean, boolean);
drop function if exists rowlock.held(bigint, text, uuid[]);
drop function if exists rowlock.journal_and_claim(
    bigint, json, integer, boolean, boolean, jsonb, jsonb, jsonb, jsonb, jsonb, text[], boolean, text, text);
drop function if exists rowlock.running(text, text, text, integer, boolean);
drop function if exists rowlock.room(rowlock.queue, text[], bigint, integer, timestamptz, boolean);
drop function if exists rowlock.pick(
    text, text, text, text[], text[], interval, integer, integer, uuid[]);
drop function if exists rowlock.pick_limited(
    text, text, boolean, rowlock.queue_gate, text[], bigint, text[], integer);
