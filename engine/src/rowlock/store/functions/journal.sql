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
-- steps, p_made says that the server has a part in some of them (made.sql), p_rows that some need a
-- lock on a run's row; p_version and p_memory are for hand_over (null: nothing is handed over). Answered are only
-- the exceptions, with the verdict
--   written   with a detail made here: the id of a child, the time of a `now`, a message
--   empty     a receive that found no message: nothing was written
--   undeliverable  a send whose receiver has ended or never was: nothing was written
--   woken     (i = -1) detail says how many runs may go on now
--   arrived   (i = -1) children of groups have ended; when this is committed, sum them up (p_groups)
--   tend      (i = -1) there is something to do for whoever tends
--   listened  (i = -1) somebody outside waits for news: tell him, when this is committed
--   recorded  the place was recorded before: detail is what is there (adopt it)
--   again     not now: send it with the next batch
--   look      a suspend that what it waits for has come before: look, don't sleep; detail is a request
--             to cancel the run, if that is what came
--   lost      this worker does not own the run (any more): stop it
--   claimed   (i = -1) detail is a run that came in the place of one that ended (hand_over.sql)
--   memory    (i = -1) detail is the p_memory of the next batch that hands over
--   gone      (i = -1) this worker was declared dead: stop everything
-- Everything that is not mentioned was written.

create or replace function rowlock.journal(
    p_worker bigint, p_steps json, p_asked integer, p_made boolean, p_rows boolean, p_emits jsonb,
    p_waits jsonb, p_finishes jsonb, p_suspends jsonb, p_releases jsonb, p_groups text[],
    p_retrying boolean, p_version text, p_memory jsonb)
returns table (i integer, verdict text, detail jsonb)
language plpgsql volatile
set search_path = pg_catalog
set enable_seqscan = off set enable_indexscan = off set enable_indexonlyscan = off
set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
    v_app       text;
    v_now       timestamptz := clock_timestamp();
    v_ends      jsonb := p_finishes || p_suspends || p_releases;  -- own tasks that end or sleep
    v_held      uuid[] := '{}';   -- those of them that could be locked
    v_queues    text[];           -- of which queues, where they are counted for a limit
    v_claimed   timestamptz[];    -- and when they were claimed
    v_passed    uuid[] := '{}';   -- own, but something is locked by someone: ends, timers and emits wait together
    v_blocked   uuid[];           -- those of them whose steps wait with these
    v_rows      uuid[] := '{}';   -- run rows that are held: what is delivered to them comes in order
    v_shared    uuid[] := '{}';   -- run rows that are shared: none of their events can be set now
    v_watched   uuid[] := '{}';   -- watched runs that are held, so none of them can end now
    v_finish    uuid[];
    v_written   integer;
    v_steps     jsonb;
    v_woken     integer;
    v_groups    text[];
    v_forced    uuid[];
    v_generations integer[];
begin
    perform rowlock.require_read_committed();

    -- (1) the fence
    select w.app into v_app from rowlock.worker as w
     where w.id = p_worker and rowlock.allowed(w.app) for key share skip locked;
    if not found then
        if exists (select from rowlock.worker as w where w.id = p_worker and rowlock.allowed(w.app)) then
            return query select -1, 'again', null::jsonb;
        else
            return query select -1, 'gone', null::jsonb;
        end if;
        return;
    end if;

    if p_made or p_retrying then
        v_steps := p_steps::jsonb;
    end if;
    if p_rows then
        -- (2) run rows: of those it sends to, whose event or stream it writes, on whose messages it
        -- sleeps; shared, of those whose events it waits for
        v_rows := array(
            select r.id from rowlock.run as r
             where r.id = any (array(
                     select (e.send ->> 'run')::uuid
                       from jsonb_to_recordset(v_steps) as e (send jsonb) where e.send is not null
                     union
                     select e.run from jsonb_to_recordset(v_steps) as e (run uuid, kind text)
                      where e.kind in ('set_event', 'emit')
                     union
                     select e.run from jsonb_to_recordset(p_emits) as e (run uuid)
                     union
                     select e.run
                       from jsonb_to_recordset(p_suspends) as e (run uuid, watches jsonb)
                      where e.watches @> '[{"kind": "message"}]'))
             order by r.id
               for no key update skip locked);
        v_shared := array(
            select r.id from rowlock.run as r
             where r.id = any (array(
                     select (w ->> 'on')::uuid
                       from jsonb_to_recordset(p_suspends) as e (watches jsonb)
                      cross join jsonb_array_elements(e.watches) as w
                      where w ->> 'kind' = 'event'))
             order by r.id
               for share skip locked);
        v_passed := array(
            select e.run from jsonb_to_recordset(v_steps) as e (run uuid, kind text, send jsonb)
             where (e.kind in ('set_event', 'emit') and not e.run = any (v_rows))
                or (e.send is not null and not (e.send ->> 'run')::uuid = any (v_rows)
                    and exists (select from rowlock.run as r where r.id = (e.send ->> 'run')::uuid))
             union
            select e.run from jsonb_to_recordset(p_emits) as e (run uuid)
             where not e.run = any (v_rows));
    end if;

    v_blocked := v_passed;
    if v_ends <> '[]' then
        -- (3) own tasks that end or sleep
        select coalesce(array_agg(h.run_id), '{}'), array_agg(h.queue), array_agg(h.claimed_at)
          into v_held, v_queues, v_claimed
          from (select t.run_id, t.claimed_at,
                       case when t.limited and coalesce(t.partition, '') = '' then t.queue end as queue
                  from jsonb_to_recordset(v_ends) as e (run uuid, epoch integer)
                  join rowlock.task as t on t.run_id = e.run
                 where t.epoch = e.epoch and t.state || '' = 'running' and t.worker_id + 0 = p_worker
                   and not t.run_id = any (v_passed)
                 order by t.run_id
                   for update of t skip locked) as h;
        if cardinality(v_held) < jsonb_array_length(v_ends) then
            v_passed := v_passed || array(
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
                          where e.run = any (v_held) and w ? 'on'))
                   and not t.closing
                 order by t.run_id
                   for key share skip locked);
        end if;
    end if;

    -- Where somebody is in the way of the end only, what was done before is recorded. Of a second try not:
    -- that may be the first one, which is at it still, and has written it.
    if p_retrying then
        v_blocked := v_passed;
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
           and not e.run = any (v_blocked);
        get diagnostics v_written = row_count;
    elsif p_asked > 0 then
        return query select m.* from rowlock.record_made(p_worker, v_steps, v_blocked, v_now) as m;
        v_written := -1;
    end if;
    if v_written < p_asked then
        -- "No row" is a question, not an answer: look again, then decide (2i). A finish that came
        -- with them may have been committed by the first try: its outcome has our epoch.
        v_steps := coalesce(v_steps, p_steps::jsonb);
        return query
        select e.i,
               case when e.run = any (v_blocked) then 'again'
                    when s.run_id is not null then 'recorded'
                    when t.run_id is null then 'lost'
                    when e.kind = 'receive' and e.error is null then 'empty'
                    when e.send is not null then 'undeliverable'
                    else 'again'
               end,
               case when s.run_id is not null and not e.run = any (v_blocked) then
                   jsonb_build_object('kind', s.kind, 'name', s.name, 'position', s.position,
                                      'output', s.output, 'error', s.error)
               end
          from jsonb_to_recordset(v_steps) as e (
                   i integer, run uuid, position integer, epoch integer, place text, kind text,
                   error jsonb, send jsonb)
          left join rowlock.task as t
            on t.run_id = e.run and t.epoch = e.epoch and t.state || '' = 'running'
           and t.worker_id + 0 = p_worker
          left join rowlock.outcome as o
            on t.run_id is null and o.run_id = e.run and o.epoch = e.epoch
          left join rowlock.step as s
            on s.run_id = e.run and s.generation = coalesce(t.generation, o.generation)
           and s.place = e.place
         where e.run = any (v_blocked) or t.run_id is null
            or (s.epoch = e.epoch and s.position = e.position
                and s.xmin = pg_current_xact_id()::xid) is not true;
    end if;

    if p_emits <> '[]' then
        -- entries that steps emit: at least once, as the step itself
        perform rowlock.append(jsonb_agg(jsonb_build_object(
                    'run', e.run, 'stream', e.stream, 'value', e.value, 'n', e.i)), v_now)
           from jsonb_to_recordset(p_emits) as e (
                    i integer, run uuid, epoch integer, stream text, value jsonb)
           join rowlock.task as t on t.run_id = e.run
          where t.epoch = e.epoch and t.state || '' = 'running' and t.worker_id + 0 = p_worker
            and not e.run = any (v_passed)
         having count(*) > 0;
        return query
        select e.i, case when e.run = any (v_passed) then 'again' else 'lost' end, null::jsonb
          from jsonb_to_recordset(p_emits) as e (i integer, run uuid, epoch integer)
         where e.run = any (v_passed)
            or not exists (select from rowlock.task as t
                            where t.run_id = e.run and t.epoch = e.epoch and t.state || '' = 'running'
                              and t.worker_id + 0 = p_worker);
    end if;

    if p_waits <> '[]' then
        insert into rowlock.wait (run_id, opened_at, due_at, generation, attempt, place, kind, name,
                                  on_run_id, error)
        select distinct on (e.run, e.place)
               e.run, v_now, v_now + e.seconds * interval '1 second', t.generation,
               coalesce(e.attempt, 0), e.place, e.kind, e.name, e.on_run, e.error
          from jsonb_to_recordset(p_waits) as e (
                   run uuid, epoch integer, seconds double precision,
                   attempt smallint, place text, kind text, name text, on_run uuid, error jsonb)
          join rowlock.task as t on t.run_id = e.run
         where t.epoch = e.epoch and t.state || '' = 'running' and t.worker_id + 0 = p_worker
           and not e.run = any (v_passed)
         order by e.run, e.place, coalesce(e.attempt, 0) desc
        on conflict (run_id, generation, place) do update
           set due_at = excluded.due_at, attempt = excluded.attempt, error = excluded.error,
               kind = excluded.kind, name = excluded.name, on_run_id = excluded.on_run_id, count = null
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

    if (p_finishes <> '[]' or p_made or p_emits <> '[]') and rowlock.anybody_listens() then
        return query select -1, 'listened', null::jsonb;
    end if;

    if p_groups <> '{}' then
        v_woken := rowlock.wake_groups(p_groups);
        if v_woken > 0 then
            return query select -1, 'woken', to_jsonb(v_woken);
        end if;
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
        if p_retrying and p_finishes @> '[{"grouped": true}]' then
            -- The answer that named their groups was lost with the rest.
            return query
            select -1, 'arrived', to_jsonb(array_agg(distinct
                       format('%s:%s:%s', r.parent_id, r.parent_generation, r.parent_place)))
              from jsonb_to_recordset(p_finishes) as e (run uuid, epoch integer, grouped boolean)
              join rowlock.outcome as o on o.run_id = e.run and o.epoch = e.epoch
              join rowlock.run as r on r.id = e.run
             where e.grouped and r.child_index is not null and not e.run = any (v_held)
            having count(*) > 0;
        end if;
        if v_held = '{}' then
            return;
        end if;
    end if;

    if p_finishes <> '[]' then
        -- (6) finishes
        v_finish := array(
            select t.run_id
              from jsonb_to_recordset(p_finishes) as e (run uuid, epoch integer, status text)
              join rowlock.task as t on t.run_id = e.run and t.epoch = e.epoch
             where t.run_id = any (v_held) and e.status <> 'continued');
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
        if p_finishes @> '[{"status": "continued"}]' then
            perform rowlock.begin_next(p_finishes, v_held, v_now, p_worker);
        end if;
        if p_finishes @> '[{"waited": true}]' then
            delete from rowlock.wait where run_id = any (v_finish);
        end if;
        if p_finishes @> '[{"cancelled": true}]' then
            -- What is cancelled by force has not cancelled its children: it got no time for it.
            select array_agg(o.run_id), array_agg(o.generation) into v_forced, v_generations
              from jsonb_to_recordset(p_finishes) as e (
                       run uuid, epoch integer, status text, cancelled boolean)
              join rowlock.outcome as o on o.run_id = e.run and o.epoch = e.epoch
             where e.cancelled and e.status = 'cancelled' and e.run = any (v_finish)
               and exists (select from rowlock.cancel_request as c where c.run_id = e.run and c.force);
            if v_forced is not null then
                perform rowlock.pass_on(v_forced, v_generations);
                return query select -1, 'tend', null::jsonb;
            end if;
            perform rowlock.drop_requests(v_finish);
        end if;
        if p_finishes @> '[{"grouped": true}]' then
            v_groups := rowlock.note_arrivals(v_finish);
            return query select -1, 'arrived', to_jsonb(v_groups) where v_groups <> '{}';
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
        -- does one with a place that nothing is registered for (its timer was refused), nor one
        -- that waits for a group: a journal that died before its tally wakes nobody.
        return query
        with sleepy as materialized (
            select e.i, e.run, m.generation, e.watches, e.open, e.patience_ms, e.deadline_s,
                   coalesce(e.force, false) as force,
                   (select bool_or(case w ->> 'kind'
                               when 'message' then exists (
                                   select from rowlock.next_message(e.run, w ->> 'name', 0))
                               when 'group' then (w ->> 'count')::bigint <= (
                                   select sum(a.count) from rowlock.arrival as a
                                    where a.name = w ->> 'name')
                               when 'event' then
                                   exists (select from rowlock.event as x
                                            where x.run_id = (w ->> 'on')::uuid and x.name = w ->> 'name')
                                   or not exists (select from rowlock.task as t
                                                   where t.run_id = (w ->> 'on')::uuid)
                               else not exists (select from rowlock.task as t
                                                 where t.run_id = (w ->> 'on')::uuid)
                           end)
                      from jsonb_array_elements(e.watches) as w) is true as happened,
                   (select rowlock.request_of(e.run, m.generation)::jsonb
                     where e.told is not true
                       and exists (select from rowlock.cancel_request as c
                                    where c.run_id = e.run)) as request,
                   (select coalesce(bool_and(case w ->> 'kind'
                               when 'message' then e.run = any (v_rows)
                               when 'group' then true
                               when 'event' then (w ->> 'on')::uuid = any (v_shared)
                                                 and (w ->> 'on')::uuid = any (v_watched)
                               else (w ->> 'on')::uuid = any (v_watched)
                           end), true)
                      from jsonb_array_elements(e.watches) as w) as all_held
              from jsonb_to_recordset(p_suspends) as e (
                       i integer, run uuid, epoch integer, watches jsonb, open jsonb,
                       patience_ms integer, deadline_s double precision, force boolean, told boolean)
              join rowlock.task as m on m.run_id = e.run and m.epoch = e.epoch
             where m.run_id = any (v_held)
        ), asleep as materialized (
            select * from sleepy where not happened and request is null and (all_held or force)
        ), closed as (
            delete from rowlock.wait as w
             using asleep as a
             where w.run_id = a.run and w.generation = a.generation and not a.open ? w.place
        ), watching as (
            insert into rowlock.wait (run_id, opened_at, on_run_id, generation, place, kind, name, count)
            select a.run, v_now, (w ->> 'on')::uuid, a.generation, w ->> 'place', w ->> 'kind',
                   w ->> 'name', (w ->> 'count')::integer
              from asleep as a
             cross join jsonb_array_elements(a.watches) as w
            -- Newer code may wait for something else at a place where nothing is recorded yet. What
            -- is the same may have a timeout.
            on conflict (run_id, generation, place) do update
               set on_run_id = excluded.on_run_id, kind = excluded.kind, name = excluded.name,
                   count = excluded.count, due_at = null, attempt = 0, error = null
             where (rowlock.wait.on_run_id, rowlock.wait.kind, rowlock.wait.name, rowlock.wait.count)
                   is distinct from (excluded.on_run_id, excluded.kind, excluded.name, excluded.count)
        ), slept as (
            update rowlock.task as t
               set state = 'waiting', epoch = t.epoch + 1, worker_id = null, claimed_at = null,
                   takeovers = 0, closing = false, patience_ms = a.patience_ms,
                   due_at = least(
                       timers.first_due_at,
                       clock_timestamp() + a.deadline_s * interval '1 second',
                       case when not a.all_held
                                 or timers.unwatched + jsonb_array_length(a.watches)
                                    < jsonb_array_length(a.open)
                            then clock_timestamp() + interval '1 second'
                            when a.watches @> '[{"kind": "group"}]'
                            then clock_timestamp() + interval '1 minute'
                            else timestamptz 'infinity' end)
              from asleep as a
             cross join lateral (
                    select count(*) filter (where w.kind in ('timer', 'retry')) as unwatched,
                           min(w.due_at) as first_due_at
                      from rowlock.wait as w
                     where w.run_id = a.run and w.generation = a.generation
                       and w.due_at is not null and a.open ? w.place) as timers
             where t.run_id = a.run
        )
        select s.i, case when s.happened or s.request is not null then 'look' else 'again' end, s.request
          from sleepy as s
         where not exists (select from asleep as a where a.run = s.run);
    end if;

    if p_version is not null then
        -- (9) the places of what ended, or fell asleep, go to others
        return query select h.* from rowlock.hand_over(p_worker, v_app, p_version, p_memory, v_held, v_queues,
                                                       v_claimed, p_suspends <> '[]') as h;
    end if;
end $$;

-- journal, journal_and_claim: the same, as code of the release before calls it.
create or replace function rowlock.journal(
    p_worker bigint, p_steps json, p_asked integer, p_made boolean, p_rows boolean, p_emits jsonb,
    p_waits jsonb, p_finishes jsonb, p_suspends jsonb, p_releases jsonb, p_groups text[],
    p_retrying boolean)
returns table (i integer, verdict text, detail jsonb)
language sql volatile
set search_path = pg_catalog
as $$
    select j.i, j.verdict, j.detail
      from rowlock.journal(p_worker, p_steps, p_asked, p_made, p_rows, p_emits, p_waits, p_finishes,
                           p_suspends, p_releases, p_groups, p_retrying, null, null) as j
$$;

create or replace function rowlock.journal_and_claim(
    p_worker bigint, p_steps json, p_asked integer, p_made boolean, p_rows boolean, p_emits jsonb,
    p_waits jsonb, p_finishes jsonb, p_suspends jsonb, p_releases jsonb, p_groups text[],
    p_retrying boolean, p_app text, p_version text, p_memory jsonb default null)
returns table (i integer, verdict text, detail jsonb)
language sql volatile
set search_path = pg_catalog
as $$
    select j.i, j.verdict, j.detail
      from rowlock.journal(p_worker, p_steps, p_asked, p_made, p_rows, p_emits, p_waits, p_finishes,
                           p_suspends, p_releases, p_groups, p_retrying, p_version, p_memory) as j
$$;

-- begin_next: runs that go on as a new generation, with a new input and nothing recorded. They are
-- no longer pinned: the newest code takes them. Messages that nobody received stay.
create or replace function rowlock.begin_next(
    p_finishes jsonb, p_held uuid[], p_now timestamptz, p_worker bigint)
returns void
language plpgsql volatile
set search_path = pg_catalog
set enable_seqscan = off set jit = off set enable_indexscan = off set enable_indexonlyscan = off
set enable_hashjoin = off set enable_mergejoin = off
as $$
declare
    v_runs uuid[];
begin
    v_runs := array(
        select t.run_id
          from jsonb_to_recordset(p_finishes) as e (run uuid, epoch integer, status text)
          join rowlock.task as t on t.run_id = e.run and t.epoch = e.epoch
         where t.run_id = any (p_held) and e.status = 'continued');
    insert into rowlock.outcome (run_id, started_at, finished_at, generation, epoch, app, workflow, queue,
                                 version, status)
    select t.run_id, t.started_at, p_now, t.generation, t.epoch, t.app, t.workflow, t.queue,
           t.version, 'continued'
      from rowlock.task as t
     where t.run_id = any (v_runs);
    insert into rowlock.generation (run_id, created_at, generation, reason, input, deadline_at)
    select t.run_id, p_now, t.generation + 1, 'continued', e.next,
           case when t.generation = 1 then r.deadline_at else g.deadline_at end
      from jsonb_to_recordset(p_finishes) as e (run uuid, next jsonb)
      join rowlock.task as t on t.run_id = e.run
      join rowlock.run as r on r.id = e.run
      left join rowlock.generation as g on g.run_id = t.run_id and g.generation = t.generation
     where t.run_id = any (v_runs);
    delete from rowlock.wait where run_id = any (v_runs);
    update rowlock.task as t
       set state = 'ready', due_at = clock_timestamp(), generation = t.generation + 1,
           epoch = t.epoch + 1, worker_id = null, claimed_at = null, version = '', takeovers = 0,
           progress = 0, closing = false
     where t.run_id = any (v_runs);
    perform rowlock.notify_idle(q.app, q.queue, p_worker)
       from (select distinct t.app, t.queue from rowlock.task as t where t.run_id = any (v_runs)) as q;
end $$;
