-- wake: make ready who waits, and tell whoever does that.

-- wake_runs: make ready those of p_waiters that sleep. Who can't be locked is noted in `wake`, for a
-- sweep: this never waits. p_patient: who waits for many is not woken for each of them, for its
-- replay costs more than the wait.
create or replace function rowlock.wake_runs(p_waiters uuid[], p_patient boolean) returns integer
language plpgsql volatile
set search_path = pg_catalog
set enable_seqscan = off set jit = off set enable_indexscan = off set enable_indexonlyscan = off
set enable_hashjoin = off set enable_mergejoin = off set plan_cache_mode = force_generic_plan
as $$
declare
    v_locked  uuid[];
begin
    if p_waiters = '{}' then
        return 0;
    end if;
    v_locked := array(
        select t.run_id from rowlock.task as t
         where t.run_id = any (p_waiters) and t.state || '' = 'waiting'
         order by t.run_id
           for no key update skip locked);
    -- One note a waiter is enough. A sweep that removes it just now holds the waiter's task and wakes
    -- it; if that comes before our commit, the waiter can't sleep again past our lock.
    insert into rowlock.wake (run_id)
    select t.run_id from rowlock.task as t
     where t.run_id = any (p_waiters) and t.state || '' = 'waiting' and not t.run_id = any (v_locked)
       and not exists (select from rowlock.wake as w where w.run_id = t.run_id);
    perform rowlock.rouse(v_locked, p_patient);
    return cardinality(v_locked);
end $$;

-- rouse: the tasks of these runs are locked; make those that sleep ready.
create or replace function rowlock.rouse(p_runs uuid[], p_patient boolean) returns void
language sql volatile
set search_path = pg_catalog
set enable_seqscan = off set jit = off set enable_indexscan = off set enable_indexonlyscan = off
set enable_hashjoin = off set enable_mergejoin = off
as $$
    with woken as (
        update rowlock.task as t
           set state = case when p_patient and t.patience_ms > 0 then 'scheduled' else 'ready' end,
               due_at = case when p_patient and t.patience_ms > 0
                             then least(t.due_at, clock_timestamp() + t.patience_ms * interval '1 ms')
                             else clock_timestamp() end
         where t.run_id = any (p_runs) and t.state || '' = 'waiting'
        returning t.app, t.queue, t.state)
    select count(rowlock.notify_idle(q.app, q.queue))
      from (select distinct app, queue from woken where state = 'ready') as q;
$$;

-- wake_waiters: make ready who waits for runs that have just ended. Must be a later statement
-- than the one that deleted their tasks: a waiter registers under a lock on that task, so its
-- registration is visible now, or it will find no task (3p).
create or replace function rowlock.wake_waiters(p_ended uuid[]) returns integer
language plpgsql volatile
set search_path = pg_catalog
set enable_seqscan = off set jit = off set enable_indexscan = off set enable_indexonlyscan = off
set enable_hashjoin = off set enable_mergejoin = off set plan_cache_mode = force_generic_plan
as $$
declare
    v_waiters uuid[];
begin
    v_waiters := array(
        select distinct w.run_id from rowlock.wait as w where w.on_run_id = any (p_ended));
    if v_waiters = '{}' then
        return 0;
    end if;
    return rowlock.wake_runs(v_waiters, true);
end $$;

-- note_waiters: the same from a transaction that may stay open (a caller's): locks nobody, so that
-- no other run waits for the caller; a sweep wakes them after its commit.
create or replace function rowlock.note_waiters(p_waiters uuid[]) returns void
language sql volatile
set search_path = pg_catalog
as $$
    insert into rowlock.wake (run_id) select distinct w.run_id from unnest(p_waiters) as w (run_id);
$$;

-- note_watchers: the same for whoever waits for the end of these runs (or for an event of theirs,
-- p_event). A snapshot that is older than a waiter's sleep shows no waiter: then the sweep, whose
-- snapshot is younger than our commit, looks who there is.
create or replace function rowlock.note_watchers(p_runs uuid[], p_event text) returns boolean
language plpgsql volatile
set search_path = pg_catalog
set enable_seqscan = off set jit = off set plan_cache_mode = force_generic_plan
as $$
begin
    -- LIMIT: as "or exists (…)" the planner would hash all waits there are.
    insert into rowlock.wake (on_run_id, name)
    select r.id, p_event
      from unnest(p_runs) as r (id)
     where current_setting('transaction_isolation') <> 'read committed'
        or (select true from rowlock.wait as w
             where w.on_run_id = r.id
               and (p_event is null or (w.kind = 'event' and w.name = p_event)) limit 1);
    return found;
end $$;

-- wake_groups: children of these groups have ended, and that is committed. Sums what has arrived and
-- wakes whoever waits for a group that is complete. A parent that is just going to sleep holds its
-- task, may have looked before the arrival was committed, and its wait can't be seen yet: it is noted.
create or replace function rowlock.wake_groups(p_groups text[]) returns integer
language plpgsql volatile
set search_path = pg_catalog
set enable_seqscan = off set jit = off set enable_indexscan = off set enable_indexonlyscan = off
set enable_hashjoin = off set enable_mergejoin = off
as $$
declare
    v_parents  uuid[];
    v_locked   uuid[];
    v_folded   text[];
    v_held     uuid[];
    v_complete uuid[];
begin
    v_parents := array(
        select split_part(g.name, ':', 1)::uuid from unnest(p_groups) as g (name)
        union
        select w.run_id from rowlock.wait as w where w.kind = 'group' and w.name = any (p_groups));
    v_locked := array(
        select t.run_id from rowlock.task as t
         where t.run_id = any (v_parents) order by t.run_id for no key update skip locked);
    insert into rowlock.wake (run_id)
    select t.run_id from rowlock.task as t
     where t.run_id = any (v_parents) and not t.run_id = any (v_locked)
       and not exists (select from rowlock.wake as w where w.run_id = t.run_id);
    -- Each tally reads all rows of its groups: many are folded into one, which any reader may see
    -- instead. That one stays as long as the run: a redo or a fork may wait for the group again.
    v_folded := array(
        select a.name from rowlock.arrival as a
         where a.name = any (p_groups) group by a.name having count(*) > 64);
    if v_folded <> '{}' then
        -- Not while a removal takes the parent's arrivals away: the new one would stay for ever.
        v_held := array(
            select r.id from rowlock.run as r
             where r.id = any (array(select split_part(f.name, ':', 1)::uuid from unnest(v_folded) as f (name)))
             order by r.id for key share skip locked);
        v_folded := array(
            select f.name from unnest(v_folded) as f (name)
             where split_part(f.name, ':', 1)::uuid = any (v_held));
        with gone as (
            delete from rowlock.arrival
             where ctid = any (array(select a.ctid from rowlock.arrival as a
                                      where a.name = any (v_folded) for update skip locked))
            returning name, count)
        insert into rowlock.arrival (arrived_at, count, name)
        select clock_timestamp(), sum(g.count), g.name from gone as g group by g.name;
    end if;
    v_complete := array(
        select w.run_id from rowlock.wait as w
         where w.kind = 'group' and w.name = any (p_groups) and w.run_id = any (v_locked)
           and w.count <= (select sum(a.count) from rowlock.arrival as a where a.name = w.name));
    perform rowlock.rouse(v_complete, false);
    return cardinality(v_complete);
end $$;

-- note_arrivals: these runs have just ended; those that belong to a group say so, once each, however
-- often they are redone. Gives the groups, to be woken when this is committed.
create or replace function rowlock.note_arrivals(p_ended uuid[]) returns text[]
language sql volatile
set search_path = pg_catalog
set enable_seqscan = off set jit = off set enable_indexscan = off set enable_indexonlyscan = off
set enable_hashjoin = off set enable_mergejoin = off
as $$
    with arrived as (
        insert into rowlock.arrival (arrived_at, count, name)
        select clock_timestamp(), count(*),
               format('%s:%s:%s', r.parent_id, r.parent_generation, r.parent_place)
          from rowlock.run as r
         where r.id = any (p_ended) and r.child_index is not null
           and (select count(*) from rowlock.outcome as o
                 where o.run_id = r.id and o.status <> 'continued') = 1
         group by r.parent_id, r.parent_generation, r.parent_place
        returning name)
    select coalesce(array_agg(name), '{}') from arrived;
$$;

-- notify_tender: ask one live worker of an app to tend now instead of with its next poll.
create or replace function rowlock.notify_tender(p_app text) returns void
language sql volatile
set search_path = pg_catalog set jit = off
as $$
    select pg_notify('rowlock_worker_' || w.id, 'tend')
      from (select id from rowlock.worker
             where app = p_app and not draining and lease_until > clock_timestamp()
             order by random() limit 1) as w;
$$;
