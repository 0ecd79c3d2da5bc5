-- control: change where, when and in which order an unfinished run goes on; take a worker out of service.
--
-- Only the task changes: `run` says what was asked, and stays. Neither epoch nor owner is touched, so no
-- fence is. A caller holds the task of each run he changed until his transaction ends: only that run
-- waits. Two callers with the same runs in opposite order would deadlock, as with any rows: `order by
-- run_id`.

-- task_of: the task of a run, locked; refused when there is no such run, or when it has ended.
create or replace function rowlock.task_of(p_run uuid, p_what text) returns rowlock.task
language plpgsql volatile
set search_path = pg_catalog
as $$
declare
    v_task rowlock.task;
begin
    select t.* into v_task from rowlock.task as t
     where t.run_id = p_run and rowlock.allowed(t.app)
       for no key update;
    if not found then
        perform 1 from rowlock.run as r where r.id = p_run and rowlock.allowed(r.app);
        if not found then
            perform rowlock.refuse_unknown(p_run);
        end if;
        perform rowlock.refuse_finished(p_run, p_what);
    end if;
    return v_task;
end $$;

-- refuse_state: what makes no sense for a run that is in this state.
create or replace function rowlock.refuse_state(p_task rowlock.task, p_what text) returns void
language plpgsql stable
set search_path = pg_catalog
as $$
begin
    raise exception 'run % is % and can''t be %', p_task.run_id,
                    case when rowlock.is_paused(p_task.reason) then 'paused with its workflow'
                         else p_task.state end, p_what
        using errcode = 'RLS01',
              hint = case when rowlock.is_paused(p_task.reason) then 'rowlock.unpause lets it go on. '
                          else case p_task.state
                               when 'running' then 'A worker has it now; it can be once nobody runs it. '
                               when 'waiting' then 'It goes on when what it waits for comes; rowlock.send, '
                                                   'rowlock.set_event or rowlock.cancel make it. '
                               when 'blocked' then 'rowlock.resume lets it go on. '
                               else '' end
                     end || 'Nothing was changed.';
end $$;

create or replace function rowlock.reprioritise(run_id uuid, priority integer) returns boolean
language plpgsql volatile
set search_path = pg_catalog
as $$
#variable_conflict use_column
declare
    v_task rowlock.task;
begin
    if reprioritise.priority is null or reprioritise.priority not between 0 and 100 then
        raise exception 'the priority is %, but must be between 0 (first) and 100 (last)',
                        coalesce(reprioritise.priority::text, 'null')
            using errcode = 'RLV02', hint = 'Nothing was changed.';
    end if;
    v_task := rowlock.task_of(reprioritise.run_id, 'given another priority');
    if v_task.priority = reprioritise.priority then
        return false;
    end if;
    update rowlock.task as t set priority = reprioritise.priority where t.run_id = reprioritise.run_id;
    perform rowlock.note_audit('reprioritise', v_task.app, v_task.run_id, null,
                               jsonb_build_object('priority', v_task.priority),
                               jsonb_build_object('priority', reprioritise.priority));
    return true;
end $$;
comment on function rowlock.reprioritise(uuid, integer) is
'Gives an unfinished run another priority, from its next claim on. True when it had another. Over many
runs: order by run_id.

run_id: the run.
priority: 0 (first) to 100 (last).';

create or replace function rowlock.reschedule(run_id uuid, at timestamptz) returns boolean
language plpgsql volatile
set search_path = pg_catalog
as $$
#variable_conflict use_column
declare
    v_task     rowlock.task;
    v_deadline timestamptz;
    v_due_at   timestamptz := greatest(reschedule.at, clock_timestamp());
    v_state    text := case when reschedule.at > clock_timestamp() then 'scheduled' else 'ready' end;
begin
    if reschedule.at is null or not isfinite(reschedule.at) then
        raise exception 'the time is %, but must be one on the calendar', coalesce(reschedule.at::text, 'null')
            using errcode = 'RLV02',
                  hint = 'For example at => now() + interval ''1 hour''. Nothing was changed.';
    end if;
    v_task := rowlock.task_of(reschedule.run_id, 'rescheduled');
    if v_task.state not in ('ready', 'scheduled') then
        perform rowlock.refuse_state(v_task, 'rescheduled');
    end if;
    select case when v_task.generation = 1 then r.deadline_at
                else (select g.deadline_at from rowlock.generation as g
                       where g.run_id = r.id and g.generation = v_task.generation) end
      into v_deadline
      from rowlock.run as r where r.id = reschedule.run_id;
    if v_due_at >= v_deadline then
        raise exception 'run % must have ended by %, and can''t begin at %', v_task.run_id, v_deadline,
                        v_due_at
            using errcode = 'RLS01', hint = 'Its deadline stays what it was when it was started. Nothing was changed.';
    end if;
    update rowlock.task as t set state = v_state, due_at = v_due_at where t.run_id = reschedule.run_id;
    perform rowlock.note_audit('reschedule', v_task.app, v_task.run_id, null,
                               jsonb_build_object('status', v_task.state, 'due_at', v_task.due_at),
                               jsonb_build_object('status', v_state, 'due_at', v_due_at));
    if v_state = 'ready' then
        perform rowlock.notify_idle(v_task.app, v_task.queue);
    end if;
    return true;
end $$;
comment on function rowlock.reschedule(uuid, timestamptz) is
'Lets a run that is scheduled or ready be claimed at another time. Over many runs: order by run_id.

run_id: the run.
at: when; a time that is past means now.';

create or replace function rowlock.move(run_id uuid, queue text) returns boolean
language plpgsql volatile
set search_path = pg_catalog
as $$
#variable_conflict use_column
declare
    v_task rowlock.task;
begin
    v_task := rowlock.task_of(move.run_id, 'moved');
    if not exists (select from rowlock.queue as q where q.app = v_task.app and q.name = move.queue) then
        perform rowlock.refuse_queue(v_task.app, move.queue);
    end if;
    if v_task.queue = move.queue then
        return false;
    end if;
    -- A queue's limits are counts of its running rows.
    if v_task.state = 'running' then
        perform rowlock.refuse_state(v_task, 'moved');
    end if;
    update rowlock.task as t
       set queue = move.queue,
           partition = rowlock.partition_in(
               v_task.app, move.queue, (select r.partition from rowlock.run as r where r.id = move.run_id))
     where t.run_id = move.run_id;
    perform rowlock.note_audit('move', v_task.app, v_task.run_id, null,
                               jsonb_build_object('queue', v_task.queue),
                               jsonb_build_object('queue', move.queue));
    if v_task.state = 'ready' then
        perform rowlock.notify_idle(v_task.app, move.queue);
    end if;
    return true;
end $$;
comment on function rowlock.move(uuid, text) is
'Puts an unfinished run that is not running into another queue of its app. It keeps its partition where that
queue has partitions, and has none where it has none. True when it was in another. Over many runs: order by
run_id.

run_id: the run.
queue: which queue.';

create or replace function rowlock.drain_worker(worker_id bigint) returns boolean
language plpgsql volatile
set search_path = pg_catalog
as $$
#variable_conflict use_column
declare
    v_worker rowlock.worker;
begin
    -- The worker's row is its lease and its fence: an open transaction on it would cost both.
    select w.* into v_worker from rowlock.worker as w
     where w.id = drain_worker.worker_id and rowlock.allowed(w.app);
    if not found then
        raise exception 'there is no worker %', coalesce(drain_worker.worker_id::text, 'null')
            using errcode = 'RLN06', hint = 'rowlock.workers lists those there are. Nothing was changed.';
    end if;
    if v_worker.draining
       or exists (select from rowlock.drain_request as d where d.worker_id = v_worker.id) then
        return false;
    end if;
    insert into rowlock.drain_request (worker_id) values (v_worker.id);
    perform rowlock.note_audit('drain_worker', v_worker.app, null, 'worker ' || v_worker.id,
                               '{"draining": false}', '{"draining": true}');
    return true;
end $$;
comment on function rowlock.drain_worker(bigint) is
'A worker process takes no new runs from now on; those it has go on. For good: what comes after it
registers anew. True when it was not draining before.

worker_id: which one, see rowlock.workers.';
