-- cancel: ask a run to stop, and carry such requests out.
--
-- A request is a row. A run that runs is told by its worker (heartbeat, or a notice); one that sleeps
-- becomes ready, and whoever claims it is told with the claim. It gets CancelledError where it waits, may
-- clean up within the grace, and ends. One that never began has nothing to clean up: it ends at once, as
-- do blocked ones, whose code can't run, and all that are cancelled by force. What the caller found running
-- may fall asleep before the request is committed, and what somebody just holds can't be touched: the
-- sweep of unsettled requests finds it (3l: never read the state and then branch). So a cancel waits for
-- nobody, and many of them in one statement can't deadlock, in whichever order they come.

-- is_meant: whether a request is meant for this generation: its own, or one that the run continued
-- as. A run that ended and was redone was not asked. Looked at when it is read, not kept up to date
-- by whoever continues: a caller's open transaction hides the request from him.
create or replace function rowlock.is_meant(p_request rowlock.cancel_request, p_generation integer)
returns boolean
language sql stable
set search_path = pg_catalog
set enable_seqscan = off set jit = off
as $$
    select p_request.generation <= p_generation
       and not exists (select from rowlock.outcome as o
                        where o.run_id = p_request.run_id and o.generation >= p_request.generation
                          and o.generation < p_generation and o.status <> 'continued')
$$;

-- request_of: all requests for a generation as workers read them; null when there is none.
create or replace function rowlock.request_of(p_run uuid, p_generation integer) returns text
language sql stable
set search_path = pg_catalog
set enable_seqscan = off set jit = off
as $$
    select jsonb_build_object('grace_s', x.grace_s, 'force', x.force, 'reason', x.reason)::text
      from (select (array_agg(c.grace_s order by c.requested_at))[1] as grace_s,
                   (array_agg(c.reason order by c.requested_at))[1] as reason,
                   bool_or(c.force) as force
              from rowlock.cancel_request as c
             where c.run_id = p_run and rowlock.is_meant(c, p_generation)) as x
     where x.force is not null
$$;

-- pass_on: the children of runs that end without having cancelled them themselves.
create or replace function rowlock.pass_on(p_runs uuid[], p_generations integer[]) returns void
language plpgsql volatile
set search_path = pg_catalog
set enable_seqscan = off set jit = off set enable_hashjoin = off set enable_mergejoin = off
set plan_cache_mode = force_generic_plan
as $$
begin
    if not exists (select from rowlock.run as c where c.parent_id = any (p_runs)) then
        return;
    end if;
    insert into rowlock.cancel_request (run_id, requested_at, generation, grace_s, force, reason)
    select c.id, clock_timestamp(), t.generation, (q.request ->> 'grace_s')::real,
           (q.request ->> 'force')::boolean, format('its parent %s was cancelled', e.run_id)
      from unnest(p_runs, p_generations) as e (run_id, generation)
     cross join lateral (
           select rowlock.request_of(e.run_id, e.generation)::jsonb as request offset 0) as q
      join rowlock.run as c on c.parent_id = e.run_id
      join rowlock.task as t on t.run_id = c.id
     where q.request is not null and c.detached is not true
       and not exists (select from rowlock.cancel_request as x
                        where x.run_id = c.id and x.generation = t.generation
                          and x.force >= (q.request ->> 'force')::boolean);
end $$;

-- drop_requests: of runs that have ended. A row that the sweep looks at just now it drops itself.
create or replace function rowlock.drop_requests(p_runs uuid[]) returns void
language plpgsql volatile
set search_path = pg_catalog
set enable_seqscan = off set jit = off set plan_cache_mode = force_generic_plan
as $$
begin
    if current_setting('transaction_isolation') <> 'read committed' then
        return;  -- rows that the sweep has touched since would fail the caller
    end if;
    delete from rowlock.cancel_request
     where ctid = any (array(select c.ctid from rowlock.cancel_request as c
                              where c.run_id = any (p_runs) for update skip locked));
end $$;

-- end_unbegun: end as cancelled those of p_runs (whose tasks are locked) that need no code for it, and
-- pass the request on to their children. Gives those that ended. Waiters are noted, not locked: the
-- caller's transaction may stay open. One that began and was set aside for a pause has its code, and
-- cleans up when the pause is over.
create or replace function rowlock.end_unbegun(p_runs uuid[]) returns uuid[]
language plpgsql volatile
set search_path = pg_catalog
set enable_seqscan = off set jit = off set enable_hashjoin = off set enable_mergejoin = off
set plan_cache_mode = force_generic_plan
as $$
declare
    v_ended       uuid[];
    v_generations integer[];
begin
    with gone as (
        delete from rowlock.task as t
         where t.run_id = any (p_runs) and t.state <> 'running'
           and exists (select from rowlock.cancel_request as c
                        where c.run_id = t.run_id and rowlock.is_meant(c, t.generation)
                          and (t.started_at is null or c.force
                               or (t.state = 'blocked' and not rowlock.is_paused(t.reason))))
        returning t.*
    ), ended as (
        insert into rowlock.outcome (run_id, started_at, finished_at, generation, epoch, app, workflow,
                                     queue, version, status, error)
        select g.run_id, g.started_at, clock_timestamp(), g.generation, g.epoch, g.app, g.workflow,
               g.queue, g.version, 'cancelled',
               jsonb_build_object(
                   'type', 'rowlock.errors.Cancelled',
                   'message', coalesce(rowlock.request_of(g.run_id, g.generation)::jsonb ->> 'reason',
                                       'it was cancelled'))
          from gone as g
        returning run_id, generation)
    select coalesce(array_agg(run_id), '{}'), array_agg(generation) into v_ended, v_generations from ended;
    if v_ended = '{}' then
        return v_ended;
    end if;
    perform rowlock.pass_on(v_ended, v_generations);
    perform rowlock.drop_requests(v_ended);
    delete from rowlock.wait where run_id = any (v_ended);
    perform rowlock.note_watchers(v_ended, null);
    perform rowlock.tell(v_ended);
    if exists (select from rowlock.run as r where r.id = any (v_ended) and r.child_index is not null) then
        -- a parent that waits for a group looks again by itself
        perform rowlock.note_waiters(array(
            select split_part(g.name, ':', 1)::uuid
              from unnest(rowlock.note_arrivals(v_ended)) as g (name)));
    end if;
    return v_ended;
end $$;

create or replace function rowlock.cancel(
    run_id  uuid,
    grace   interval default interval '30 seconds',
    force   boolean  default false,
    reason  text     default null)
returns void
language plpgsql volatile
set search_path = pg_catalog
set enable_seqscan = off set jit = off set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
    v_app    text;
    v_task   rowlock.task;
    v_queue  text;
    v_new    boolean;
    v_locked uuid[];
    v_ended  uuid[];
begin
    if cancel.grace is null or cancel.grace < interval '0' or not isfinite(cancel.grace) then
        raise exception 'the grace is %, but must be 0 or more', coalesce(cancel.grace::text, 'null')
            using errcode = 'RLV02', hint = 'For example grace => interval ''1 minute''. Nothing was changed.';
    end if;
    perform rowlock.check_reason(cancel.reason);
    select r.app into v_app from rowlock.run as r where r.id = cancel.run_id and rowlock.allowed(r.app);
    if not found then
        perform rowlock.refuse_unknown(cancel.run_id);
    end if;
    select t.* into v_task from rowlock.task as t where t.run_id = cancel.run_id;
    if not found then
        perform rowlock.refuse_finished(cancel.run_id, 'cancelled');
    end if;
    insert into rowlock.cancel_request (run_id, requested_at, generation, grace_s, force, reason)
    select v_task.run_id, clock_timestamp(), v_task.generation, extract(epoch from cancel.grace),
           coalesce(cancel.force, false), cancel.reason
     where not exists (select from rowlock.cancel_request as c
                        where c.run_id = v_task.run_id and c.generation = v_task.generation
                          and c.force >= coalesce(cancel.force, false));
    v_new := found;
    v_locked := array(select t.run_id from rowlock.task as t
                       where t.run_id = cancel.run_id and t.state <> 'running' for update skip locked);
    v_ended := rowlock.end_unbegun(v_locked);
    if v_new or v_ended <> '{}' then
        perform rowlock.note_audit('cancel', v_app, cancel.run_id, null,
            jsonb_build_object('status', v_task.state),
            jsonb_build_object('status', case when v_ended <> '{}' then 'cancelled' end,
                               'requested', true, 'grace_s', extract(epoch from cancel.grace),
                               'force', nullif(cancel.force, false), 'reason', cancel.reason));
    end if;
    if v_ended <> '{}' then
        perform rowlock.notify_tender(v_app);
        return;
    end if;
    update rowlock.task as t
       set state = 'ready', due_at = clock_timestamp()
     where t.run_id = cancel.run_id and v_locked <> '{}' and t.state in ('waiting', 'scheduled')
    returning t.queue into v_queue;
    if found then
        perform rowlock.notify_idle(v_app, v_queue);
    elsif v_locked = '{}' then
        -- It runs, or somebody holds it: he may be just claiming it, or letting it go.
        if v_task.worker_id is not null then
            perform pg_notify('rowlock_worker_' || v_task.worker_id, 'cancel');
        else
            perform rowlock.notify_tender(v_app);
        end if;
    end if;
end $$;
comment on function rowlock.cancel(uuid, interval, boolean, text) is
'Asks a run to stop, and its children with it. One that has not begun, or is blocked, ends at once; any
other gets CancelledError where it waits, and may clean up.

run_id: the run.
grace: how long it may clean up; default: 30 seconds.
force: without cleaning up; default: false.
reason: why, for its error and the audit; default: it says that it was cancelled.';

-- sweep_cancels: for requests whose run is not running: end it, or see that it is claimed soon. Each
-- is looked at again when it is twice as old (at most 10 minutes later): what a run that falls asleep,
-- blocks or ends just now makes of it shows in the next look, and those that wait in a deep queue or
-- clean up for long cost next to nothing and hide no others.
create or replace function rowlock.sweep_cancels(p_limit integer) returns integer
language plpgsql volatile
set search_path = pg_catalog
set enable_seqscan = off set jit = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
set plan_cache_mode = force_generic_plan
as $$
declare
    v_now    timestamptz := clock_timestamp();
    v_rows   tid[];
    v_asked  uuid[];
    v_locked uuid[];
    v_missed uuid[];
    v_ended  uuid[];
    v_ready  record;
    v_count  integer := 0;
begin
    select array_agg(x.ctid), array_agg(distinct x.run_id) into v_rows, v_asked
      from (select c.ctid, c.run_id from rowlock.cancel_request as c
             where c.look_at <= v_now order by c.look_at limit p_limit
               for update skip locked) as x;
    if v_rows is null then
        return 0;
    end if;
    v_locked := array(
        select t.run_id from rowlock.task as t
         where t.run_id = any (v_asked) and t.state <> 'running'
         order by t.run_id for update skip locked);
    v_missed := array(
        select t.run_id from rowlock.task as t
         where t.run_id = any (v_asked) and t.state <> 'running' and not t.run_id = any (v_locked));
    -- Whoever claimed it while the request was made could not be told then.
    perform pg_notify('rowlock_worker_' || x.worker_id, 'cancel')
       from (select distinct t.worker_id from rowlock.task as t
              where t.run_id = any (v_asked) and t.state || '' = 'running') as x;
    v_ended := rowlock.end_unbegun(v_locked);
    for v_ready in
        with woken as (
            update rowlock.task as t
               set state = 'ready', due_at = clock_timestamp()
             where t.run_id = any (v_locked) and t.state in ('waiting', 'scheduled')
               and exists (select from rowlock.cancel_request as c
                            where c.run_id = t.run_id and rowlock.is_meant(c, t.generation))
               -- One that has seen it cleans up, and sleeps until it tries again.
               and not exists (select from rowlock.step as s
                                where s.run_id = t.run_id and s.generation = t.generation
                                  and s.place = 'cancel')
            returning t.app, t.queue)
        select app, queue, count(*) as n from woken group by app, queue
    loop
        v_count := v_count + v_ready.n;
        perform rowlock.notify_idle(v_ready.app, v_ready.queue);
    end loop;
    -- Its run ended meanwhile, or has begun another history.
    delete from rowlock.cancel_request as c
     where c.ctid = any (v_rows)
       and not exists (select from rowlock.task as t
                        where t.run_id = c.run_id and rowlock.is_meant(c, t.generation));
    update rowlock.cancel_request as c
       set look_at = v_now + case
               when c.run_id = any (v_missed) then interval '1 second'
               else least(greatest(v_now - c.requested_at, interval '1 second'), interval '10 minutes') end
     where c.ctid = any (v_rows);
    return v_count + cardinality(v_ended);
end $$;
