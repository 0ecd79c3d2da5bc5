-- claim: take ready runs for a worker, at most as many as it has free slots.
--
-- One call in autocommit, in this order: (1) look for work without locks, so that pollers who
-- find nothing never hold a lock that others need; (2) the own worker row FOR KEY SHARE, lease
-- checked: the reaper takes it FOR UPDATE, so it either sees this claim or prevents it (4j);
-- (3) the queue's gate, so that a limit that comes later is exact at once; (4) in a later
-- statement, the claim: ids through ANY(ARRAY(…)), because the same as a CTE joined to the
-- update flips to a sequential scan under a generic plan (tests/store/test_plans.py).
-- Looked up one by one (OFFSET 0): as a join, a plan made when `run` was tiny reads all of it later.
-- SKIP LOCKED everywhere: nobody waits for anybody. FOR NO KEY UPDATE is enough for a ready task,
-- and passes the KEY SHARE of those who watch it: a parent's suspend must not hide its child.

-- ready_queues: which queues of an app have ready tasks: a loose walk over the claim's index,
-- one probe a queue however deep the backlog.
create or replace function rowlock.ready_queues(p_app text) returns text[]
language sql stable
set search_path = pg_catalog set enable_seqscan = off set jit = off set enable_bitmapscan = off
as $$
    with recursive walk as (
        (select t.queue from rowlock.task as t
          where t.app = p_app and t.state = 'ready'
          order by t.app, t.queue limit 1)
        union all
        select (select t.queue from rowlock.task as t
                 where t.app = p_app and t.state = 'ready' and t.queue > walk.queue
                 order by t.app, t.queue limit 1)
          from walk
         where walk.queue is not null)
    select coalesce(array_agg(walk.queue order by random()), '{}')
      from walk
     where walk.queue is not null
$$;

create or replace function rowlock.claim(
    p_worker bigint, p_app text, p_version text, p_queues text[], p_want integer, p_listening boolean)
returns table (
    run_id uuid, epoch integer, generation integer, created_at timestamptz, workflow text, queue text,
    version text, key text, takeovers smallint, input text, attributes text, trace_context text,
    waited double precision, started_at timestamptz, age double precision, deadline_in double precision,
    in_group boolean, cancel text)
language plpgsql volatile
set search_path = pg_catalog
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
set enable_mergejoin = off set jit = off set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
    v_queues  text[];
    v_queue   text;
    v_fits    text[];
    v_got     integer;
    v_paused_app       boolean;
    v_paused_queues    text[] := '{}';
    v_paused_workflows text[] := '{}';
begin
    perform rowlock.require_read_committed();
    if not rowlock.allowed(p_app) then
        perform rowlock.refuse_app(p_app);
    end if;
    update rowlock.worker as w set listening = p_listening
     where w.id = p_worker and w.app = p_app and w.listening <> p_listening;
    if coalesce(p_want, 0) <= 0 then
        return;
    end if;

    v_queues := coalesce(p_queues, rowlock.ready_queues(p_app));
    if v_queues = '{}' then
        return;
    end if;
    if p_version = '' then
        v_fits := array(select v.name from rowlock.version as v where v.app = p_app) || '{""}'::text[];
    elsif rowlock.current_version(p_app) = p_version then
        v_fits := array[p_version, ''];
    else
        v_fits := array[p_version];
    end if;
    -- Looked for before it is summed up: there is seldom any.
    if exists (select from rowlock.pause as p where p.app = p_app and p.lifted_at is null) then
        select coalesce(bool_or(p.queue is null and p.workflow is null), false),
               coalesce(array_agg(p.queue) filter (where p.queue is not null), '{}'),
               coalesce(array_agg(p.workflow) filter (where p.workflow is not null), '{}')
          into v_paused_app, v_paused_queues, v_paused_workflows
          from rowlock.pause as p
         where p.app = p_app and p.lifted_at is null;
        if v_paused_app then
            return;
        end if;
    end if;

    foreach v_queue in array v_queues loop
        exit when p_want <= 0;
        continue when v_queue = any (v_paused_queues);
        -- A probe a version: as a semi-join it reads the whole queue of a version that is not ours.
        continue when not exists (
            select from unnest(v_fits) as f (version)
             cross join lateral (
                   select from rowlock.task as t
                    where t.app = p_app and t.queue = v_queue and t.version = f.version
                      and t.state = 'ready'
                    limit 1) as t);
        perform 1 from rowlock.worker as w
          where w.id = p_worker and w.app = p_app and w.lease_until > clock_timestamp() and not w.draining
            and not exists (select from rowlock.drain_request as d where d.worker_id = w.id)
            for key share skip locked;
        if not found then
            return;
        end if;
        perform 1 from rowlock.queue_gate as g
          where g.app = p_app and g.name = v_queue
            for key share skip locked;
        continue when not found;
        if v_paused_workflows <> '{}' and not rowlock.set_aside(
               p_app, v_queue, v_fits, v_paused_workflows, p_want) then
            perform pg_notify('rowlock_worker_' || p_worker, '');  -- there may be work behind them
            continue;
        end if;

        return query
        with claimed as (
            update rowlock.task as t
               set state = 'running', epoch = t.epoch + 1, worker_id = p_worker,
                   claimed_at = clock_timestamp(),
                   started_at = coalesce(t.started_at, clock_timestamp()),
                   version = case when t.version = '' then p_version else t.version end
             where t.run_id = any (array(
                     select c.run_id
                       from unnest(v_fits) as f (version)
                      cross join lateral (
                            select r.run_id, r.priority, r.due_at
                              from rowlock.task as r
                             where r.app = p_app and r.queue = v_queue and r.version = f.version
                               and r.state = 'ready' and not r.workflow = any (v_paused_workflows)
                             order by r.app, r.queue, r.version, r.priority, r.due_at, r.run_id
                             limit p_want
                               for no key update skip locked) as c
                      order by c.priority, c.due_at, c.run_id
                      limit p_want))
            returning t.run_id, t.epoch, t.generation, t.version, t.takeovers, t.claimed_at, t.due_at, t.started_at,
                      t.queue)
        select c.run_id, c.epoch, c.generation, r.created_at, r.workflow, c.queue, c.version, r.key,
               c.takeovers,
               case when c.generation = 1 then r.input else g.input end::text,
               r.attributes::text, r.trace_context::text,
               extract(epoch from c.claimed_at - c.due_at)::double precision, c.started_at,
               extract(epoch from c.claimed_at - c.started_at)::double precision,
               extract(epoch from case when c.generation = 1 then r.deadline_at else g.deadline_at end
                                  - c.claimed_at)::double precision,
               r.child_index is not null,
               q.request
          from claimed as c
         cross join lateral (
               select x.* from rowlock.run as x where x.id = c.run_id offset 0) as r
          left join lateral (
               select x.input, x.deadline_at from rowlock.generation as x
                where x.run_id = c.run_id and x.generation = c.generation and c.generation > 1
               offset 0) as g on true
          left join lateral (
               select rowlock.request_of(c.run_id, c.generation) as request
                where exists (select from rowlock.cancel_request as x where x.run_id = c.run_id)
               offset 0) as q on true;
        get diagnostics v_got = row_count;
        p_want := p_want - v_got;
    end loop;
end $$;

-- history: what a run has recorded and what it waits for, for replay.
create or replace function rowlock.history(p_runs uuid[], p_generations integer[])
returns table (
    run_id uuid, place text, kind text, name text, "position" integer, output text, error text,
    due_in double precision, on_run_id uuid, attempt smallint)
language sql stable
set search_path = pg_catalog
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
    select s.run_id, s.place, s.kind, s.name, s.position, s.output::text, s.error::text,
           case when s.kind = 'cancel'  -- how much of its grace is left
                then extract(epoch from s.recorded_at - clock_timestamp())::double precision
                     + (s.output ->> 'grace_s')::double precision end,
           null::uuid, s.attempts
      from unnest(p_runs, p_generations) as a (run_id, generation)
     cross join lateral (
           select x.* from rowlock.step as x
            where x.run_id = a.run_id and x.generation = a.generation offset 0) as s
     where rowlock.is_owner() or rowlock.is_member((select r.app from rowlock.run as r where r.id = a.run_id))
    union all
    select w.run_id, w.place, w.kind, null, null, null, w.error::text,
           extract(epoch from w.due_at - clock_timestamp())::double precision, w.on_run_id, w.attempt
      from unnest(p_runs, p_generations) as a (run_id, generation)
     cross join lateral (
           select x.* from rowlock.wait as x
            where x.run_id = a.run_id and x.generation = a.generation offset 0) as w
     where rowlock.is_owner() or rowlock.is_member((select r.app from rowlock.run as r where r.id = a.run_id))
$$;
