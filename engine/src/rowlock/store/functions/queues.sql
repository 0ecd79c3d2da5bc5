-- queues: what stands in each queue, for people to look at.
--
-- Counting reads the task table once, whatever is asked of it, as fleet_tasks does.

create or replace view rowlock.queues as
select q.app, q.name as queue,
       coalesce(t.ready, 0) as ready, coalesce(t.scheduled, 0) as scheduled, coalesce(t.running, 0) as running,
       coalesce(t.waiting, 0) as waiting, coalesce(t.blocked, 0) as blocked,
       t.oldest_ready_at, p.paused_at, p.paused_by, p.reason,
       q.concurrency, q.worker_concurrency,
       rowlock.rate_text(q.rate, q.rate_period, q.rate_smooth, q.rate_burst) as rate,
       q.partitions, q.partition_concurrency,
       rowlock.rate_text(q.partition_rate, q.partition_rate_period, q.partition_rate_smooth,
                         q.partition_rate_burst) as partition_rate,
       q.ageing, q.weight, q.set_at as limits_set_at, q.set_by as limits_set_by, q.declared
  from rowlock.queue as q
  left join (
        select x.app, x.queue,
               count(*) filter (where x.state = 'ready') as ready,
               count(*) filter (where x.state = 'scheduled') as scheduled,
               count(*) filter (where x.state = 'running') as running,
               count(*) filter (where x.state = 'waiting') as waiting,
               count(*) filter (where x.state = 'blocked') as blocked,
               min(x.due_at) filter (where x.state = 'ready' and isfinite(x.due_at)) as oldest_ready_at
          from rowlock.task as x
         group by x.app, x.queue) as t on t.app = q.app and t.queue = q.name
  left join lateral (
        select y.* from rowlock.pause as y
         where y.app = q.app and y.workflow is null and (y.queue = q.name or y.queue is null)
         order by y.paused_at limit 1) as p on true;
comment on view rowlock.queues is
    'Every queue with its unfinished runs by state; paused_at: since when it is not claimed from. Reads all tasks once: not for every second.';
comment on column rowlock.queues.app is 'The app it belongs to.';
comment on column rowlock.queues.queue is 'Its name.';
comment on column rowlock.queues.ready is 'How many runs could be claimed now.';
comment on column rowlock.queues.scheduled is 'How many wait for their first time.';
comment on column rowlock.queues.running is 'How many run.';
comment on column rowlock.queues.waiting is 'How many have begun and wait for a time, a message, an event or another run.';
comment on column rowlock.queues.blocked is 'How many need a person, or other code.';
comment on column rowlock.queues.paused_at is 'Since when nothing is claimed from it, be it paused itself or its app; null: it is not paused.';
comment on column rowlock.queues.paused_by is 'The role that paused it.';
comment on column rowlock.queues.reason is 'Why, as that role said.';
comment on column rowlock.queues.oldest_ready_at is 'Since when the first of its ready runs has been due.';
comment on column rowlock.queues.concurrency is 'How many of its runs may hold a claim at a time, over all workers; null: no limit.';
comment on column rowlock.queues.worker_concurrency is 'How many in one worker process; null: no limit.';
comment on column rowlock.queues.rate is 'How many may be claimed for the first time in any such period; null: no limit.';
comment on column rowlock.queues.partitions is 'Whether its runs wait in partitions, which take turns.';
comment on column rowlock.queues.partition_concurrency is 'How many of one partition may hold a claim at a time; null: no limit.';
comment on column rowlock.queues.partition_rate is 'How many of one partition may be claimed for the first time in any such period; null: no limit.';
comment on column rowlock.queues.ageing is 'By how much longer a run must have waited to go before one whose priority is better by one; null: it never does.';
comment on column rowlock.queues.weight is 'How often a worker looks here first, in proportion to its other queues.';
comment on column rowlock.queues.limits_set_at is 'When limits were set that are not as declared; null: they are as declared.';
comment on column rowlock.queues.limits_set_by is 'The role that set them.';
comment on column rowlock.queues.declared is 'What the code declares, as a JSON object; ageing in seconds.';
