-- cancel: ask a run to stop, and carry such requests out.
--
-- A request is a row, written under the lock on the run's row. A run that runs is told by its worker
-- (heartbeat, or a notice); one that sleeps becomes ready, and whoever claims it is told with the
-- claim. It gets CancelledError where it waits, may clean up within the grace, and ends. One that
-- never began has nothing to clean up: it ends at once, as do blocked ones, whose code can't run, and
-- all that are cancelled by force. What the caller found running may fall asleep before the request
-- is committed: the sweep of unsettled requests finds it (3l: never read the state and then branch).

-- as_request: a request as workers read it.
create or replace function rowlock.as_request(p_request rowlock.cancel_request) returns text
language sql immutable set search_path = pg_catalog
return jsonb_build_object('grace_s', p_request.grace_s, 'force', p_request.force,
                          'reason', p_request.reason)::text;

-- end_unbegun: end as cancelled those of p_runs that need no code for it, and pass the request on to
-- their children. Gives those that ended. Waiters are noted, not locked: the caller's transaction may
-- stay open.
create or replace function rowlock.end_unbegun(p_runs uuid[]) returns uuid[]
language plpgsql volatile
set search_path = pg_catalog
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
declare
    v_now   timestamptz := clock_timestamp();
    v_ended uuid[];
begin
    with gone as (
        delete from rowlock.task as t
         using rowlock.cancel_request as c
         where t.run_id = any (p_runs) and c.run_id = t.run_id and c.generation = t.generation
           and t.state <> 'running'
           and (t.started_at is null or t.state = 'blocked' or c.force)
        returning t.*, c.reason as why
    ), ended as (
        insert into rowlock.outcome (run_id, started_at, finished_at, generation, epoch, app, workflow,
                                     queue, version, status, error)
        select g.run_id, g.started_at, v_now, g.generation, g.epoch, g.app, g.workflow, g.queue,
               g.version, 'cancelled',
               jsonb_build_object('type', 'rowlock.errors.Cancelled',
                                  'message', coalesce(g.why, 'it was cancelled'))
          from gone as g
        returning run_id)
    select coalesce(array_agg(run_id), '{}') into v_ended from ended;
    if v_ended = '{}' then
        return v_ended;
    end if;
    insert into rowlock.cancel_request (run_id, requested_at, generation, grace_s, force, reason)
    select c.id, v_now, t.generation, q.grace_s, q.force, format('its parent %s was cancelled', q.run_id)
      from rowlock.cancel_request as q
      join rowlock.run as c on c.parent_id = q.run_id
      join rowlock.task as t on t.run_id = c.id
     where q.run_id = any (v_ended) and c.detached is not true
    on conflict do nothing;
    delete from rowlock.cancel_request where run_id = any (v_ended);
    delete from rowlock.wait where run_id = any (v_ended);
    perform rowlock.note_waiters(array(
        select w.run_id from rowlock.wait as w where w.on_run_id = any (v_ended)
        union all
        -- a parent that waits for a group looks again by itself
        select split_part(g.name, ':', 1)::uuid from unnest(rowlock.note_arrivals(v_ended)) as g (name)));
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
as $$
#variable_conflict use_column
declare
    v_run    rowlock.run;
    v_worker bigint;
    v_ended  uuid[];
begin
    if cancel.grace is null or cancel.grace < interval '0' then
        raise exception 'the grace is %, but must be 0 or more', coalesce(cancel.grace::text, 'null')
            using errcode = 'RLV02', hint = 'For example grace => interval ''1 minute''. Nothing was changed.';
    end if;
    select r.* into v_run from rowlock.run as r where r.id = cancel.run_id for no key update;
    if not found then
        perform rowlock.refuse_unknown(cancel.run_id);
    end if;
    insert into rowlock.cancel_request (run_id, requested_at, generation, grace_s, force, reason)
    select t.run_id, clock_timestamp(), t.generation, extract(epoch from cancel.grace), cancel.force,
           cancel.reason
      from rowlock.task as t
     where t.run_id = cancel.run_id
    on conflict (run_id) do update
       set force = rowlock.cancel_request.force or excluded.force, settled = false,
           generation = excluded.generation;
    if not found then
        perform rowlock.refuse_finished(cancel.run_id, 'cancelled');
    end if;
    v_ended := rowlock.end_unbegun(array[cancel.run_id]);
    if v_ended = '{}' then
        update rowlock.task as t
           set state = 'ready', due_at = clock_timestamp()
         where t.run_id = cancel.run_id and t.state in ('waiting', 'scheduled');
        if found then
            perform rowlock.notify_idle(v_run.app, v_run.queue);
        end if;
        select t.worker_id into v_worker from rowlock.task as t where t.run_id = cancel.run_id;
        if v_worker is not null then
            perform pg_notify('rowlock_worker_' || v_worker, 'cancel');
        end if;
    else
        perform rowlock.notify_tender(v_run.app);
    end if;
end $$;
comment on function rowlock.cancel(uuid, interval, boolean, text) is
    'Asks a run to stop: it gets CancelledError where it waits and may clean up within the grace; its children are cancelled with it. force: no cleaning up.';

-- sweep_cancels: for requests whose run is not running: end it, or see that it is claimed soon.
create or replace function rowlock.sweep_cancels(p_limit integer) returns integer
language plpgsql volatile
set search_path = pg_catalog
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
declare
    v_asked  uuid[];
    v_locked uuid[];
    v_ended  uuid[];
    v_ready  record;
    v_count  integer := 0;
begin
    v_asked := array(select c.run_id from rowlock.cancel_request as c
                      where not c.settled order by c.requested_at limit p_limit);
    if v_asked = '{}' then
        return 0;
    end if;
    v_locked := array(
        select t.run_id from rowlock.task as t
         where t.run_id = any (v_asked) and t.state <> 'running'
         order by t.run_id for update skip locked);
    v_ended := rowlock.end_unbegun(v_locked);
    for v_ready in
        with woken as (
            update rowlock.task as t
               set state = 'ready', due_at = clock_timestamp()
             where t.run_id = any (v_locked) and t.state in ('waiting', 'scheduled')
            returning t.app, t.queue)
        select app, queue, count(*) as n from woken group by app, queue
    loop
        v_count := v_count + v_ready.n;
        perform rowlock.notify_idle(v_ready.app, v_ready.queue);
    end loop;
    update rowlock.cancel_request as c set settled = true
     where c.run_id = any (v_locked)
       and exists (select from rowlock.task as t where t.run_id = c.run_id and t.state = 'ready');
    -- Its run ended meanwhile, or has begun another generation.
    delete from rowlock.cancel_request as c
     where c.run_id = any (v_asked)
       and not exists (select from rowlock.task as t
                        where t.run_id = c.run_id and t.generation = c.generation);
    return v_count + cardinality(v_ended);
end $$;
