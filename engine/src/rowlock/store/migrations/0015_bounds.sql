-- minimum code level: 4
-- 0015_bounds: counts of runs in partitions, and of those of a worker, begin with the oldest claim that still runs, too
-- (functions/limits.sql). Functions of the release before go on until those of this one come.

-- All of this waits for claims under way, and they for it: none may hold a part of it and want another.
lock table rowlock.task in access exclusive mode;

-- Another column: who still runs code of the release before moves `oldest`, and asks for no run in a partition.
alter table rowlock.queue_gate add column oldest_claim timestamptz;
comment on column rowlock.queue_gate.oldest_claim is
    'None of its runs that are counted was claimed before (task.claimed_at), nor will one be; null: that is not known.';
comment on column rowlock.queue_gate.oldest is 'The same for runs in no partition, of the release before: nobody reads it any more.';

-- In the order of their claims. Those in no partition have task_limited.
create index task_limited_parted on rowlock.task (app, queue, claimed_at)
    where state = 'running' and limited and partition > '';
drop index rowlock.task_running;
create index task_running on rowlock.task (worker_id, claimed_at) where state = 'running';
