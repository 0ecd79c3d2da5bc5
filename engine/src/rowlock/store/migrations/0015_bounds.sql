-- minimum code level: 4
-- 0015_bounds: what a worker remembers of queues with partitions and ageing, and counts of these and of a worker's own runs that begin
-- with the oldest which still runs (functions/behind.sql, functions/limits.sql).

-- First, so that nobody moves a bound that knows nothing of runs in partitions any more: who wants to has to hold a gate.
update rowlock.queue_gate set oldest = null where oldest is not null;
comment on column rowlock.queue_gate.oldest is
    'None of its runs that are counted was claimed before (task.claimed_at), nor will one be; null: that is not known.';

-- In the order of their claims. Those in no partition have task_limited.
create index task_limited_parted on rowlock.task (app, queue, claimed_at)
    where state = 'running' and limited and partition > '';
drop index rowlock.task_running;
create index task_running on rowlock.task (worker_id, claimed_at) where state = 'running';

-- They get other arguments or columns; `create or replace` can't do that.
drop function if exists rowlock.recall(text, jsonb, timestamptz);
drop function if exists rowlock.note_look(jsonb, text, jsonb, boolean, timestamptz);
drop function if exists rowlock.note_taken(jsonb, text, jsonb, uuid[], boolean, timestamptz);
drop function if exists rowlock.memory_of(jsonb, timestamptz);
drop function if exists rowlock.is_behind(text, text, text[], jsonb);
drop function if exists rowlock.pick_behind(text, text, text[], jsonb, integer);
drop function if exists rowlock.bounds_behind(jsonb, uuid[], boolean, timestamptz);
drop function if exists rowlock.room(text, text, text[], bigint, integer);
drop function if exists rowlock.open_partitions(
    rowlock.queue, text[], text, integer, timestamptz, boolean, boolean);
drop function if exists rowlock.pick(
    text, text, text, text[], text[], interval, integer, integer, uuid[], jsonb);
drop function if exists rowlock.pick_limited(
    text, text, boolean, rowlock.queue_gate, text[], bigint, text[], integer, jsonb);
