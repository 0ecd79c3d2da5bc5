-- schedules: what is started by the calendar: made, changed, paused, deleted, looked at.
--
-- Here a schedule is only written down. When it ticks is computed by workers, who have a library for it
-- (runtime/scheduler.py), and taken in ticks.sql. So whatever changes the timing lets the row be due at
-- once, and tells a worker. A caller who leaves his transaction open holds up this one schedule: workers
-- skip what is locked.

-- passed: the time that a test has let pass (store/laboratory.py). Of the catalog and not of the session's
-- setting, so that it changes in the same moment as the times in our tables.
create or replace function rowlock.passed() returns interval
language sql stable
set search_path = pg_catalog
as $$
    select coalesce((select split_part(x.c, '=', 2)::interval
                       from pg_catalog.pg_db_role_setting as s
                      cross join unnest(s.setconfig) as x (c)
                      where s.setdatabase = (select d.oid from pg_catalog.pg_database as d
                                              where d.datname = current_database())
                        and s.setrole = 0 and starts_with(x.c, 'rowlock.test_offset=')), '0')
$$;

-- bad_cron: what is wrong with an expression, as far as can be seen without a calendar; null: nothing.
create or replace function rowlock.bad_cron(p_cron text) returns text
language plpgsql immutable
set search_path = pg_catalog
as $$
declare
    names   constant text[] := array['second', 'minute', 'hour', 'day of month', 'month', 'day of week'];
    lowest  constant integer[] := array[0, 0, 0, 1, 1, 0];
    highest constant integer[] := array[59, 59, 23, 31, 12, 7];
    v_fields text[];
    v_term   text;
    v_value  text;
    v_form   text;
begin
    if length(p_cron) > 500 then
        return 'it is longer than 500 characters';
    end if;
    v_fields := regexp_split_to_array(btrim(upper(p_cron), E' \t'), '[ \t]+');
    if cardinality(v_fields) = 5 then
        v_fields := array_prepend('0'::text, v_fields);
    elsif cardinality(v_fields) <> 6 then
        return format('it has %s fields, but must have 5 (minute, hour, day, month, weekday), or 6 with seconds first',
                      cardinality(v_fields));
    end if;
    for n in 1 .. 6 loop
        v_value := '(\d{1,2}' || case n when 5 then '|JAN|FEB|MAR|APR|MAY|JUN|JUL|AUG|SEP|OCT|NOV|DEC'
                                        when 6 then '|SUN|MON|TUE|WED|THU|FRI|SAT' else '' end || ')';
        v_form := '^(' || format('(\*|%s(-%s)?)(/0*[1-9]\d{0,3})?', v_value, v_value)
                  || case n when 4 then '|L|LW' when 6 then format('|[0-7]L|%s#[1-5]', v_value) else '' end || ')$';
        foreach v_term in array string_to_array(v_fields[n], ',') loop
            if v_term !~ v_form
               or exists (select from regexp_matches(split_part(split_part(v_term, '/', 1), '#', 1), '\d+', 'g') as m (v)
                           where m.v[1]::integer not between lowest[n] and highest[n]) then
                return format('its %s %s is none', names[n], rowlock.shown(v_term));
            end if;
        end loop;
        if v_fields[n] ~ '^,|,$|,,' then
            return format('its %s has a comma too many', names[n]);
        end if;
    end loop;
    return null;
end $$;

-- check_schedule: refuses a definition that can't work, before anything is written.
create or replace function rowlock.check_schedule(p_schedule rowlock.schedule) returns void
language plpgsql stable
set search_path = pg_catalog
as $$
declare
    v_why text;
begin
    perform rowlock.check_name('name of the schedule', p_schedule.name);
    perform rowlock.check_name('workflow', p_schedule.workflow);
    v_why := case
        when num_nonnulls(p_schedule.cron, p_schedule.every) <> 1
            then 'a schedule has either a cron expression or an interval (every)'
        when p_schedule.cron is not null
            then format('cron is %s: ', rowlock.shown(p_schedule.cron)) || rowlock.bad_cron(p_schedule.cron)
        when extract(month from p_schedule.every) <> 0 or extract(year from p_schedule.every) <> 0
             or p_schedule.every < interval '1 second' or p_schedule.every > interval '36500 days'
             or extract(epoch from p_schedule.every) % 1 <> 0
            then format('every is %s, but must be whole seconds, at least one, without months', p_schedule.every)
        end;
    v_why := coalesce(v_why, case
        when p_schedule.timezone is null or length(p_schedule.timezone) > 100
             or not exists (select from pg_catalog.pg_timezone_names as z where z.name = p_schedule.timezone)
            then format('timezone is %s, which PostgreSQL does not know', rowlock.shown(p_schedule.timezone))
        when p_schedule.jitter is null or p_schedule.jitter not between interval '0' and interval '365 days'
            then format('jitter is %s, but must be between 0 and 365 days', coalesce(p_schedule.jitter::text, 'null'))
        when coalesce(p_schedule.overlap, '') not in ('skip', 'queue', 'cancel_running', 'allow')
            then format('overlap is %s, but must be skip, queue, cancel_running or allow', rowlock.shown(p_schedule.overlap))
        when coalesce(p_schedule.catch_up, '') not in ('none', 'last', 'all')
            then format('catch_up is %s, but must be none, last or all', rowlock.shown(p_schedule.catch_up))
        when p_schedule.catch_up_window <= interval '0' or p_schedule.catch_up_window > interval '36500 days'
            then format('catch_up_window is %s, but must be above 0', p_schedule.catch_up_window)
        when p_schedule.end_at <= p_schedule.start_at then 'it ends before it starts'
        when not isfinite(p_schedule.start_at) or not isfinite(p_schedule.end_at)
            then 'start_at and end_at must be times on the calendar'
        when p_schedule.priority not between 0 and 100
            then format('priority is %s, but must be between 0 (first) and 100 (last)', p_schedule.priority)
        when jsonb_typeof(p_schedule.input) is distinct from 'object'
            then 'input is not a JSON object of the workflow''s arguments by name'
        when p_schedule.tick_argument = '' or length(p_schedule.tick_argument) > 200
            then 'tick_argument must name an argument, in 1 to 200 characters'
        end);
    if v_why is not null then
        raise exception 'the schedule can''t work: %', v_why
            using errcode = 'RLV02',
                  hint = 'For example cron => ''0 3 * * *'', timezone => ''Europe/Berlin''; or every => interval '
                         '''15 minutes''. Nothing was changed.';
    end if;
    if p_schedule.queue is not null and not exists (
          select from rowlock.queue as q where q.app = p_schedule.app and q.name = p_schedule.queue) then
        perform rowlock.refuse_queue(p_schedule.app, p_schedule.queue);
    end if;
end $$;

-- as_priority: a number that fits the column. One out of bounds is refused here, while it is as it was given:
-- the column is too small for some of them.
create or replace function rowlock.as_priority(p_priority integer) returns smallint
language plpgsql immutable
set search_path = pg_catalog
as $$
begin
    if p_priority not between 0 and 100 then
        raise exception 'the schedule can''t work: priority is %, but must be between 0 (first) and 100 (last)', p_priority
            using errcode = 'RLV02', hint = 'For example priority => 10. Nothing was changed.';
    end if;
    return p_priority;
end $$;

-- schedule_facts: the definition, for the audit. Values (the input) are not repeated there.
create or replace function rowlock.schedule_facts(p_schedule rowlock.schedule) returns jsonb
language sql stable
set search_path = pg_catalog
as $$
    select jsonb_strip_nulls(to_jsonb(p_schedule) - '{created_at,due_at,ticked_to,next_tick,last_tick,last_skipped,
        paused_at,removed_at,set_at,fired,skipped,last_run_id,revision,app,name,created_by,set_by,paused_by,reason,
        error,input,declared}'::text[])
$$;

-- schedule_due: when workers have to look at it after a change: at once, unless it does not tick.
create or replace function rowlock.schedule_due(p_schedule rowlock.schedule) returns timestamptz
language sql volatile
set search_path = pg_catalog
as $$
    select case when p_schedule.paused_at is null and p_schedule.removed_at is null and p_schedule.error is null
                then clock_timestamp() else 'infinity' end
$$;

-- notify_schedulers: have two live workers look at the schedules now: one may be frozen.
create or replace function rowlock.notify_schedulers(p_app text) returns void
language sql volatile
set search_path = pg_catalog set jit = off
as $$
    select pg_notify('rowlock_worker_' || w.id, 'schedule')
      from (select id from rowlock.worker
             where app = p_app and not draining and lease_until > clock_timestamp()
             order by random() limit 2) as w;
$$;

-- schedule_of: the row, held: nobody ticks or changes it before this transaction ends.
create or replace function rowlock.schedule_of(p_app text, p_name text) returns rowlock.schedule
language plpgsql volatile
set search_path = pg_catalog
as $$
declare
    v_schedule rowlock.schedule;
begin
    select s.* into v_schedule from rowlock.schedule as s
     where s.app = p_app and s.name = p_name for no key update;
    if not found then
        perform rowlock.refuse_schedule(p_app, p_name);
    end if;
    return v_schedule;
end $$;

create or replace function rowlock.refuse_schedule(p_app text, p_name text) returns void
language plpgsql stable set search_path = pg_catalog as $$
begin
    raise exception 'app % has no schedule %', p_app, rowlock.shown(p_name)
        using errcode = 'RLN09',
              hint = 'rowlock.schedules lists them. One that code declares is known once a worker has begun. '
                     'Nothing was changed.';
end $$;

create or replace function rowlock.create_schedule(
    name             text,
    workflow         text,
    cron             text        default null,
    every            interval    default null,
    timezone         text        default 'UTC',
    input            jsonb       default '{}',
    tick_argument    text        default null,
    queue            text        default null,
    priority         integer     default null,
    jitter           interval    default '0',
    overlap          text        default 'skip',
    catch_up         text        default 'last',
    catch_up_window  interval    default null,
    start_at         timestamptz default null,
    end_at           timestamptz default null,
    app              text        default null)
returns void
language plpgsql volatile
set search_path = pg_catalog
as $$
#variable_conflict use_column
declare
    v_new    rowlock.schedule;
    v_passed interval := rowlock.passed();
begin
    v_new.app := rowlock.resolve_app(create_schedule.app);
    v_new.name := create_schedule.name;
    v_new.workflow := create_schedule.workflow;
    v_new.cron := create_schedule.cron;
    v_new.every := create_schedule.every;
    v_new.timezone := create_schedule.timezone;
    v_new.input := coalesce(create_schedule.input, '{}');
    v_new.tick_argument := create_schedule.tick_argument;
    v_new.queue := create_schedule.queue;
    v_new.priority := rowlock.as_priority(create_schedule.priority);
    v_new.jitter := create_schedule.jitter;
    v_new.overlap := create_schedule.overlap;
    v_new.catch_up := create_schedule.catch_up;
    v_new.catch_up_window := create_schedule.catch_up_window;
    v_new.start_at := create_schedule.start_at - v_passed;
    v_new.end_at := create_schedule.end_at - v_passed;
    perform rowlock.check_schedule(v_new);
    v_new.created_at := clock_timestamp();
    v_new.due_at := v_new.created_at;
    v_new.ticked_to := v_new.created_at;
    v_new.fired := 0;
    v_new.skipped := 0;
    v_new.revision := 1;
    v_new.created_by := rowlock.invoker();
    insert into rowlock.schedule values (v_new.*) on conflict do nothing;
    if not found then
        raise exception 'app % has a schedule % already', v_new.app, v_new.name
            using errcode = 'RLS07', hint = 'rowlock.update_schedule changes it. Nothing was changed.';
    end if;
    perform rowlock.note_audit('create_schedule', v_new.app, null, 'schedule ' || v_new.name, '{}',
                               rowlock.schedule_facts(v_new));
    perform rowlock.notify_schedulers(v_new.app);
end $$;
comment on function rowlock.create_schedule(text, text, text, interval, text, jsonb, text, text, integer, interval, text, text, interval, timestamptz, timestamptz, text) is
'Makes a schedule: from now on runs of a workflow are started by the calendar, each tick once. Workers of
the app compute when; what they find wrong with it stands in rowlock.schedules.

name: its name, unique within the app.
workflow: which workflow. It need not be known yet.
cron: when: minute, hour, day, month, weekday, with seconds in front if you like; names, ranges, lists,
    steps, L, LW, 5L, MON#1; default: by an interval.
every: an interval of whole seconds instead, counted from start_at, else from 1970 in UTC; default: by cron.
timezone: in which cron is read; default: UTC.
input: the workflow''s arguments by name, as a JSON object; default: none.
tick_argument: which argument is given the time of the tick, as text; default: none.
queue: where its runs wait; default: the workflow''s queue.
priority: of its runs, 0 (first) to 100 (last); default: 50.
jitter: how much later than its tick a run may begin, at random; default: not at all.
overlap: what happens at a tick while a run of the schedule is unfinished: skip, queue, cancel_running or
    allow; default: skip.
catch_up: which ticks are made up for when no worker was there: none, last or all; default: last.
catch_up_window: how old a tick may be that is made up for; default: any age.
start_at: no tick comes before; default: now.
end_at: no tick comes after; default: it does not end.
app: which app; default: the one there is, if there is one.';

create or replace function rowlock.update_schedule(
    name             text,
    workflow         text        default null,
    cron             text        default null,
    every            interval    default null,
    timezone         text        default null,
    input            jsonb       default null,
    tick_argument    text        default null,
    queue            text        default null,
    priority         integer     default null,
    jitter           interval    default null,
    overlap          text        default null,
    catch_up         text        default null,
    catch_up_window  interval    default null,
    start_at         timestamptz default null,
    end_at           timestamptz default null,
    app              text        default null)
returns boolean
language plpgsql volatile
set search_path = pg_catalog
as $$
#variable_conflict use_column
declare
    v_app    text := rowlock.resolve_app(update_schedule.app);
    v_passed interval := rowlock.passed();
    v_old    rowlock.schedule;
    v_new    rowlock.schedule;
begin
    perform rowlock.check_name('name of the schedule', update_schedule.name);
    v_old := rowlock.schedule_of(v_app, update_schedule.name);
    v_new := v_old;
    v_new.workflow := coalesce(update_schedule.workflow, v_old.workflow);
    if num_nonnulls(update_schedule.cron, update_schedule.every) > 0 then
        v_new.cron := update_schedule.cron;
        v_new.every := update_schedule.every;
    end if;
    v_new.timezone := coalesce(update_schedule.timezone, v_old.timezone);
    v_new.input := coalesce(update_schedule.input, v_old.input);
    v_new.tick_argument := coalesce(update_schedule.tick_argument, v_old.tick_argument);
    v_new.queue := coalesce(update_schedule.queue, v_old.queue);
    v_new.priority := coalesce(rowlock.as_priority(update_schedule.priority), v_old.priority);
    v_new.jitter := coalesce(update_schedule.jitter, v_old.jitter);
    v_new.overlap := coalesce(update_schedule.overlap, v_old.overlap);
    v_new.catch_up := coalesce(update_schedule.catch_up, v_old.catch_up);
    v_new.catch_up_window := coalesce(update_schedule.catch_up_window, v_old.catch_up_window);
    v_new.start_at := coalesce(update_schedule.start_at - v_passed, v_old.start_at);
    v_new.end_at := coalesce(update_schedule.end_at - v_passed, v_old.end_at);
    return rowlock.change_schedule('update_schedule', v_new, v_old);
end $$;
comment on function rowlock.update_schedule(text, text, text, interval, text, jsonb, text, text, integer, interval, text, text, interval, timestamptz, timestamptz, text) is
'Changes a schedule; what is not given stays, and unset_schedule takes it away. With another timing it ticks
anew from now on. One that code declares stays as changed until its declaration changes. True when that
made a difference.

name: which schedule.
workflow: another workflow; default: the same.
cron: another expression, instead of an interval too; default: the same.
every: another interval, instead of a cron expression too; default: the same.
timezone: another time zone; default: the same.
input: other arguments, as a whole; default: the same.
tick_argument: another argument that is given the time of the tick; default: the same.
queue: another queue; default: the same.
priority: another priority; default: the same.
jitter: another jitter; default: the same.
overlap: another rule, see create_schedule; default: the same.
catch_up: another rule, see create_schedule; default: the same.
catch_up_window: another window; default: the same.
start_at: another begin; default: the same.
end_at: another end; default: the same.
app: which app; default: the one there is, if there is one.';

create or replace function rowlock.unset_schedule(name text, field text, app text default null) returns boolean
language plpgsql volatile
set search_path = pg_catalog
as $$
#variable_conflict use_column
declare
    v_app text := rowlock.resolve_app(unset_schedule.app);
    v_old rowlock.schedule;
    v_new rowlock.schedule;
begin
    perform rowlock.check_name('name of the schedule', unset_schedule.name);
    if unset_schedule.field is null or unset_schedule.field not in (
          'tick_argument', 'queue', 'priority', 'jitter', 'catch_up_window', 'start_at', 'end_at') then
        raise exception 'a schedule has no field % that can be taken away', rowlock.shown(unset_schedule.field)
            using errcode = 'RLV02',
                  hint = 'There are tick_argument, queue, priority, jitter, catch_up_window, start_at and end_at. '
                         'Nothing was changed.';
    end if;
    v_old := rowlock.schedule_of(v_app, unset_schedule.name);
    v_new := v_old;
    case unset_schedule.field
        when 'tick_argument' then v_new.tick_argument := null;
        when 'queue' then v_new.queue := null;
        when 'priority' then v_new.priority := null;
        when 'jitter' then v_new.jitter := '0';
        when 'catch_up_window' then v_new.catch_up_window := null;
        when 'start_at' then v_new.start_at := null;
        when 'end_at' then v_new.end_at := null;
    end case;
    return rowlock.change_schedule('unset_schedule', v_new, v_old);
end $$;
comment on function rowlock.unset_schedule(text, text, text) is
'Takes a field of a schedule away, so that it is as if it had never been given. One that code declares
stays as changed until its declaration changes. True when there was one.

name: which schedule.
field: which field: tick_argument, queue, priority, jitter, catch_up_window, start_at or end_at.
app: which app; default: the one there is, if there is one.';

-- change_schedule: what update_schedule and unset_schedule have in common; the row is held.
create or replace function rowlock.change_schedule(
    p_what text, p_new rowlock.schedule, p_old rowlock.schedule) returns boolean
language plpgsql volatile
set search_path = pg_catalog
as $$
begin
    perform rowlock.check_schedule(p_new);
    if p_new is not distinct from p_old then
        return false;
    end if;
    if p_new.declared is not null then
        p_new.set_at := clock_timestamp();
        p_new.set_by := rowlock.invoker();
    end if;
    perform rowlock.write_schedule(p_new, p_old);
    perform rowlock.note_audit(p_what, p_new.app, null, 'schedule ' || p_new.name,
                               rowlock.schedule_facts(p_old),
                               rowlock.schedule_facts(p_new) || case when p_new.input <> p_old.input
                                   then '{"input": "another"}' else '{}' end::jsonb);
    return true;
end $$;

-- write_schedule: another definition, of a row that is held. With another timing what is past is past: the
-- new expression has no ticks before the change.
create or replace function rowlock.write_schedule(p_new rowlock.schedule, p_old rowlock.schedule) returns void
language plpgsql volatile
set search_path = pg_catalog
as $$
begin
    p_new.error := null;
    update rowlock.schedule as s
       set workflow = p_new.workflow, cron = p_new.cron, every = p_new.every, timezone = p_new.timezone,
           input = p_new.input, tick_argument = p_new.tick_argument, queue = p_new.queue,
           priority = p_new.priority, jitter = p_new.jitter, overlap = p_new.overlap,
           catch_up = p_new.catch_up, catch_up_window = p_new.catch_up_window,
           start_at = p_new.start_at, end_at = p_new.end_at, declared = p_new.declared,
           set_at = p_new.set_at, set_by = p_new.set_by, removed_at = p_new.removed_at,
           error = null, revision = s.revision + 1, due_at = rowlock.schedule_due(p_new), next_tick = null,
           ticked_to = case
               when (p_new.cron, p_new.every, p_new.timezone, p_new.start_at)
                    is distinct from (p_old.cron, p_old.every, p_old.timezone, p_old.start_at)
               then greatest(s.ticked_to, clock_timestamp()) else s.ticked_to end
     where s.app = p_new.app and s.name = p_new.name;
    perform rowlock.notify_schedulers(p_new.app);
end $$;

create or replace function rowlock.pause_schedule(name text, reason text default null, app text default null)
returns boolean
language plpgsql volatile
set search_path = pg_catalog
as $$
#variable_conflict use_column
declare
    v_app text := rowlock.resolve_app(pause_schedule.app);
    v_old rowlock.schedule;
begin
    perform rowlock.check_reason(pause_schedule.reason);
    v_old := rowlock.schedule_of(v_app, pause_schedule.name);
    if v_old.paused_at is not null then
        return false;
    end if;
    update rowlock.schedule as s
       set paused_at = clock_timestamp(), paused_by = rowlock.invoker(), reason = pause_schedule.reason,
           due_at = 'infinity', next_tick = null, revision = s.revision + 1
     where s.app = v_app and s.name = v_old.name;
    perform rowlock.note_audit('pause_schedule', v_app, null, 'schedule ' || v_old.name, '{"paused": false}',
                               jsonb_build_object('paused', true, 'reason', pause_schedule.reason));
    return true;
end $$;
comment on function rowlock.pause_schedule(text, text, text) is
'Stops the ticks of a schedule until rowlock.resume_schedule; runs that it started go on. True when it was
not paused before.

name: which schedule.
reason: why, for those who wonder; default: none.
app: which app; default: the one there is, if there is one.';

create or replace function rowlock.resume_schedule(name text, app text default null) returns boolean
language plpgsql volatile
set search_path = pg_catalog
as $$
#variable_conflict use_column
declare
    v_app text := rowlock.resolve_app(resume_schedule.app);
    v_old rowlock.schedule;
    v_new rowlock.schedule;
begin
    v_old := rowlock.schedule_of(v_app, resume_schedule.name);
    if v_old.paused_at is null then
        return false;
    end if;
    v_new := v_old;
    v_new.paused_at := null;
    update rowlock.schedule as s
       set paused_at = null, paused_by = null, reason = null, due_at = rowlock.schedule_due(v_new),
           ticked_to = greatest(s.ticked_to, clock_timestamp()), revision = s.revision + 1
     where s.app = v_app and s.name = v_old.name;
    perform rowlock.note_audit('resume_schedule', v_app, null, 'schedule ' || v_old.name,
                               jsonb_build_object('paused', true, 'paused_at', v_old.paused_at,
                                                  'paused_by', v_old.paused_by, 'reason', v_old.reason),
                               '{"paused": false}');
    perform rowlock.notify_schedulers(v_app);
    return true;
end $$;
comment on function rowlock.resume_schedule(text, text) is
'Lets a paused schedule tick again. Ticks of the meantime are not made up for: rowlock.backfill does that.
True when it was paused.

name: which schedule.
app: which app; default: the one there is, if there is one.';

create or replace function rowlock.delete_schedule(name text, app text default null) returns void
language plpgsql volatile
set search_path = pg_catalog
as $$
#variable_conflict use_column
declare
    v_app text := rowlock.resolve_app(delete_schedule.app);
    v_old rowlock.schedule;
begin
    v_old := rowlock.schedule_of(v_app, delete_schedule.name);
    if v_old.declared is not null and v_old.removed_at is null then
        raise exception 'schedule % of app % stands in its code, which would declare it again', v_old.name, v_app
            using errcode = 'RLS07',
                  hint = 'Remove it from the code, or pause it with rowlock.pause_schedule. Nothing was changed.';
    end if;
    delete from rowlock.schedule as s where s.app = v_app and s.name = v_old.name;
    delete from rowlock.schedule_run as r where r.app = v_app and r.name = v_old.name;
    perform rowlock.note_audit('delete_schedule', v_app, null, 'schedule ' || v_old.name,
                               rowlock.schedule_facts(v_old), '{}');
end $$;
comment on function rowlock.delete_schedule(text, text) is
'Deletes a schedule that was made at run time, or that code does not declare any more. Runs that it
started go on; its open backfills end.

name: which schedule.
app: which app; default: the one there is, if there is one.';

create or replace function rowlock.trigger_schedule(name text, app text default null) returns uuid
language plpgsql volatile
set search_path = pg_catalog
as $$
#variable_conflict use_column
declare
    v_app  text := rowlock.resolve_app(trigger_schedule.app);
    v_run  uuid;
    v_schedule rowlock.schedule;
begin
    -- Not locked: a caller who leaves this open holds up no tick.
    select s.* into v_schedule from rowlock.schedule as s where s.app = v_app and s.name = trigger_schedule.name;
    if not found then
        perform rowlock.refuse_schedule(v_app, trigger_schedule.name);
    end if;
    v_run := rowlock.start_of_schedule(
        v_schedule, date_trunc('second', clock_timestamp() + rowlock.passed()), null, null);
    insert into rowlock.schedule_run (app, name, run_id) values (v_app, v_schedule.name, v_run);
    perform rowlock.note_audit('trigger_schedule', v_app, v_run, 'schedule ' || v_schedule.name, '{}', '{}');
    return v_run;
end $$;
comment on function rowlock.trigger_schedule(text, text) is
'Starts a run of a schedule now, beside its ticks, and gives its id; also when it is paused, and whatever
overlap says. The next tick counts it as a run of the schedule.

name: which schedule.
app: which app; default: the one there is, if there is one.';

create or replace function rowlock.backfill(
    name text, since timestamptz, until timestamptz, app text default null)
returns bigint
language plpgsql volatile
set search_path = pg_catalog
as $$
#variable_conflict use_column
declare
    v_app    text := rowlock.resolve_app(backfill.app);
    v_passed interval := rowlock.passed();
    v_id     bigint;
    v_why    text;
begin
    v_why := case
        when backfill.since is null or backfill.until is null or not isfinite(backfill.since)
             or not isfinite(backfill.until) then 'since and until must be times on the calendar'
        when backfill.since >= backfill.until then 'it ends before it begins'
        when backfill.until > clock_timestamp() + v_passed + interval '1 second'
            then format('until is %s, which is not past yet', backfill.until)
        end;
    if v_why is not null then
        raise exception 'the range can''t be run: %', v_why
            using errcode = 'RLV02',
                  hint = 'For example since => ''2026-01-01'', until => ''2026-02-01''. Nothing was changed.';
    end if;
    if not exists (select from rowlock.schedule as s where s.app = v_app and s.name = backfill.name) then
        perform rowlock.refuse_schedule(v_app, backfill.name);
    end if;
    insert into rowlock.schedule_backfill (app, name, since, until, ticked_to, requested_by)
    values (v_app, backfill.name, backfill.since - v_passed, backfill.until - v_passed,
            backfill.since - v_passed - interval '1 microsecond', rowlock.invoker())
    returning id into v_id;
    perform rowlock.note_audit('backfill', v_app, null, 'schedule ' || backfill.name, '{}',
                               jsonb_build_object('backfill', v_id, 'since', backfill.since, 'until', backfill.until));
    perform rowlock.notify_schedulers(v_app);
    return v_id;
end $$;
comment on function rowlock.backfill(text, timestamptz, timestamptz, text) is
'Has the past ticks of a range run, each once: a tick that has a run keeps it. Workers start them in
batches, by the schedule as it is then, due at once and without regard to overlap. Gives its number in
rowlock.backfills.

name: which schedule.
since: where the range begins; a tick at that time is in it.
until: where it ends; a tick at that time is not in it.
app: which app; default: the one there is, if there is one.';

create or replace view rowlock.schedules as
select s.app, s.name as schedule, s.workflow, s.cron, s.every, s.timezone,
       case when s.removed_at is not null then 'removed'
            when s.paused_at is not null then 'paused'
            when s.error is not null then 'refused'
            when s.due_at = 'infinity' then 'ended'
            else 'active' end as status,
       case when s.due_at < 'infinity' then s.next_tick end as next_tick, s.last_tick, s.last_run_id,
       s.fired, s.skipped, s.last_skipped,
       (select count(*) from rowlock.schedule_run as r
         where r.app = s.app and r.name = s.name
           and exists (select from rowlock.task as t where t.run_id = r.run_id)) as unfinished,
       s.overlap, s.catch_up, s.catch_up_window, s.jitter, s.start_at, s.end_at, s.queue, s.priority, s.input,
       s.tick_argument, s.declared is not null as declared, s.set_at, s.set_by, s.paused_at, s.paused_by, s.reason,
       s.removed_at, s.error, s.created_at, s.created_by
  from rowlock.schedule as s;
comment on view rowlock.schedules is 'What is started by the calendar, and how it stands.';
comment on column rowlock.schedules.app is 'The app it belongs to.';
comment on column rowlock.schedules.schedule is 'Its name.';
comment on column rowlock.schedules.workflow is 'The workflow that is started.';
comment on column rowlock.schedules.cron is 'When; null: by the interval.';
comment on column rowlock.schedules.every is 'The interval; null: by cron.';
comment on column rowlock.schedules.timezone is 'In which cron is read.';
comment on column rowlock.schedules.status is
    'active; paused; removed: its code does not declare it any more; refused: no ticks can be computed, see error; ended: it has no more ticks.';
comment on column rowlock.schedules.next_tick is 'The next tick; null: none, or no worker has computed it yet.';
comment on column rowlock.schedules.last_tick is 'The last tick that started a run; null: none has.';
comment on column rowlock.schedules.last_run_id is 'The run of that tick.';
comment on column rowlock.schedules.fired is 'How many ticks have started a run.';
comment on column rowlock.schedules.skipped is 'How many have started none because a run was unfinished.';
comment on column rowlock.schedules.last_skipped is 'The last of those.';
comment on column rowlock.schedules.unfinished is 'How many runs of its ticks have not ended.';
comment on column rowlock.schedules.overlap is 'What happens at a tick while a run is unfinished: skip, queue, cancel_running or allow.';
comment on column rowlock.schedules.catch_up is 'Which ticks are made up for when no worker was there: none, last or all.';
comment on column rowlock.schedules.catch_up_window is 'How old those may be; null: any age.';
comment on column rowlock.schedules.jitter is 'How much later than its tick a run may begin, at random.';
comment on column rowlock.schedules.start_at is 'No tick comes before; null: since it was made.';
comment on column rowlock.schedules.end_at is 'No tick comes after; null: it does not end.';
comment on column rowlock.schedules.queue is 'Where its runs wait; null: in the workflow''s queue.';
comment on column rowlock.schedules.priority is 'Of its runs; null: 50.';
comment on column rowlock.schedules.input is 'The arguments of its runs.';
comment on column rowlock.schedules.tick_argument is 'The argument that is given the time of the tick; null: none.';
comment on column rowlock.schedules.declared is 'Whether code declares it; false: it was made at run time.';
comment on column rowlock.schedules.set_at is 'When it was changed against its declaration; null: it is as declared.';
comment on column rowlock.schedules.set_by is 'The role that changed it.';
comment on column rowlock.schedules.paused_at is 'Since when it is paused.';
comment on column rowlock.schedules.paused_by is 'The role that paused it.';
comment on column rowlock.schedules.reason is 'Why, as that role said.';
comment on column rowlock.schedules.removed_at is 'Since when its code does not declare it any more.';
comment on column rowlock.schedules.error is 'Why no ticks can be computed; another update tries again.';
comment on column rowlock.schedules.created_at is 'When it was made, or first declared.';
comment on column rowlock.schedules.created_by is 'The role that made it, or whose worker declared it.';

create or replace view rowlock.backfills as
select b.id as backfill_id, b.app, b.name as schedule, b.since, b.until, b.started, b.requested_at, b.requested_by,
       b.ended_at, b.error
  from rowlock.schedule_backfill as b;
comment on view rowlock.backfills is 'Ranges of past ticks that were asked for, and how far they are.';
comment on column rowlock.backfills.backfill_id is 'Its number.';
comment on column rowlock.backfills.app is 'The app.';
comment on column rowlock.backfills.schedule is 'The schedule.';
comment on column rowlock.backfills.since is 'Where the range begins; a tick at that time is in it.';
comment on column rowlock.backfills.until is 'Where it ends; a tick at that time is not in it.';
comment on column rowlock.backfills.started is 'How many of its ticks have a run.';
comment on column rowlock.backfills.requested_at is 'When it was asked for.';
comment on column rowlock.backfills.requested_by is 'The role that asked.';
comment on column rowlock.backfills.ended_at is 'When it was done, or given up; null: workers are at it.';
comment on column rowlock.backfills.error is 'Why it was given up.';
