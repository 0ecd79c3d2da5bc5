-- fleet: what the database holds, for whoever watches over many workers: the operator, the exporter.
--
-- Read only, no locks, one snapshot: store/statements.py asks for all of it in one statement. Counting
-- tasks reads the task table once, whatever is asked of it; everything else is looked up by key and
-- bounded, however large the ledgers grow. Whoever calls sets a statement_timeout: a count that takes
-- too long is worth less than a quiet database. p_app null: all apps.

-- fleet_tasks: unfinished runs by app, queue, version and state, in one pass. `paused` are those that would
-- be claimed but for a pause: ready in a queue or app that is paused, or set aside for their workflow; nobody
-- is to start workers for them, or to mend them. oldest_due: how long the first of the ready ones has been
-- due. next_due: until the first of those that wait for a time falls due; below 0 when it is due and nobody
-- has promoted it, as when there is no worker at all. Runs that wait for a run alone are due at infinity,
-- which is no time.
create or replace function rowlock.fleet_tasks(p_app text default null)
returns table (
    app text, queue text, version text, state text, tasks bigint,
    oldest_due_seconds double precision, next_due_seconds double precision)
language sql stable set search_path = pg_catalog set jit = off
as $$
    with counted as materialized (
        select t.app, t.queue, t.version, t.state,
               t.state = 'blocked' and rowlock.is_paused(t.reason) as is_aside, count(*) as tasks,
               min(t.due_at) filter (where isfinite(t.due_at)) as due_at
          from rowlock.task as t
         where p_app is null or t.app = p_app
         group by t.app, t.queue, t.version, t.state, is_aside
    ), told as (
        select c.app, c.queue, c.version, c.tasks, c.due_at,
               case when c.is_aside
                      or (c.state = 'ready'
                          and exists (select from rowlock.pause as p
                                       where p.app = c.app and p.lifted_at is null and p.workflow is null
                                         and (p.queue is null or p.queue = c.queue)))
                    then 'paused' else c.state end as state
          from counted as c)
    select x.app, x.queue, x.version, x.state, sum(x.tasks)::bigint,
           case when x.state = 'ready'
                then greatest(0, extract(epoch from statement_timestamp() - min(x.due_at)))::double precision
           end,
           case when x.state in ('scheduled', 'waiting')
                then extract(epoch from min(x.due_at) - statement_timestamp())::double precision
           end
      from told as x
     group by x.app, x.queue, x.version, x.state
     order by x.app, x.queue, x.version, x.state
$$;

-- fleet_workers: every worker's row, with what it runs counted by its index.
create or replace function rowlock.fleet_workers(p_app text default null)
returns table (
    worker_id bigint, app text, version text, host text, queues text[], slots integer, running bigint,
    draining boolean, alive boolean)
language sql stable set search_path = pg_catalog set enable_seqscan = off set jit = off
as $$
    select w.id, w.app, w.version, w.host, w.queues, w.slots,
           (select count(*) from rowlock.task as t where t.worker_id = w.id and t.state = 'running'),
           w.draining or exists (select from rowlock.drain_request as d where d.worker_id = w.id),
           w.lease_until > statement_timestamp()
      from rowlock.worker as w
     where p_app is null or w.app = p_app
     order by w.id
$$;

-- fleet_versions: the code versions that ever registered, and which of them takes unpinned runs.
create or replace function rowlock.fleet_versions(p_app text default null)
returns table (
    app text, name text, registered_at timestamptz, promoted_at timestamptz, is_current boolean)
language sql stable set search_path = pg_catalog set jit = off
as $$
    select v.app, v.name, v.registered_at, v.promoted_at,
           v.name = rowlock.current_version(v.app)
      from rowlock.version as v
     where p_app is null or v.app = p_app
     order by v.app, v.registered_at, v.name
$$;

-- fleet_rates: for each declared queue, how many runs arrive a second and how long one takes, both
-- estimated from bounded samples.
--
-- Arrivals: ids are UUIDv7, so the runs of the last minute are one range of run_pkey. At most 10,000
-- are read, newest first; where those don't reach back a minute, the rate is that of the time they do
-- reach back. Runs that start later and children count when they are created.
--
-- Mean: of the 1,000 newest succeeded and the 1,000 newest failed runs of all apps those of epoch 1:
-- claimed once, so never asleep, never taken over, and the time from start to end is time that held a
-- slot. Null when the sample has none. It leans towards short runs: of runs started together the short
-- ones have ended.
create or replace function rowlock.fleet_rates(p_app text default null)
returns table (
    app text, queue text, arrivals_per_second double precision, mean_run_seconds double precision)
language sql stable
set search_path = pg_catalog set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
    with newest as materialized (
        select r.app, r.queue, r.created_at
          from rowlock.run as r
         where r.id >= rowlock.id_at(statement_timestamp() - interval '1 minute')
         order by r.id desc
         limit 10000
    ), reach as (
        select case when count(*) < 10000 then 60.0
                    else greatest(1.0, extract(epoch from statement_timestamp() - min(n.created_at)))
               end::double precision as seconds
          from newest as n
    ), arrivals as materialized (
        select n.app, n.queue, count(*) as runs from newest as n group by n.app, n.queue
    ), ended as materialized (
        select o.app, o.queue,
               avg(extract(epoch from o.finished_at - o.started_at)::double precision) as seconds
          from unnest(array['succeeded', 'failed']) as s (status)
         cross join lateral rowlock.newest_ended(
               rowlock.my_apps(), null, null, s.status, rowlock.id_at('-infinity'),
               rowlock.id_at('infinity'), 1000) as n (run_id)
         cross join lateral (
               select x.app, x.queue, x.epoch, x.started_at, x.finished_at
                 from rowlock.outcome as x
                where x.run_id = n.run_id and x.redone_at is null and x.status <> 'continued'
               offset 0) as o
         where o.epoch = 1
         group by o.app, o.queue
    )
    select q.app, q.name, coalesce(a.runs, 0) / reach.seconds, e.seconds
      from rowlock.queue as q
     cross join reach
      left join arrivals as a on a.app = q.app and a.queue = q.name
      left join ended as e on e.app = q.app and e.queue = q.name
     where p_app is null or q.app = p_app
     order by q.app, q.name
$$;

-- fleet_limits: what limits queues, where something does. Rates are told for a second, whatever their period:
-- so they can be drawn beside what is claimed.
create or replace function rowlock.fleet_limits(p_app text default null)
returns table (app text, queue text, kind text, value double precision)
language sql stable set search_path = pg_catalog set jit = off
as $$
    select q.app, q.name, l.kind, l.value
      from rowlock.queue as q
     cross join lateral (values
           ('concurrency', q.concurrency::double precision),
           ('worker_concurrency', q.worker_concurrency::double precision),
           ('rate_per_second', q.rate / extract(epoch from q.rate_period)::double precision),
           ('partition_concurrency', q.partition_concurrency::double precision),
           ('partition_rate_per_second',
            q.partition_rate / extract(epoch from q.partition_rate_period)::double precision)) as l (kind, value)
     where (p_app is null or q.app = p_app) and l.value is not null
     order by q.app, q.name, l.kind
$$;
