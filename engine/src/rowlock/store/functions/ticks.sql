-- ticks: what workers do for schedules: look, take ticks, declare what their code says.
--
-- A worker computes ticks from the row it has read, and hands them back with what they were computed from.
-- They count only if nothing has changed since, under the row's lock, in the transaction that starts the
-- runs. `ticked_to` only grows, so no tick is taken twice, whoever comes first and whatever became of its
-- run. Rows are taken SKIP LOCKED, and nothing here waits for more than the lock timeout: it runs on the
-- connection that carries the lease.
--
-- All times are the database's; a worker's clock plays no part. Those that come and go here are times of
-- the calendar: in tests, which move what tables hold, rowlock.passed() is between the two.

-- tick_text, tick_key: a tick as its run sees it, and the key of that run. A backfill over ticks that have
-- fired finds them by it.
create or replace function rowlock.tick_text(p_tick timestamptz) returns text
language sql immutable
set search_path = pg_catalog
as $$
    select to_char(p_tick at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
$$;

create or replace function rowlock.tick_key(p_name text, p_tick timestamptz) returns text
language sql immutable
set search_path = pg_catalog
as $$
    select 'schedule:' || p_name || ':' || rowlock.tick_text(p_tick)
$$;

-- start_of_schedule: one run of it. Key and start_at null: now, beside the ticks.
create or replace function rowlock.start_of_schedule(
    p_schedule rowlock.schedule, p_tick timestamptz, p_key text, p_start_at timestamptz)
returns uuid
language sql volatile
set search_path = pg_catalog
as $$
    select rowlock.start(
        p_schedule.workflow,
        case when p_schedule.tick_argument is null then p_schedule.input
             else p_schedule.input || jsonb_build_object(p_schedule.tick_argument, rowlock.tick_text(p_tick)) end,
        key => p_key, queue => p_schedule.queue, app => p_schedule.app, priority => p_schedule.priority,
        start_at => p_start_at, attributes => jsonb_build_object('schedule', p_schedule.name))
$$;

-- unfinished_of: runs of its ticks that have not ended, a hundred at most.
create or replace function rowlock.unfinished_of(p_app text, p_name text) returns uuid[]
language sql stable
set search_path = pg_catalog set enable_seqscan = off set jit = off
as $$
    select array(select r.run_id from rowlock.schedule_run as r
                  where r.app = p_app and r.name = p_name
                    and (select true from rowlock.task as t where t.run_id = r.run_id)
                  limit 100)
$$;

-- look_at_schedules: what a worker has to compute now. The first row (`look`) says for how long nothing
-- falls due, and whether this version is to declare its schedules; then come schedules (`due`) and
-- backfills. One that waits for its own run to end is looked at once a second.
create or replace function rowlock.look_at_schedules(p_app text, p_version text, p_limit integer)
returns table (kind text, name text, id bigint, revision integer, base timestamptz, "now" timestamptz, cron text,
               every double precision, timezone text, start_at timestamptz, end_at timestamptz, catch_up text,
               catch_up_window double precision, next_in double precision, is_current boolean)
language plpgsql volatile
set search_path = pg_catalog set enable_seqscan = off set jit = off
as $$
#variable_conflict use_column
declare
    v_now     timestamptz := clock_timestamp();
    v_next_in double precision;
begin
    if not rowlock.allowed(p_app) then
        perform rowlock.refuse_app(p_app);
    end if;
    select extract(epoch from s.due_at - v_now) into v_next_in
      from rowlock.schedule as s
     where s.app = p_app and s.due_at > v_now and s.due_at < 'infinity'
     order by s.due_at limit 1;
    if exists (select from rowlock.schedule as s
                where s.app = p_app and s.due_at <= v_now and s.overlap = 'queue') then
        v_next_in := least(v_next_in, 1);
    end if;
    kind := 'look';
    next_in := v_next_in;
    is_current := p_version = '' or rowlock.current_version(p_app) is not distinct from p_version;
    return next;
    return query
    select 'due', s.name, null::bigint, s.revision, s.ticked_to + p.passed, v_now + p.passed, s.cron,
           extract(epoch from s.every)::double precision, s.timezone, s.start_at + p.passed, s.end_at + p.passed,
           s.catch_up, extract(epoch from s.catch_up_window)::double precision, null::double precision, null::boolean
      from rowlock.schedule as s
     cross join (select rowlock.passed() as passed) as p
     where s.app = p_app and s.due_at <= v_now
       and not (s.overlap = 'queue' and s.next_tick <= v_now and rowlock.unfinished_of(s.app, s.name) <> '{}')
     order by s.due_at
     limit p_limit;
    return query
    select 'backfill', b.name, b.id, s.revision, b.ticked_to + p.passed, v_now + p.passed, s.cron,
           extract(epoch from s.every)::double precision, s.timezone, s.start_at + p.passed,
           b.until + p.passed, null, null::double precision, null::double precision, null::boolean
      from rowlock.schedule_backfill as b
      left join rowlock.schedule as s on s.app = b.app and s.name = b.name
     cross join (select rowlock.passed() as passed) as p
     where b.app = p_app and b.ended_at is null
     order by b.id
     limit 4;
end $$;

-- schedules_to_place: those whose next tick hangs on a time zone, a page at a time: each worker computes
-- them anew now and then, for the zones may have changed since.
create or replace function rowlock.schedules_to_place(p_app text, p_after text, p_limit integer)
returns table (kind text, name text, id bigint, revision integer, base timestamptz, "now" timestamptz, cron text,
               every double precision, timezone text, start_at timestamptz, end_at timestamptz, catch_up text,
               catch_up_window double precision, next_in double precision, is_current boolean)
language plpgsql volatile
set search_path = pg_catalog set enable_seqscan = off set jit = off
as $$
#variable_conflict use_column
begin
    if not rowlock.allowed(p_app) then
        perform rowlock.refuse_app(p_app);
    end if;
    return query
    select 'due', s.name, null::bigint, s.revision, s.ticked_to + p.passed, clock_timestamp() + p.passed, s.cron,
           null::double precision, s.timezone, s.start_at + p.passed, s.end_at + p.passed,
           s.catch_up, extract(epoch from s.catch_up_window)::double precision,
           extract(epoch from s.next_tick + p.passed)::double precision, null::boolean
      from rowlock.schedule as s
     cross join (select rowlock.passed() as passed) as p
     where s.app = p_app and s.name > p_after and s.cron is not null and s.timezone <> 'UTC'
       and s.due_at < 'infinity'
     order by s.name
     limit p_limit;
end $$;

-- tick: take these ticks, in order, and say when to look again (p_next null: never). `done`; `taken`:
-- something has changed since they were computed; `locked`: somebody holds the schedule.
create or replace function rowlock.tick(
    p_app text, p_name text, p_revision integer, p_base timestamptz, p_ticks timestamptz[], p_next timestamptz)
returns text
language plpgsql volatile
set search_path = pg_catalog set enable_seqscan = off set jit = off set lock_timeout = '500ms'
as $$
declare
    v_schedule   rowlock.schedule;
    v_passed     interval;
    v_now        timestamptz;
    v_tick       timestamptz;
    v_to         timestamptz;
    v_next       timestamptz := p_next;
    v_run        uuid;
    v_unfinished uuid[] := '{}';
begin
    perform rowlock.require_read_committed();
    if not rowlock.allowed(p_app) then
        perform rowlock.refuse_app(p_app);
    end if;
    select s.* into v_schedule from rowlock.schedule as s
     where s.app = p_app and s.name = p_name for no key update skip locked;
    if not found then
        perform 1 from rowlock.schedule as s where s.app = p_app and s.name = p_name;
        return case when found then 'locked' else 'taken' end;
    end if;
    v_passed := rowlock.passed();
    v_now := clock_timestamp() + v_passed;
    v_to := v_schedule.ticked_to + v_passed;
    if v_schedule.revision <> p_revision or v_to <> p_base or v_schedule.due_at = 'infinity' then
        return 'taken';
    end if;
    delete from rowlock.schedule_run as r
     where r.app = p_app and r.name = p_name and r.run_id = any (array(
             select x.run_id from rowlock.schedule_run as x
              where x.app = p_app and x.name = p_name
                and (select true from rowlock.task as t where t.run_id = x.run_id) is null
              limit 200));
    foreach v_tick in array p_ticks loop
        -- A worker's arithmetic is not trusted with promise 8, nor its clock with the time.
        if v_tick <= v_to then
            raise exception 'tick % of schedule % can''t be taken: % has been', v_tick, p_name, v_to
                using errcode = 'RLV02', hint = 'Ticks come in order. Nothing was changed.';
        end if;
        if v_tick > v_now then
            v_next := v_tick;
            exit;
        end if;
        if v_schedule.overlap <> 'allow' then
            v_unfinished := rowlock.unfinished_of(p_app, p_name);
        end if;
        if v_unfinished <> '{}' and v_schedule.overlap = 'queue' then
            v_next := v_tick;  -- it stays due until that run has ended
            exit;
        end if;
        v_to := v_tick;
        if v_unfinished <> '{}' and v_schedule.overlap = 'skip' then
            v_schedule.skipped := v_schedule.skipped + 1;
            v_schedule.last_skipped := v_tick - v_passed;
            continue;
        end if;
        if v_schedule.overlap = 'cancel_running' then
            foreach v_run in array v_unfinished loop
                begin
                    perform rowlock.cancel(v_run, reason => 'the next tick of its schedule came');
                exception when sqlstate 'RLS02' then
                    null;  -- it has just ended
                end;
            end loop;
        end if;
        v_run := rowlock.start_of_schedule(
            v_schedule, v_tick, rowlock.tick_key(p_name, v_tick),
            greatest(v_tick - v_passed + random() * v_schedule.jitter, v_now - v_passed));
        insert into rowlock.schedule_run (app, name, run_id) values (p_app, p_name, v_run)
        on conflict do nothing;
        v_schedule.fired := v_schedule.fired + 1;
        v_schedule.last_tick := v_tick - v_passed;
        v_schedule.last_run_id := v_run;
    end loop;
    update rowlock.schedule as s
       set ticked_to = v_to - v_passed, next_tick = v_next - v_passed,
           due_at = coalesce(v_next - v_passed, 'infinity'),
           fired = v_schedule.fired, last_tick = v_schedule.last_tick, last_run_id = v_schedule.last_run_id,
           skipped = v_schedule.skipped, last_skipped = v_schedule.last_skipped
     where s.app = p_app and s.name = p_name;
    return 'done';
exception when lock_not_available then
    return 'locked';  -- a stranger has the key of this tick's run, and has not committed
end $$;

-- backfill_ticks: start the runs of these past ticks, in order. Overlap is not asked: who asks for a year
-- of ticks wants them all. Keys make each the one it is.
create or replace function rowlock.backfill_ticks(
    p_app text, p_id bigint, p_revision integer, p_base timestamptz, p_ticks timestamptz[], p_is_done boolean,
    p_error text)
returns text
language plpgsql volatile
set search_path = pg_catalog set enable_seqscan = off set jit = off set lock_timeout = '500ms'
as $$
declare
    v_backfill rowlock.schedule_backfill;
    v_schedule rowlock.schedule;
    v_passed   interval;
    v_tick     timestamptz;
begin
    perform rowlock.require_read_committed();
    if not rowlock.allowed(p_app) then
        perform rowlock.refuse_app(p_app);
    end if;
    select b.* into v_backfill from rowlock.schedule_backfill as b
     where b.id = p_id and b.app = p_app for no key update skip locked;
    if not found then
        return 'locked';
    end if;
    v_passed := rowlock.passed();
    select s.* into v_schedule from rowlock.schedule as s where s.app = p_app and s.name = v_backfill.name;
    if v_backfill.ended_at is not null or v_backfill.ticked_to + v_passed <> p_base
       or v_schedule.revision is distinct from p_revision then
        return 'taken';
    end if;
    foreach v_tick in array p_ticks loop
        perform rowlock.start_of_schedule(v_schedule, v_tick, rowlock.tick_key(v_schedule.name, v_tick), null);
    end loop;
    update rowlock.schedule_backfill as b
       set started = b.started + cardinality(p_ticks),
           ticked_to = coalesce(p_ticks[cardinality(p_ticks)] - v_passed, b.ticked_to),
           ended_at = case when p_is_done then clock_timestamp() end,
           error = p_error
     where b.id = p_id;
    return 'done';
exception when lock_not_available then
    return 'locked';
end $$;

-- set_schedule_aside: no ticks can be computed of it, or started; people see why.
create or replace function rowlock.set_schedule_aside(p_app text, p_name text, p_revision integer, p_error text)
returns void
language plpgsql volatile
set search_path = pg_catalog set enable_seqscan = off set jit = off
as $$
begin
    if not rowlock.allowed(p_app) then
        perform rowlock.refuse_app(p_app);
    end if;
    perform 1 from rowlock.schedule as s
      where s.app = p_app and s.name = p_name and s.revision = p_revision for no key update skip locked;
    if found then
        update rowlock.schedule as s
           set error = left(p_error, 1000), due_at = 'infinity', next_tick = null
         where s.app = p_app and s.name = p_name;
    end if;
end $$;

-- declare_schedules: what the code of a version says. Only the current version's counts: others' code is
-- older, or not promoted yet. What has not changed is left alone, live changes with it. Null: this version
-- is not the current one; false: somebody holds one of them, ask again. What is not declared any more stops.
create or replace function rowlock.declare_schedules(p_app text, p_version text, p_declared jsonb) returns boolean
language plpgsql volatile
set search_path = pg_catalog set jit = off set lock_timeout = '500ms'
as $$
declare
    v_passed   interval := rowlock.passed();
    v_old      rowlock.schedule;
    v_new      rowlock.schedule;
    v_one      jsonb;
    v_is_whole boolean := true;
begin
    perform rowlock.require_read_committed();
    if not rowlock.allowed(p_app) then
        perform rowlock.refuse_app(p_app);
    end if;
    if p_version <> '' and rowlock.current_version(p_app) is distinct from p_version then
        return null;
    end if;
    for v_one in select e.v from jsonb_array_elements(p_declared) as e (v) order by e.v ->> 'name' loop
        v_new := jsonb_populate_record(null::rowlock.schedule, v_one);
        v_new.app := p_app;
        v_new.declared := v_one;
        v_new.start_at := v_new.start_at - v_passed;
        v_new.end_at := v_new.end_at - v_passed;
        select s.* into v_old from rowlock.schedule as s where s.app = p_app and s.name = v_new.name;
        if not found then
            insert into rowlock.schedule (
                app, name, workflow, queue, priority, cron, every, timezone, input, tick_argument, jitter, overlap,
                catch_up, catch_up_window, start_at, end_at, declared, created_by)
            values (p_app, v_new.name, v_new.workflow, v_new.queue, v_new.priority, v_new.cron, v_new.every,
                    v_new.timezone, v_new.input, v_new.tick_argument, v_new.jitter, v_new.overlap, v_new.catch_up,
                    v_new.catch_up_window, v_new.start_at, v_new.end_at, v_one, rowlock.invoker())
            on conflict do nothing;
        elsif v_old.declared is distinct from v_one or v_old.removed_at is not null then
            -- Held, and looked at once more: another worker may have declared the same.
            select s.* into v_old from rowlock.schedule as s
             where s.app = p_app and s.name = v_new.name for no key update skip locked;
            if not found then
                v_is_whole := false;
            elsif v_old.declared is distinct from v_one then
                v_new.paused_at := v_old.paused_at;
                -- Times that tests have moved are the same times.
                if v_old.declared -> 'start_at' is not distinct from v_one -> 'start_at' then
                    v_new.start_at := v_old.start_at;
                end if;
                perform rowlock.write_schedule(v_new, v_old);
            elsif v_old.removed_at is not null then
                v_new := v_old;
                v_new.removed_at := null;
                perform rowlock.write_schedule(v_new, v_old);
            end if;
        end if;
    end loop;
    update rowlock.schedule as s
       set removed_at = clock_timestamp(), due_at = 'infinity', next_tick = null, revision = s.revision + 1
     where s.app = p_app and s.name = any (array(
             select x.name from rowlock.schedule as x
              where x.app = p_app and x.declared is not null and x.removed_at is null
                and not exists (select from jsonb_array_elements(p_declared) as e (v) where e.v ->> 'name' = x.name)
                for no key update skip locked));
    return v_is_whole and not exists (
        select from rowlock.schedule as x
         where x.app = p_app and x.declared is not null and x.removed_at is null
           and not exists (select from jsonb_array_elements(p_declared) as e (v) where e.v ->> 'name' = x.name));
exception when lock_not_available then
    return false;  -- a stranger has just made one of that name, and has not committed
end $$;
