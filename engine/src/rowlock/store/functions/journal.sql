-- journal: every durable write of every run in one worker process, as one transaction.
--
-- One VOLATILE call in autocommit: a worker that is stopped in the middle holds no locks. It
-- never waits: whatever it would have to lock and can't have is skipped, answered with 'again',
-- and comes with the next batch; otherwise two healthy journals deadlock (2c) and one open
-- transaction of a caller stalls every run of the process (2f).
--
-- The fence is the own worker row, held FOR KEY SHARE: only the holder of that row FOR UPDATE
-- (reaper, leave) or this worker's own journal ends a claim of this worker or changes its epoch.
-- So tasks read here as "mine, running, my epoch" stay so until this transaction ends, without a
-- lock on each of them (411 WAL bytes a step instead of 466).
--
-- Plans are made once, when tables may be tiny, and kept while they grow. So nothing may be left to the
-- planner's guess but lookups by key: no plain index scans (only a bitmap scan needs a condition), and
-- `state || ''`, `worker_id + 0` keep the partial indexes out; else a batch of 250 reads all
-- running tasks, or all waits, 250 times (tests/store/test_plans.py).
--
-- Entries come as JSON arrays of objects, each with its number `i` in the batch; p_asked counts the
-- steps, p_made says that some have an output that is made here (children, `now`). Answered are
-- only the exceptions, with the verdict
--   written   with a detail made here: the id of a child, the time of a `now`
--   woken     (i = -1) detail says how many waiters became ready
--   recorded  the place was recorded before: detail is what is there (adopt it)
--   again     not now: send it with the next batch
--   look      a suspend whose watched run has ended: look at the outcome, don't sleep
--   lost      this worker does not own the run (any more): stop it
--   gone      (i = -1) this worker was declared dead: stop everything
-- Everything that is not mentioned was written.

-- wake_waiters: make ready who waits for runs that have just ended. Must be a later statement
-- than the one that deleted their tasks: a waiter registers under a lock on that task, so its
-- registration is visible now, or it will find no task (3p). Who can't be locked is noted.
create or replace function rowlock.wake_waiters(p_ended uuid[]) returns integer
language plpgsql volatile
set search_path = pg_catalog
set enable_seqscan = off set enable_indexscan = off set enable_indexonlyscan = off
set enable_hashjoin = off set enable_mergejoin = off set plan_cache_mode = force_generic_plan
as $$
declare
    v_waiters uuid[];
    v_locked  uuid[];
    v_woken   integer;
begin
    v_waiters := array(
        select distinct w.run_id from rowlock.wait as w where w.on_run_id = any (p_ended));
    if v_waiters = '{}' then
        return 0;
    end if;
    v_locked := array(
        select t.run_id from rowlock.task as t
         where t.run_id = any (v_waiters) and t.state || '' = 'waiting'
         order by t.run_id
           for no key update skip locked);
    -- One note a waiter is enough. A sweep that removes it just now holds the waiter's task and wakes
    -- it; if that comes before our commit, the waiter can't sleep again past our lock.
    insert into rowlock.wake (run_id)
    select t.run_id from rowlock.task as t
     where t.run_id = any (v_waiters) and t.state || '' = 'waiting' and not t.run_id = any (v_locked)
       and not exists (select from rowlock.wake as w where w.run_id = t.run_id);
    -- Who waits for many is not woken for each: its replay costs more than the wait (patience).
    with woken as (
        update rowlock.task as t
           set state = case when t.patience_ms > 0 then 'scheduled' else 'ready' end,
               due_at = case when t.patience_ms > 0
                             then least(t.due_at, clock_timestamp() + t.patience_ms * interval '1 ms')
                             else clock_timestamp() end
         where t.run_id = any (v_locked)
        returning t.app, t.queue, t.state)
    select count(*), count(rowlock.notify_idle(q.app, q.queue)) into v_woken
      from (select distinct app, queue from woken where state = 'ready') as q;
    return cardinality(v_locked);
end $$;

create or replace function rowlock.journal(
    p_worker bigint, p_steps json, p_asked integer, p_made boolean, p_waits jsonb, p_finishes jsonb,
    p_suspends jsonb, p_releases jsonb, p_retrying boolean)
returns table (i integer, verdict text, detail jsonb)
language plpgsql volatile
set search_path = pg_catalog
set enable_seqscan = off set enable_indexscan = off set enable_indexonlyscan = off
set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
    v_now       timestamptz := clock_timestamp();
    -- A test that lets time pass moves rows back, and says here how far; elsewhere it is not set.
    v_told      timestamptz := v_now + coalesce(nullif(current_setting('rowlock.test_offset', true), '')::interval, '0');
    v_ends      jsonb := p_finishes || p_suspends || p_releases;  -- own tasks that end or sleep
    v_held      uuid[] := '{}';   -- those of them that could be locked
    v_passed    uuid[] := '{}';   -- own, but locked by someone: all their entries wait together
    v_watched   uuid[] := '{}';   -- watched runs that are held, so none of them can end now
    v_finish    uuid[];
    v_children  jsonb;
    v_written   integer;
    v_steps     jsonb;
    v_woken     integer;
begin
    perform rowlock.require_read_committed();

    -- (1) the fence
    perform 1 from rowlock.worker where id = p_worker for key share skip locked;
    if not found then
        if exists (select from rowlock.worker where id = p_worker) then
            return query select -1, 'again', null::jsonb;
        else
            return query select -1, 'gone', null::jsonb;
        end if;
        return;
    end if;

    if v_ends <> '[]' then
        -- (3) own tasks that end or sleep
        v_held := array(
            select t.run_id
              from jsonb_to_recordset(v_ends) as e (run uuid, epoch integer)
              join rowlock.task as t on t.run_id = e.run
             where t.epoch = e.epoch and t.state || '' = 'running' and t.worker_id + 0 = p_worker
             order by t.run_id
               for update of t skip locked);
        if cardinality(v_held) < jsonb_array_length(v_ends) then
            v_passed := array(
                select t.run_id
                  from jsonb_to_recordset(v_ends) as e (run uuid, epoch integer)
                  join rowlock.task as t on t.run_id = e.run
                 where t.epoch = e.epoch and t.state || '' = 'running' and t.worker_id + 0 = p_worker
                   and not t.run_id = any (v_held));
            -- A finish that was passed by for too long shuts the door to new watchers; FOR NO KEY
            -- UPDATE passes the locks of those who watch already.
            update rowlock.task set closing = true
             where not closing
               and run_id = any (array(
                     select t.run_id
                       from jsonb_to_recordset(p_finishes) as e (run uuid, closing boolean)
                       join rowlock.task as t on t.run_id = e.run
                      where e.closing and t.run_id = any (v_passed)
                      order by t.run_id
                        for no key update of t skip locked));
        end if;

        -- (4) tasks of watched runs: while they are held, none of them can end
        if p_suspends <> '[]' then
            v_watched := array(
                select t.run_id
                  from rowlock.task as t
                 where t.run_id = any (array(
                         select (w ->> 'on')::uuid
                           from jsonb_to_recordset(p_suspends) as e (run uuid, watches jsonb)
                          cross join jsonb_array_elements(e.watches) as w
                          where e.run = any (v_held)))
                   and not t.closing
                 order by t.run_id
                   for key share skip locked);
        end if;
    end if;

    -- (5) steps, of runs that are mine. The hot path reads the text once and inserts plainly: ON
    -- CONFLICT costs 48 WAL bytes a step, jsonb a quarter more time.
    if p_asked > 0 and not p_made and not p_retrying then
        insert into rowlock.step (run_id, recorded_at, generation, position, epoch, seconds, attempts,
                                  place, kind, name, output, error)
        select e.run, v_now, t.generation, e.position, e.epoch, e.seconds, coalesce(e.attempts, 1),
               e.place, coalesce(e.kind, 'step'), e.name, e.output, e.error
          from json_to_recordset(p_steps) as e (
                   run uuid, position integer, epoch integer, seconds real, attempts smallint,
                   place text, kind text, name text, output jsonb, error jsonb)
          join rowlock.task as t on t.run_id = e.run
         where t.epoch = e.epoch and t.state || '' = 'running' and t.worker_id + 0 = p_worker
           and not e.run = any (v_passed);
        get diagnostics v_written = row_count;
    elsif p_asked > 0 then
        -- Ids of children and the time of a `now` are made here, by the server.
        v_steps := p_steps::jsonb;
        v_children := (
            select jsonb_object_agg(c.i, rowlock.uuidv7())
              from jsonb_to_recordset(v_steps) as c (i integer, child jsonb)
             where c.child is not null);
        insert into rowlock.step (run_id, recorded_at, generation, position, epoch, seconds, attempts,
                                  place, kind, name, output, error)
        select e.run, v_now, t.generation, e.position, e.epoch, e.seconds, coalesce(e.attempts, 1),
               e.place, coalesce(e.kind, 'step'), e.name,
               case when e.kind = 'now' then to_jsonb(v_told)
                    else coalesce(v_children -> e.i::text, e.output) end, e.error
          from jsonb_to_recordset(v_steps) as e (
                   i integer, run uuid, position integer, epoch integer, seconds real,
                   attempts smallint, place text, kind text, name text, output jsonb, error jsonb)
          join rowlock.task as t on t.run_id = e.run
         where t.epoch = e.epoch and t.state || '' = 'running' and t.worker_id + 0 = p_worker
           and not e.run = any (v_passed)
        on conflict do nothing;
        get diagnostics v_written = row_count;
    end if;

    if p_asked > 0 then
        v_steps := coalesce(v_steps, case when v_written < p_asked then p_steps::jsonb end);
        if v_written < p_asked then
            -- "No row" is a question, not an answer: look again, then decide (2i). A finish that came
            -- with them may have been committed by the first try: its outcome has our epoch.
            return query
            select e.i,
                   case when e.run = any (v_passed) then 'again'
                        when s.run_id is not null then 'recorded'
                        when t.run_id is not null then 'again'
                        else 'lost'
                   end,
                   case when s.run_id is not null and not e.run = any (v_passed) then
                       jsonb_build_object('kind', s.kind, 'name', s.name, 'position', s.position,
                                          'output', s.output, 'error', s.error)
                   end
              from jsonb_to_recordset(v_steps) as e (
                       i integer, run uuid, position integer, epoch integer, place text)
              left join rowlock.task as t
                on t.run_id = e.run and t.epoch = e.epoch and t.state || '' = 'running'
               and t.worker_id + 0 = p_worker
              left join rowlock.outcome as o
                on t.run_id is null and o.run_id = e.run and o.epoch = e.epoch
              left join rowlock.step as s
                on s.run_id = e.run and s.generation = coalesce(t.generation, o.generation)
               and s.place = e.place
             where e.run = any (v_passed) or t.run_id is null
                or (s.epoch = e.epoch and s.position = e.position
                    and s.xmin = pg_current_xact_id()::xid) is not true;
        end if;

        if p_made and v_steps @> '[{"kind": "now"}]' then
            return query
            select e.i, 'written', to_jsonb(v_told)
              from jsonb_to_recordset(v_steps) as e (
                       i integer, run uuid, epoch integer, place text, kind text)
              join rowlock.task as t on t.run_id = e.run and t.epoch = e.epoch
              join rowlock.step as s
                on s.run_id = t.run_id and s.generation = t.generation and s.place = e.place
             where e.kind = 'now' and s.xmin = pg_current_xact_id()::xid;
        end if;

        -- what hangs on the steps that were written: children
        if v_children is not null then
            return query
            with fresh as (
                select e.i, (v_children ->> e.i::text)::uuid as id, e.run, t.generation, e.place, e.child
                  from jsonb_to_recordset(v_steps) as e (
                           i integer, run uuid, epoch integer, place text, child jsonb)
                  join rowlock.task as t on t.run_id = e.run and t.epoch = e.epoch
                  join rowlock.step as s
                    on s.run_id = t.run_id and s.generation = t.generation and s.place = e.place
                 where e.child is not null and s.output = v_children -> e.i::text
            ), asked as (
                select f.*, r.app, r.priority,
                       coalesce(f.child ->> 'queue', w.queue, 'default') as queue
                  from fresh as f
                  join rowlock.run as r on r.id = f.run
                  left join rowlock.workflow as w on w.app = r.app and w.name = f.child ->> 'workflow'
            ), runs as (
                insert into rowlock.run (id, created_at, parent_id, parent_generation, parent_place,
                                         priority, app, workflow, queue, input, attributes,
                                         trace_context)
                select a.id, v_now, a.run, a.generation, a.place,
                       coalesce((a.child ->> 'priority')::smallint, a.priority), a.app, a.child ->> 'workflow', a.queue,
                       coalesce(nullif(a.child -> 'input', 'null'), '{}'), nullif(a.child -> 'attributes', 'null'),
                       nullif(a.child -> 'trace_context', 'null')
                  from asked as a
            ), tasks as (
                insert into rowlock.task (run_id, due_at, priority, state, app, queue, workflow)
                select a.id, v_now, coalesce((a.child ->> 'priority')::smallint, a.priority), 'ready', a.app, a.queue,
                       a.child ->> 'workflow'
                  from asked as a
                returning app, queue
            ), told as (
                select count(rowlock.notify_idle(q.app, q.queue, p_worker))
                  from (select distinct app, queue from tasks) as q
            )
            select f.i, 'written', to_jsonb(f.id) from fresh as f cross join told;
        end if;
    end if;

    if p_waits <> '[]' then
        insert into rowlock.wait (run_id, opened_at, due_at, generation, attempt, place, kind, error)
        select distinct on (e.run, e.place)
               e.run, v_now, v_now + e.seconds * interval '1 second', t.generation,
               coalesce(e.attempt, 0), e.place, e.kind, e.error
          from jsonb_to_recordset(p_waits) as e (
                   run uuid, epoch integer, seconds double precision,
                   attempt smallint, place text, kind text, error jsonb)
          join rowlock.task as t on t.run_id = e.run
         where t.epoch = e.epoch and t.state || '' = 'running' and t.worker_id + 0 = p_worker
           and not e.run = any (v_passed)
         order by e.run, e.place, coalesce(e.attempt, 0) desc
        on conflict (run_id, generation, place) do update
           set due_at = excluded.due_at, attempt = excluded.attempt, error = excluded.error,
               kind = excluded.kind, on_run_id = null
         where rowlock.wait.attempt < excluded.attempt or rowlock.wait.kind <> excluded.kind;
        -- Those of a run that was passed by come again with its suspend: without its timer it
        -- would sleep for ever.
        return query
        select e.i, case when e.run = any (v_passed) then 'again' else 'lost' end, null::jsonb
          from jsonb_to_recordset(p_waits) as e (i integer, run uuid, epoch integer)
         where e.run = any (v_passed)
            or not exists (select from rowlock.task as t
                            where t.run_id = e.run and t.epoch = e.epoch and t.state || '' = 'running'
                              and t.worker_id + 0 = p_worker);
    end if;

    if v_ends = '[]' then
        return;
    end if;
    if cardinality(v_held) < jsonb_array_length(v_ends) then
        return query
        select e.i, case when e.run = any (v_passed) then 'again' else 'lost' end, null::jsonb
          from jsonb_to_recordset(v_ends) as e (
                   i integer, run uuid, epoch integer, status text, watches jsonb)
         where not exists (select from rowlock.task as t
                            where t.run_id = e.run and t.epoch = e.epoch and t.run_id = any (v_held))
           -- Written by an earlier try whose answer was lost: an outcome of our epoch, or a sleep
           -- that began in it and lasts (2j: once woken it is nobody's, or another's).
           and not (e.status is not null
                    and exists (select from rowlock.outcome as o
                                 where o.run_id = e.run and o.epoch = e.epoch))
           and not (e.watches is not null
                    and exists (select from rowlock.task as t
                                 where t.run_id = e.run and t.epoch = e.epoch + 1
                                   and t.state = 'waiting'));
        if v_held = '{}' then
            return;
        end if;
    end if;

    if p_finishes <> '[]' then
        -- (6) finishes
        v_finish := array(
            select t.run_id
              from jsonb_to_recordset(p_finishes) as e (run uuid, epoch integer)
              join rowlock.task as t on t.run_id = e.run and t.epoch = e.epoch
             where t.run_id = any (v_held));
        with gone as (
            delete from rowlock.task where run_id = any (v_finish) returning *)
        insert into rowlock.outcome (run_id, started_at, finished_at, generation, epoch, app, workflow, queue,
                                     version, status, output, error)
        select g.run_id, g.started_at, v_now, g.generation, g.epoch, g.app, g.workflow, g.queue,
               g.version, e.status, e.output, e.error
          from gone as g
          join jsonb_to_recordset(p_finishes) as e (
                   run uuid, epoch integer, status text, output jsonb, error jsonb)
            on g.run_id = e.run and g.epoch = e.epoch;
        if p_finishes @> '[{"waited": true}]' then
            delete from rowlock.wait where run_id = any (v_finish);
        end if;
        -- (7) waiters, read only now
        v_woken := rowlock.wake_waiters(v_finish);
        if v_woken > 0 then
            return query select -1, 'woken', to_jsonb(v_woken);
        end if;
    end if;

    if p_releases <> '[]' then
        -- handed back, or blocked until someone resumes the run on other code
        update rowlock.task as t
           set state = case when e.reason is null then 'ready' else 'blocked' end,
               epoch = t.epoch + 1, worker_id = null, claimed_at = null, closing = false,
               reason = e.reason
          from jsonb_to_recordset(p_releases) as e (run uuid, epoch integer, reason jsonb)
         where t.run_id = e.run and t.epoch = e.epoch and t.run_id = any (v_held);
        perform rowlock.notify_idle(q.app, q.queue, p_worker)
           from (select distinct t.app, t.queue
                   from jsonb_to_recordset(p_releases) as e (run uuid, reason jsonb)
                   join rowlock.task as t on t.run_id = e.run
                  where e.reason is null and e.run = any (v_held)) as q;
    end if;

    if p_suspends <> '[]' then
        -- (8) suspends: look at what is watched, under its lock; register; sleep. `force` is for
        -- one that was passed by for too long: it sleeps without the lock, but not for long. Nor
        -- does one with a place that nothing is registered for (its timer was refused).
        return query
        with sleepy as materialized (
            select e.i, e.run, m.generation, e.watches, e.open, e.patience_ms, coalesce(e.force, false) as force,
                   (select bool_or(not exists (
                                select from rowlock.task as t where t.run_id = (w ->> 'on')::uuid))
                      from jsonb_array_elements(e.watches) as w) as ended,
                   (select coalesce(bool_and((w ->> 'on')::uuid = any (v_watched)), true)
                      from jsonb_array_elements(e.watches) as w) as all_held
              from jsonb_to_recordset(p_suspends) as e (
                       i integer, run uuid, epoch integer, watches jsonb, open jsonb,
                       patience_ms integer, force boolean)
              join rowlock.task as m on m.run_id = e.run and m.epoch = e.epoch
             where m.run_id = any (v_held)
        ), asleep as materialized (
            select * from sleepy where ended is not true and (all_held or force)
        ), closed as (
            delete from rowlock.wait as w
             using asleep as a
             where w.run_id = a.run and w.generation = a.generation and not a.open ? w.place
        ), watching as (
            insert into rowlock.wait (run_id, opened_at, on_run_id, generation, place, kind)
            select a.run, v_now, (w ->> 'on')::uuid, a.generation, w ->> 'place', 'run'
              from asleep as a
             cross join jsonb_array_elements(a.watches) as w
            -- Newer code may wait for something else at a place where nothing is recorded yet.
            on conflict (run_id, generation, place) do update
               set on_run_id = excluded.on_run_id, kind = 'run', due_at = null, attempt = 0, error = null
             where rowlock.wait.on_run_id is distinct from excluded.on_run_id
        ), slept as (
            update rowlock.task as t
               set state = 'waiting', epoch = t.epoch + 1, worker_id = null, claimed_at = null,
                   takeovers = 0, closing = false, patience_ms = a.patience_ms,
                   due_at = least(
                       timers.first_due_at,
                       case when a.all_held and timers.count + jsonb_array_length(a.watches)
                                                >= jsonb_array_length(a.open)
                            then timestamptz 'infinity'
                            else clock_timestamp() + interval '1 second' end)
              from asleep as a
             cross join lateral (
                    select count(*) as count, min(w.due_at) as first_due_at
                      from rowlock.wait as w
                     where w.run_id = a.run and w.generation = a.generation
                       and w.kind <> 'run' and a.open ? w.place) as timers
             where t.run_id = a.run
        )
        select s.i, case when s.ended then 'look' else 'again' end, null::jsonb
          from sleepy as s
         where not exists (select from asleep as a where a.run = s.run);
    end if;
end $$;

-- record_transaction: the last statement of a transaction step, pipelined with COMMIT. It may
-- wait (it has a connection of its own), and it raises when it wrote no row: to Postgres a fence
-- that matched nothing is no error, and the user's writes would commit without their step.
create or replace function rowlock.record_transaction(
    p_run uuid, p_generation integer, p_epoch integer, p_place text, p_position integer, p_name text,
    p_attempts integer, p_seconds double precision, p_output jsonb)
returns void
language plpgsql volatile set search_path = pg_catalog as $$
begin
    perform 1 from rowlock.task as t
      where t.run_id = p_run and t.generation = p_generation and t.epoch = p_epoch and t.state = 'running'
        for key share;
    if not found then
        raise exception 'run % is no longer owned in epoch %', p_run, p_epoch
            using errcode = 'RLF01', hint = 'Another worker goes on with it; this transaction is rolled back.';
    end if;
    insert into rowlock.step (run_id, recorded_at, generation, position, epoch, seconds, attempts,
                              place, kind, name, output)
    values (p_run, clock_timestamp(), p_generation, p_position, p_epoch, p_seconds, p_attempts,
            p_place, 'transaction', p_name, p_output);
end $$;

-- record_failed_transaction: the error of a transaction step, after its rollback and over another
-- connection than the journal's: the lost transaction may still be open on the server, and this
-- waits for it (5e). If that one committed after all, its step is what counts.
create or replace function rowlock.record_failed_transaction(
    p_run uuid, p_generation integer, p_epoch integer, p_place text, p_position integer, p_name text,
    p_attempts integer, p_seconds double precision, p_error jsonb)
returns table ("position" integer, output text, error text)
language plpgsql volatile set search_path = pg_catalog as $$
#variable_conflict use_column
begin
    perform rowlock.require_read_committed();
    insert into rowlock.step (run_id, recorded_at, generation, position, epoch, seconds, attempts,
                              place, kind, name, error)
    select t.run_id, clock_timestamp(), p_generation, p_position, p_epoch, p_seconds, p_attempts,
           p_place, 'transaction', p_name, p_error
      from rowlock.task as t
     where t.run_id = p_run and t.generation = p_generation and t.epoch = p_epoch and t.state = 'running'
       for key share
    on conflict do nothing;
    return query
    select s.position, s.output::text, s.error::text
      from rowlock.step as s
     where s.run_id = p_run and s.generation = p_generation and s.place = p_place
       and exists (select from rowlock.task as t
                    where t.run_id = p_run and t.epoch = p_epoch and t.state = 'running');
end $$;
