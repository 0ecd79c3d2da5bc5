-- start_keys: a key that a run has while it is unfinished (dedup), or has not begun (debounce).
--
-- Nobody gives such a key back: it is free as soon as the run that its row names has no task any more (or
-- one that has begun). Who finds that takes the row over, under its lock and by a look in a later
-- statement, for a redo makes a task anew: it writes the same row, so that a snapshot which does not show
-- the new task can't take the row over either (serialization_failure). A caller who leaves his transaction
-- open holds up other starts with that key, and at most the one run that he put off.

-- take_dedup: the run that has this key now: p_new, or the one there is.
create or replace function rowlock.take_dedup(
    p_app text, p_workflow text, p_key text, p_policy text, p_new uuid)
returns uuid
language plpgsql volatile
set search_path = pg_catalog set enable_seqscan = off set jit = off set plan_cache_mode = force_generic_plan
as $$
declare
    v_there uuid;
begin
    loop
        insert into rowlock.start_key (app, workflow, kind, key, run_id)
        values (p_app, p_workflow, 'dedup', p_key, p_new)
        on conflict do nothing;
        if found then
            return p_new;
        end if;
        -- Without its lock: who is given back what there is holds nobody up.
        select k.run_id into v_there from rowlock.start_key as k
         where k.app = p_app and k.workflow = p_workflow and k.kind = 'dedup' and k.key = p_key;
        continue when not found;  -- removed in between
        if p_policy = 'replace' or not exists (select from rowlock.task as t where t.run_id = v_there) then
            select k.run_id into v_there from rowlock.start_key as k
             where k.app = p_app and k.workflow = p_workflow and k.kind = 'dedup' and k.key = p_key
               for no key update;
            continue when not found;
            if p_policy = 'replace' then
                perform rowlock.cancel_replaced(v_there, p_new);
            elsif exists (select from rowlock.task as t where t.run_id = v_there) then
                continue;  -- another start was faster, or a redo
            end if;
            update rowlock.start_key as k set run_id = p_new
             where k.app = p_app and k.workflow = p_workflow and k.kind = 'dedup' and k.key = p_key;
            return p_new;
        end if;
        if p_policy = 'reject' then
            perform rowlock.refuse_duplicate(p_workflow, p_key, v_there, 'Nothing was started.');
        end if;
        return v_there;
    end loop;
end $$;

create or replace function rowlock.refuse_duplicate(p_workflow text, p_key text, p_there uuid, p_done text)
returns void
language plpgsql stable set search_path = pg_catalog as $$
begin
    raise exception 'run % of % has the dedup key % and is unfinished', p_there, rowlock.shown(p_workflow),
                    rowlock.shown(p_key)
        using errcode = 'RLS06', detail = p_there::text,
              hint = p_done || ' Wait for its end, or cancel it; on_duplicate => ''existing'' gives it back, '
                     '''replace'' cancels it.';
end $$;

-- cancel_replaced: ask the run that a start replaces to stop, if it has not ended.
create or replace function rowlock.cancel_replaced(p_run uuid, p_new uuid) returns void
language plpgsql volatile
set search_path = pg_catalog set enable_seqscan = off set jit = off
as $$
begin
    if exists (select from rowlock.task as t where t.run_id = p_run) then
        perform rowlock.cancel(p_run, reason => format('run %s replaced it', p_new));
    end if;
exception when sqlstate 'RLS02' then
    null;  -- it has ended in between
end $$;

-- retake_dedup: a run that is to go on again needs its key again; refused while another has it.
create or replace function rowlock.retake_dedup(p_run uuid) returns void
language plpgsql volatile
set search_path = pg_catalog set enable_seqscan = off set jit = off
as $$
declare
    v_run   rowlock.run;
    v_there uuid;
begin
    select r.* into v_run from rowlock.run as r where r.id = p_run;
    if v_run.dedup is null then
        return;
    end if;
    -- Written even where it is its own: an older snapshot must not take it for the key of an ended run.
    insert into rowlock.start_key as k (app, workflow, kind, key, run_id)
    values (v_run.app, v_run.workflow, 'dedup', v_run.dedup, p_run)
    on conflict (app, workflow, kind, key) do update set run_id = k.run_id
    returning k.run_id into v_there;
    if v_there = p_run then
        return;
    end if;
    if exists (select from rowlock.task as t where t.run_id = v_there) then
        perform rowlock.refuse_duplicate(v_run.workflow, v_run.dedup, v_there, 'Nothing was changed.');
    end if;
    update rowlock.start_key as k set run_id = p_run
     where k.app = v_run.app and k.workflow = v_run.workflow and k.kind = 'dedup' and k.key = v_run.dedup;
end $$;

-- take_debounce: the run that has this key now: p_new, or the one there is, which is put off and gets the
-- new input. Only while it is `scheduled`: a claim reads a run's input with the snapshot in which it saw
-- the task ready, so that snapshot is younger than all that was replaced before the promotion.
create or replace function rowlock.take_debounce(
    p_app text, p_workflow text, p_key text, p_new uuid, p_quiet interval, p_most interval,
    p_input jsonb, p_attributes jsonb, p_deadline interval)
returns uuid
language plpgsql volatile
set search_path = pg_catalog set enable_seqscan = off set jit = off set plan_cache_mode = force_generic_plan
as $$
declare
    v_there  uuid;
    v_first  timestamptz;
    v_due_at timestamptz;
begin
    loop
        insert into rowlock.start_key (app, workflow, kind, key, run_id)
        values (p_app, p_workflow, 'debounce', p_key, p_new)
        on conflict do nothing;
        if found then
            return p_new;
        end if;
        select k.run_id into v_there from rowlock.start_key as k
         where k.app = p_app and k.workflow = p_workflow and k.kind = 'debounce' and k.key = p_key
           for no key update;
        exit when found;  -- else removed in between
    end loop;
    if exists (select from rowlock.task as t
                where t.run_id = v_there and t.state = 'scheduled' and t.generation = 1
                  and t.started_at is null) then
        -- The run before its task, as everybody takes them.
        select r.created_at into v_first from rowlock.run as r where r.id = v_there for no key update;
        perform 1 from rowlock.task as t
          where t.run_id = v_there and t.state = 'scheduled' and t.generation = 1 and t.started_at is null
            for no key update;
        if found then
            v_due_at := least(clock_timestamp() + p_quiet, v_first + p_most);
            update rowlock.task as t set due_at = v_due_at where t.run_id = v_there;
            update rowlock.run as r
               set input = p_input, attributes = p_attributes, deadline_at = v_due_at + p_deadline
             where r.id = v_there;
            return v_there;
        end if;
    end if;
    update rowlock.start_key as k set run_id = p_new
     where k.app = p_app and k.workflow = p_workflow and k.kind = 'debounce' and k.key = p_key;
    return p_new;
end $$;

-- drop_start_keys: of runs that are removed, as far as they still stand there. A row that is just being
-- taken over is the new run's.
create or replace function rowlock.drop_start_keys(p_runs uuid[]) returns void
language plpgsql volatile
set search_path = pg_catalog
set enable_seqscan = off set jit = off set enable_hashjoin = off set enable_mergejoin = off
set plan_cache_mode = force_generic_plan
as $$
declare
    v_rows tid[];
begin
    v_rows := array(
        select k.ctid
          from unnest(p_runs) as i (id)
         cross join lateral (
               select y.app, y.workflow, y.dedup, y.debounce from rowlock.run as y
                where y.id = i.id and (y.dedup is not null or y.debounce is not null) offset 0) as r
         cross join lateral (values ('dedup', r.dedup), ('debounce', r.debounce)) as w (kind, key)
         cross join lateral (
               select y.ctid from rowlock.start_key as y
                where y.app = r.app and y.workflow = r.workflow and y.kind = w.kind and y.key = w.key
                  and y.run_id = i.id
                  for update skip locked) as k);
    if v_rows <> '{}' then
        delete from rowlock.start_key as k where k.ctid = any (v_rows);
    end if;
end $$;
