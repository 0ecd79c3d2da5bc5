-- start_keys: a key that a run has while it is unfinished (dedup), or has not begun (debounce, batch).
--
-- Nobody gives such a key back: it is free as soon as the run that its row names has no task any more (or
-- one that has begun). Who finds that takes the row over, under its lock and by a look in a later
-- statement, for a redo makes a task anew: it writes the same row, so that a snapshot which does not show
-- the new task can't take the row over either (serialization_failure). A caller who leaves his transaction
-- open holds up other starts with that key, and at most the one run that he put off or added to.

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

-- hold_start_key: the run that this key was last given to, with the key's row held; p_new where nobody had it.
create or replace function rowlock.hold_start_key(
    p_app text, p_workflow text, p_kind text, p_key text, p_new uuid)
returns uuid
language plpgsql volatile
set search_path = pg_catalog set enable_seqscan = off set jit = off set plan_cache_mode = force_generic_plan
as $$
declare
    v_there uuid;
begin
    loop
        insert into rowlock.start_key (app, workflow, kind, key, run_id)
        values (p_app, p_workflow, p_kind, p_key, p_new)
        on conflict do nothing;
        if found then
            return p_new;
        end if;
        select k.run_id into v_there from rowlock.start_key as k
         where k.app = p_app and k.workflow = p_workflow and k.kind = p_kind and k.key = p_key
           for no key update;
        if found then
            return v_there;
        end if;
        -- else removed in between
    end loop;
end $$;

-- hold_unbegun: whether a start may still change what this run was asked; its row and its task are held then.
-- Only while it is `scheduled`: a claim reads a run's input with the snapshot in which it saw the task ready,
-- so that snapshot is younger than all that was changed before.
create or replace function rowlock.hold_unbegun(p_run uuid) returns boolean
language plpgsql volatile
set search_path = pg_catalog set enable_seqscan = off set jit = off set plan_cache_mode = force_generic_plan
as $$
begin
    if not exists (select from rowlock.task as t
                    where t.run_id = p_run and t.state = 'scheduled' and t.generation = 1
                      and t.started_at is null) then
        return false;
    end if;
    -- The run before its task, as everybody takes them.
    perform 1 from rowlock.run as r where r.id = p_run for no key update;
    perform 1 from rowlock.task as t
      where t.run_id = p_run and t.state = 'scheduled' and t.generation = 1 and t.started_at is null
        for no key update;
    return found and rowlock.may_change(p_run);
end $$;

-- may_change: not what was ready before, for a claim may still have that in its snapshot; and not what has been
-- asked to stop, for it would take the new input with it.
create or replace function rowlock.may_change(p_run uuid) returns boolean
language sql stable
set search_path = pg_catalog set enable_seqscan = off set jit = off
as $$
    select not exists (select from rowlock.cancel_request as c where c.run_id = p_run)
       and not exists (select from rowlock.audit_entry as a
                        where a.run_id = p_run and a.operation = 'reschedule'
                          and a.before ->> 'status' = 'ready')
$$;

-- take_debounce: the run that has this key now: p_new, or the one there is, which is put off and gets the
-- new input.
create or replace function rowlock.take_debounce(
    p_app text, p_workflow text, p_key text, p_new uuid, p_quiet interval, p_most interval,
    p_input jsonb, p_attributes jsonb, p_deadline interval)
returns uuid
language plpgsql volatile
set search_path = pg_catalog set enable_seqscan = off set jit = off set plan_cache_mode = force_generic_plan
as $$
declare
    v_there  uuid := rowlock.hold_start_key(p_app, p_workflow, 'debounce', p_key, p_new);
    v_first  timestamptz;
    v_due_at timestamptz;
begin
    if v_there = p_new then
        return p_new;
    elsif rowlock.hold_unbegun(v_there) then
        select r.created_at into v_first from rowlock.run as r where r.id = v_there;
        v_due_at := least(clock_timestamp() + p_quiet, v_first + p_most);
        update rowlock.task as t set due_at = v_due_at where t.run_id = v_there;
        update rowlock.run as r
           set input = p_input, attributes = p_attributes, deadline_at = v_due_at + p_deadline
         where r.id = v_there;
        return v_there;
    end if;
    update rowlock.start_key as k set run_id = p_new
     where k.app = p_app and k.workflow = p_workflow and k.kind = 'debounce' and k.key = p_key;
    return p_new;
end $$;

-- take_batch: the run that has this key now: p_new, or the one there is, to whose list this one's is added.
-- Full it is made ready in the same breath; one that this list would make too long goes without it. The
-- smallest size and the shortest wait that any of its starts asked for count, so each has what it asked.
create or replace function rowlock.take_batch(
    p_app text, p_workflow text, p_key text, p_new uuid, p_size integer, p_wait interval, p_input jsonb)
returns uuid
language plpgsql volatile
set search_path = pg_catalog set enable_seqscan = off set jit = off set plan_cache_mode = force_generic_plan
as $$
declare
    most_bytes constant integer := 1048576;  -- each start writes it anew, and no worker reads more than 16 MiB
    v_there uuid := rowlock.hold_start_key(p_app, p_workflow, 'batch', p_key, p_new);
    v_list  text := rowlock.batch_list(p_input);
    v_run   rowlock.run;
    v_n     integer;
begin
    if v_there = p_new then
        return p_new;
    elsif rowlock.hold_unbegun(v_there) then
        select r.* into v_run from rowlock.run as r where r.id = v_there;
        if v_run.input - v_list <> p_input - v_list then
            raise exception 'the run is one of batch %, but its arguments beside the list % are not those of run %, '
                            'which gathers it', rowlock.shown(p_key), rowlock.shown(v_list), v_there
                using errcode = 'RLV01', detail = v_there::text,
                      hint = 'Runs with different arguments need different keys, such as one that names them. '
                             'Nothing was started.';
        end if;
        v_n := jsonb_array_length(v_run.input -> v_list) + jsonb_array_length(p_input -> v_list);
        v_run.batch_size := least(v_run.batch_size, p_size);
        v_run.input := jsonb_set(v_run.input, array[v_list], (v_run.input -> v_list) || (p_input -> v_list));
        if v_n <= v_run.batch_size and pg_column_size(v_run.input) <= most_bytes then
            update rowlock.run as r set input = v_run.input, batch_size = v_run.batch_size where r.id = v_there;
            if v_n < v_run.batch_size then
                update rowlock.task as t set due_at = least(t.due_at, clock_timestamp() + p_wait)
                 where t.run_id = v_there;
            else
                perform rowlock.let_go(v_there);
            end if;
            return v_there;
        end if;
        perform rowlock.let_go(v_there);
    end if;
    update rowlock.start_key as k set run_id = p_new
     where k.app = p_app and k.workflow = p_workflow and k.kind = 'batch' and k.key = p_key;
    return p_new;
end $$;

-- let_go: a scheduled task, which is held, is due now.
create or replace function rowlock.let_go(p_run uuid) returns void
language plpgsql volatile
set search_path = pg_catalog set enable_seqscan = off set jit = off set plan_cache_mode = force_generic_plan
as $$
declare
    v_app   text;
    v_queue text;
begin
    update rowlock.task as t set state = 'ready', due_at = least(t.due_at, clock_timestamp())
     where t.run_id = p_run
    returning t.app, t.queue into v_app, v_queue;
    perform rowlock.notify_idle(v_app, v_queue);
end $$;

-- batch_list: which argument is the list that batches gather: the one array there is; null: none, or several.
create or replace function rowlock.batch_list(p_input jsonb) returns text
language sql immutable
set search_path = pg_catalog
as $$
    select min(e.key) from jsonb_each(p_input) as e where jsonb_typeof(e.value) = 'array' having count(*) = 1
$$;

-- batch_fault: what is wrong with the input of a start that is one of a batch.
create or replace function rowlock.batch_fault(p_input jsonb, p_size integer) returns text
language plpgsql stable
set search_path = pg_catalog
as $$
declare
    v_list  text := rowlock.batch_list(p_input);
    v_coded text;
    v_n     integer;
begin
    select min(e.key) into v_coded from jsonb_each(p_input) as e
     where jsonb_typeof(e.value) = 'object' and e.value ? '$codec' and e.value ? 'payload';
    if v_coded is not null then
        return format('has batch, but its argument %s was written by a codec: lists are put together in the '
                      'database, which reads plain ones only', rowlock.shown(v_coded));
    elsif v_list is null then
        return format('has batch, so one of its arguments must be a list (a JSON array), but %s are', (
                      select count(*) from jsonb_each(p_input) as e where jsonb_typeof(e.value) = 'array'));
    end if;
    v_n := jsonb_array_length(p_input -> v_list);
    if v_n = 0 then
        return format('has batch, but its list %s is empty', rowlock.shown(v_list));
    elsif v_n > p_size then
        return format('has a list %s of %s, but a batch takes %s', rowlock.shown(v_list), v_n, p_size);
    end if;
    return null;
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
               select y.app, y.workflow, y.dedup, y.debounce, y.batch from rowlock.run as y
                where y.id = i.id and num_nonnulls(y.dedup, y.debounce, y.batch) > 0 offset 0) as r
         cross join lateral (values ('dedup', r.dedup), ('debounce', r.debounce), ('batch', r.batch)) as w (kind, key)
         cross join lateral (
               select y.ctid from rowlock.start_key as y
                where y.app = r.app and y.workflow = r.workflow and y.kind = w.kind and y.key = w.key
                  and y.run_id = i.id
                  for update skip locked) as k);
    if v_rows <> '{}' then
        delete from rowlock.start_key as k where k.ctid = any (v_rows);
    end if;
end $$;
