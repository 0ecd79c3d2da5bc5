-- tend: what any worker does for all of them, a bounded batch at a time: promote what has fallen due, end
-- what is too late to begin (late.sql), wake whom a busy journal could not wake, take over from the dead.
-- All SKIP LOCKED, so workers pass each other. Waking takes FOR NO KEY UPDATE, which passes those who watch the task;
-- taking over takes FOR UPDATE, which does not pass a transaction step between fence and commit.

-- promote_due: make ready what has fallen due (sleeps, delayed starts, retries, timeouts). The
-- epoch stays: nobody held these tasks, so there is no owner to fence off. due_at stays too: the
-- wait in the queue is counted from it. The time goes through a variable: a volatile function is no
-- condition for an index, and every look would read every sleeper there is.
create or replace function rowlock.promote_due(p_limit integer) returns integer
language plpgsql volatile
set search_path = pg_catalog set enable_seqscan = off set jit = off set enable_bitmapscan = off
as $$
declare
    v_now   timestamptz := clock_timestamp();
    v_count integer;
    v_ready record;
begin
    v_count := 0;
    for v_ready in
        with promoted as (
            update rowlock.task as t
               set state = 'ready'
             where t.run_id = any (array(
                     select d.run_id
                       from rowlock.task as d
                      where d.state in ('scheduled', 'waiting') and d.due_at <= v_now
                      order by d.due_at
                      limit p_limit
                        for no key update skip locked))
            returning t.app, t.queue)
        select app, queue, count(*) as n from promoted group by app, queue
    loop
        v_count := v_count + v_ready.n;
        perform rowlock.notify_idle(v_ready.app, v_ready.queue);
    end loop;
    return v_count;
end $$;

-- sweep_wakes: wake the waiters that were noted, by a journal that could not lock them or a caller
-- who may not.
create or replace function rowlock.sweep_wakes(p_limit integer) returns integer
language plpgsql volatile
set search_path = pg_catalog set enable_seqscan = off set jit = off set enable_bitmapscan = off
as $$
declare
    v_noted  uuid[];
    v_locked uuid[];
begin
    -- What happened before its note was committed: whoever waits for it now and does not know has
    -- registered before (under a lock that the one who noted it took later), so is seen here.
    with happened as (
        delete from rowlock.wake
         where ctid = any (array(select w.ctid from rowlock.wake as w
                                  where w.on_run_id is not null for update skip locked))
        returning on_run_id, name)
    insert into rowlock.wake (run_id)
    select distinct w.run_id
      from happened as h
     cross join lateral (
           select x.run_id from rowlock.wait as x
            where x.on_run_id = h.on_run_id
              and (h.name is null or (x.kind = 'event' and x.name = h.name)) offset 0) as w;
    v_noted := array(select distinct w.run_id from rowlock.wake as w where w.run_id is not null);
    if v_noted = '{}' then
        return 0;
    end if;
    -- The limit counts those that could be locked: waiters that a stranger holds hide no others.
    v_locked := array(select t.run_id from rowlock.task as t
                       where t.run_id = any (v_noted) order by t.run_id limit p_limit
                         for no key update skip locked);
    update rowlock.task set state = 'ready', due_at = clock_timestamp()
     where run_id = any (v_locked) and state = 'waiting';
    -- A waiter that is locked by someone stays noted; one without a task has ended.
    delete from rowlock.wake
     where ctid = any (array(
             select w.ctid
               from rowlock.wake as w
              where w.run_id = any (v_noted)
                and (w.run_id = any (v_locked)
                     or not exists (select from rowlock.task as t where t.run_id = w.run_id))
                for update skip locked));
    return cardinality(v_locked);
end $$;

-- reap: take the runs of dead workers away from them. The dead worker's row is locked FOR UPDATE
-- SKIP LOCKED: its journal holds that row KEY SHARE while it writes, so nothing it writes can
-- slip past the takeover. Epoch + 1 fences it off for ever. A run that is taken over again and
-- again without a new step is given up as `dead`: it probably kills its workers.
create or replace function rowlock.reap(p_limit integer, p_max_takeovers integer) returns integer
language plpgsql volatile
set search_path = pg_catalog
set enable_seqscan = off set jit = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
declare
    v_dead   bigint[];
    v_taken  uuid[];
    v_given_up uuid[];
begin
    if not exists (select from rowlock.worker where lease_until <= clock_timestamp())
       -- Hashed once, whatever the plan; as `not exists` it may probe for each run that runs.
       and not exists (select from rowlock.task as t
                        where t.state = 'running'
                          and t.worker_id not in (select w.id from rowlock.worker as w)) then
        return 0;
    end if;
    perform rowlock.require_read_committed();
    v_dead := array(select w.id from rowlock.worker as w
                     where w.lease_until <= clock_timestamp()
                     order by w.id for update skip locked);
    v_taken := array(
        select t.run_id
          from rowlock.task as t
         where t.state = 'running'
           and (t.worker_id = any (v_dead)
                or not exists (select from rowlock.worker as w where w.id = t.worker_id))
         order by t.run_id
         limit p_limit
           for update skip locked);
    -- By ANY(array), not as a join: a plan made when the table was tiny reads all of it later.
    with taken as (
        update rowlock.task as t
           set state = 'ready', epoch = t.epoch + 1, worker_id = null, claimed_at = null, closing = false,
               (takeovers, progress) = (
                   select case when coalesce(max(s.position), 0) > t.progress then 1 else t.takeovers + 1 end,
                          coalesce(max(s.position), 0)
                     from rowlock.step as s
                    where s.run_id = t.run_id and s.generation = t.generation)
         where t.run_id = any (v_taken)
           -- Asked again under the lock: one without a worker may have found a live one meanwhile.
           and (t.worker_id = any (v_dead)
                or not exists (select from rowlock.worker as w where w.id = t.worker_id))
        returning t.run_id)
    select coalesce(array_agg(run_id), '{}') into v_taken from taken;
    -- Of its own app alone: another's limit may be another.
    v_given_up := array(select t.run_id from rowlock.task as t
                         where t.run_id = any (v_taken) and t.takeovers >= p_max_takeovers
                           and rowlock.allowed(t.app));
    if v_given_up <> '{}' then
        with gone as (
            delete from rowlock.task where run_id = any (v_given_up) returning *)
        insert into rowlock.outcome
              (run_id, generation, epoch, app, workflow, queue, version, status, started_at, finished_at, error)
        select g.run_id, g.generation, g.epoch, g.app, g.workflow, g.queue, g.version, 'dead',
               g.started_at, clock_timestamp(),
               jsonb_build_object(
                   'type', 'rowlock.errors.GivenUp',
                   'message', format('taken over %s times without a new step in between; it probably kills '
                                     'the worker that runs it', g.takeovers))
          from gone as g;
        delete from rowlock.wait where run_id = any (v_given_up);
        perform rowlock.note_waiters(array(
            select split_part(g.name, ':', 1)::uuid
              from unnest(rowlock.note_arrivals(v_given_up)) as g (name)));
        perform rowlock.wake_waiters(v_given_up);
        perform rowlock.tell(v_given_up);
    end if;
    -- A dead worker whose last run has been taken leaves; one with more is met again.
    delete from rowlock.worker as w
     where w.id = any (v_dead)
       and not exists (select from rowlock.task as t where t.worker_id = w.id and t.state = 'running');
    delete from rowlock.drain_request
     where ctid = any (array(select d.ctid from rowlock.drain_request as d
                              where d.worker_id = any (v_dead) for update skip locked));
    perform rowlock.notify_idle(q.app, q.queue)
       from (select distinct t.app, t.queue from rowlock.task as t
              where t.run_id = any (v_taken) and t.state = 'ready') as q;
    return cardinality(v_taken);
end $$;

create or replace function rowlock.tend(p_limit integer, p_max_takeovers integer)
returns table (promoted integer, woken integer, taken_over integer, next_due_in double precision)
language plpgsql volatile
set search_path = pg_catalog set enable_seqscan = off set jit = off set enable_bitmapscan = off
as $$
begin
    perform rowlock.require_read_committed();
    taken_over := rowlock.reap(p_limit, p_max_takeovers);
    woken := rowlock.sweep_cancels(p_limit);
    -- A full batch of any of these is told as one: there may be more.
    promoted := least(p_limit, rowlock.end_late(p_limit) + rowlock.promote_due(p_limit)
                               + rowlock.lift_pauses(p_limit));
    woken := least(p_limit, woken + rowlock.sweep_wakes(p_limit));
    select extract(epoch from least(
               (select t.due_at from rowlock.task as t
                 where t.state in ('scheduled', 'waiting') and t.due_at < 'infinity'
                 order by t.due_at limit 1),
               (select t.start_before from rowlock.task as t
                 where t.start_before is not null and t.started_at is null
                 order by t.start_before limit 1)) - clock_timestamp())::double precision
      into next_due_in;
    return next;
end $$;
