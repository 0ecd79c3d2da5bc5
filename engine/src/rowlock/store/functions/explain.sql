-- explain: the one thing that holds a run back, and what to do about it.
--
-- A run may be held back by several things at once: the answer is the one that has to go first. Of
-- a run that waits for a child the answer is the child, and the hint says how to ask on. What is
-- counted is counted up to a bound, so the answer comes at once however deep the queue is.

-- moment: a time as people read it, in the session's time zone.
create or replace function rowlock.moment(p_at timestamptz) returns text
language sql stable set search_path = pg_catalog
return p_at::timestamptz(0)::text;

-- serving: how many live workers of an app could take a task: of its app, of its queue, of its version,
-- and not draining. And how many runs they could hold, and hold.
create or replace function rowlock.serving(
    p_task rowlock.task, out of_app integer, out of_queue integer, out of_version integer,
    out taking integer, out slots integer, out busy integer, out last_lease timestamptz)
language sql stable
set search_path = pg_catalog
as $$
    with alive as (
        select w.id, w.slots,
               w.draining or exists (select from rowlock.drain_request as d where d.worker_id = w.id) as draining,
               w.queues is null or p_task.queue = any (w.queues) as has_queue,
               w.version = '' or w.version = coalesce(
                   nullif(p_task.version, ''), rowlock.current_version(p_task.app)) as has_version
          from rowlock.worker as w
         where w.app = p_task.app and w.lease_until > clock_timestamp()
    ), fit as (
        select a.id, a.slots from alive as a where a.has_queue and a.has_version and not a.draining)
    select (select count(*) from alive)::integer,
           (select count(*) from alive as a where a.has_queue)::integer,
           (select count(*) from alive as a where a.has_queue and a.has_version)::integer,
           (select count(*) from fit)::integer,
           (select coalesce(sum(f.slots), 0) from fit as f)::integer,
           (select count(*) from rowlock.task as t
             where t.state = 'running' and t.worker_id = any (array(select f.id from fit as f)))::integer,
           (select max(w.lease_until) from rowlock.worker as w where w.app = p_task.app)
$$;

-- why_not_claimed: of a run that is ready, or would be if somebody looked.
create or replace function rowlock.why_not_claimed(
    p_task rowlock.task, out cause text, out message text, out hint text, out details jsonb)
language plpgsql stable
set search_path = pg_catalog
set enable_seqscan = off set jit = off
as $$
declare
    v_serving record;
    v_limited record;
    v_ahead   integer;
    v_names   text;
begin
    select * into v_serving from rowlock.serving(p_task);
    details := jsonb_build_object('app', p_task.app, 'queue', p_task.queue, 'due_at', p_task.due_at,
                                  'pinned_to_version', nullif(p_task.version, ''));
    if v_serving.of_app = 0 then
        cause := 'no_worker';
        message := format('no live worker serves app %s', p_task.app)
                   || coalesce('; the last lease ended at ' || rowlock.moment(v_serving.last_lease), '');
        hint := format('Start one (rowlock worker …), or look why app %s''s workers don''t come up.', p_task.app);
    elsif v_serving.of_queue = 0 then
        cause := 'no_worker_for_queue';
        select string_agg(distinct q, ', ' order by q) into v_names
          from rowlock.worker as w cross join unnest(w.queues) as q
         where w.app = p_task.app and w.lease_until > clock_timestamp();
        message := format('no live worker of app %s serves queue %s; they serve %s',
                          p_task.app, p_task.queue, v_names);
        hint := 'Start a worker for that queue (rowlock worker … --queues), or move the run with rowlock.move.';
    elsif v_serving.of_version = 0 then
        cause := 'no_worker_of_version';
        select string_agg(distinct w.version, ', ' order by w.version) into v_names
          from rowlock.worker as w
         where w.app = p_task.app and w.lease_until > clock_timestamp();
        details := details || jsonb_build_object(
            'version', coalesce(nullif(p_task.version, ''), rowlock.current_version(p_task.app)));
        if p_task.version <> '' then
            message := format('it is pinned to version %s, and no live worker that serves queue %s carries it; '
                              'they carry %s', p_task.version, p_task.queue, v_names);
            hint := 'Deploy that version again, or let other code take it: rowlock.cancel and rowlock.resume, or '
                    'rowlock.fork.';
        else
            message := format('version %s is the current one of app %s and takes new runs, but no live worker that '
                              'serves queue %s carries it; they carry %s',
                              rowlock.current_version(p_task.app), p_task.app, p_task.queue, v_names);
            hint := 'Start workers of that version, or promote another: rowlock.promote.';
        end if;
    elsif v_serving.taking = 0 then
        cause := 'workers_draining';
        message := format('all %s live workers that could take it are draining', v_serving.of_version);
        hint := 'They finish what they have and leave; others must take their place.';
    elsif not exists (select from rowlock.workflow as w
                       where w.app = p_task.app and w.name = p_task.workflow) then
        cause := 'unknown_workflow';
        message := format('no code of app %s has shown a workflow named %s', p_task.app, p_task.workflow);
        hint := 'Is the name right? If its code is still to be deployed, the run waits for it.';
    else
        select w.* into v_limited from rowlock.why_limited(p_task) as w;
        if v_limited.cause is not null then
            cause := v_limited.cause;
            message := v_limited.message;
            hint := v_limited.hint;
            details := details || v_limited.details;
            return;
        end if;
        select count(*) into v_ahead
          from (select from rowlock.task as t
                 where t.app = p_task.app and t.queue = p_task.queue and t.state = 'ready'
                   and t.version in (p_task.version, '')
                   and coalesce(t.partition, '') = coalesce(p_task.partition, '')
                   and (t.priority, t.due_at, t.run_id) < (p_task.priority, p_task.due_at, p_task.run_id)
                 limit 10000) as ahead;
        cause := 'queued';
        message := case v_ahead
                       when 0 then 'it is the next to be claimed'
                       else format('it is behind %s others in priority order',
                                   case when v_ahead = 10000 then 'at least 10000' else v_ahead::text end)
                   end
                   || format('; %s of %s slots of the workers that serve queue %s are busy',
                             v_serving.busy, v_serving.slots, p_task.queue);
        hint := case when v_serving.busy >= v_serving.slots
                     then 'More workers or slots would take it sooner; so would a lower priority number '
                          '(rowlock.reprioritise).'
                     else 'Nothing: it will be claimed soon.' end;
        details := details || jsonb_build_object(
            'ahead', v_ahead, 'slots', v_serving.slots, 'busy', v_serving.busy, 'workers', v_serving.taking);
    end if;
end $$;

-- why_limited: of a run that some worker would take, but for a limit of its queue.
create or replace function rowlock.why_limited(
    p_task rowlock.task, out cause text, out message text, out hint text, out details jsonb)
language plpgsql stable
set search_path = pg_catalog
set enable_seqscan = off set jit = off
as $$
declare
    v_set  rowlock.queue;
    v_all  boolean;
    v_rate record;
    v_part text := coalesce(p_task.partition, '');
    v_held jsonb;
    v_at   timestamptz := clock_timestamp();
begin
    select q.* into v_set from rowlock.queue as q where q.app = p_task.app and q.name = p_task.queue;
    if v_set.limited is not true then
        return;
    end if;
    v_all := (select g.marked < v_set.revision from rowlock.queue_gate as g
               where g.app = p_task.app and g.name = p_task.queue);
    hint := format('It is claimed when fewer run; rowlock.set_limit(''%s'', …) raises the limit.', p_task.queue);
    if rowlock.running(p_task.app, p_task.queue, null, v_set.concurrency, v_all) >= v_set.concurrency then
        cause := 'concurrency_reached';
        v_held := rowlock.holders(p_task.app, p_task.queue, null);
        message := rowlock.held_text(v_set.concurrency, 'queue ' || p_task.queue, v_held);
        details := jsonb_build_object('concurrency', v_set.concurrency, 'held_by', v_held);
    elsif rowlock.running(p_task.app, p_task.queue, v_part, v_set.partition_concurrency, v_all)
          >= v_set.partition_concurrency then
        cause := 'partition_concurrency_reached';
        v_held := rowlock.holders(p_task.app, p_task.queue, v_part);
        message := rowlock.held_text(
            v_set.partition_concurrency,
            format('partition %s of queue %s', coalesce(rowlock.shown(nullif(v_part, '')), 'none'), p_task.queue), v_held);
        details := jsonb_build_object('partition', p_task.partition,
                                      'partition_concurrency', v_set.partition_concurrency, 'held_by', v_held);
    elsif v_set.worker_concurrency <= all (
            select (select count(*) from rowlock.task as t
                     where t.worker_id = w.id and t.state = 'running' and t.queue || '' = p_task.queue)
              from rowlock.worker as w
             where w.app = p_task.app and w.lease_until > v_at and not w.draining
               and (w.queues is null or p_task.queue = any (w.queues))) then
        cause := 'worker_concurrency_reached';
        message := format('each worker of queue %s runs %s, and may no more', p_task.queue,
                          v_set.worker_concurrency);
        hint := 'More workers would take it; ' || lower(left(hint, 1)) || substr(hint, 2);
        details := jsonb_build_object('worker_concurrency', v_set.worker_concurrency,
                                      'held_by', rowlock.holders(p_task.app, p_task.queue, null));
    elsif p_task.started_at is null then
        if v_set.rate is not null then
            select r.fresh, r.free_in, '' as of, rowlock.rate_text(v_set.rate, v_set.rate_period, v_set.rate_smooth,
                                                                   v_set.rate_burst) as rate
              into v_rate
              from rowlock.rate_room(p_task.app, p_task.queue, '', v_set.rate, v_set.rate_period,
                                     v_set.rate_smooth, v_set.rate_burst, v_at) as r;
            cause := case when v_rate.fresh = 0 then 'rate_reached' end;
        end if;
        if cause is null and v_set.partition_rate is not null then
            select r.fresh, r.free_in, format('partition %s of ', coalesce(rowlock.shown(p_task.partition), 'none')) as of,
                   rowlock.rate_text(v_set.partition_rate, v_set.partition_rate_period,
                                     v_set.partition_rate_smooth, v_set.partition_rate_burst) as rate
              into v_rate
              from rowlock.rate_room(p_task.app, p_task.queue, ':' || v_part, v_set.partition_rate,
                                     v_set.partition_rate_period, v_set.partition_rate_smooth,
                                     v_set.partition_rate_burst, v_at) as r;
            cause := case when v_rate.fresh = 0 then 'partition_rate_reached' end;
        end if;
        if cause is not null then
            message := format('the rate of %squeue %s, %s, is used up until %s', v_rate.of, p_task.queue, v_rate.rate,
                              rowlock.moment(v_at + v_rate.free_in * interval '1 second'));
            hint := format('Nothing: one is free again then; rowlock.set_limit(''%s'', …) raises the rate.', p_task.queue);
            details := jsonb_build_object('rate', v_rate.rate,
                                          'free_at', v_at + v_rate.free_in * interval '1 second');
        end if;
    end if;
    if cause is null then
        hint := null;
    end if;
end $$;

-- holders: some of the runs that hold a claim on a queue, or on one of its partitions.
create or replace function rowlock.holders(p_app text, p_queue text, p_partition text) returns jsonb
language sql stable
set search_path = pg_catalog
set enable_seqscan = off set jit = off
as $$
    select coalesce(jsonb_agg(x.run_id), '[]')
      from (select t.run_id from rowlock.task as t
             where t.state = 'running' and t.worker_id is not null and t.app || '' = p_app
               and t.queue || '' = p_queue
               and (p_partition is null or coalesce(t.partition, '') = p_partition)
             order by t.claimed_at limit 10) as x
$$;

-- held_text: that a concurrency is reached, and by whom. What holders found may be fewer: some have just ended.
create or replace function rowlock.held_text(p_most integer, p_of text, p_held jsonb) returns text
language sql immutable
set search_path = pg_catalog
as $$
    select format('%s %s of %s %s a claim, and no more may', p_most, case p_most when 1 then 'run' else 'runs' end, p_of,
                  case p_most when 1 then 'holds' else 'hold' end)
           || coalesce(': ' || string_agg(x.id, ', ' order by x.n), '')
           || case when jsonb_array_length(p_held) >= 3 and p_most > 3 then format(' and %s more', p_most - 3) else '' end
      from jsonb_array_elements_text(p_held) with ordinality as x (id, n)
     where x.n <= 3
$$;

-- why_paused: of a run that could be claimed.
create or replace function rowlock.why_paused(
    p_task rowlock.task, out cause text, out message text, out hint text, out details jsonb)
language plpgsql stable
set search_path = pg_catalog
set enable_seqscan = off set jit = off
as $$
declare
    v_pause rowlock.pause;
begin
    select p.* into v_pause from rowlock.pause as p
     where p.app = p_task.app and p.lifted_at is null
       and (p.queue is null or p.queue = p_task.queue)
       and (p.workflow is null or p.workflow = p_task.workflow)
     order by num_nonnulls(p.queue, p.workflow), p.workflow is not null limit 1;
    if not found then
        return;
    end if;
    cause := case when v_pause.queue is not null then 'queue_paused'
                  when v_pause.workflow is not null then 'workflow_paused' else 'app_paused' end;
    message := format('%s was paused at %s by %s',
                      case when v_pause.queue is not null then 'queue ' || v_pause.queue
                           when v_pause.workflow is not null then 'workflow ' || v_pause.workflow
                           else 'app ' || v_pause.app end,
                      rowlock.moment(v_pause.paused_at), v_pause.paused_by)
               || coalesce(': ' || v_pause.reason, '');
    hint := 'rowlock.unpause lets its runs go on.';
    details := jsonb_build_object('paused_at', v_pause.paused_at, 'paused_by', v_pause.paused_by,
                                  'reason', v_pause.reason);
end $$;

-- why_blocked: of a run that needs a person or other code.
create or replace function rowlock.why_blocked(
    p_task rowlock.task, out cause text, out message text, out hint text, out details jsonb)
language plpgsql stable
set search_path = pg_catalog
as $$
declare
    v_kind text := p_task.reason ->> 'kind';
begin
    if v_kind = 'paused' then  -- set aside by a claim, because its workflow is paused
        select w.* into cause, message, hint, details from rowlock.why_paused(p_task) as w;
        if cause is not null then
            return;
        end if;
    end if;
    cause := coalesce(v_kind, 'blocked');
    message := coalesce(p_task.reason ->> 'message', 'it is blocked');
    hint := case v_kind
                when 'nondeterminism' then
                    'Deploy code that fits what is recorded, then rowlock.resume; or rowlock.cancel it and '
                    'rowlock.rewind to before that place.'
                when 'codec' then 'Give the workers the codec or key that it names, then rowlock.resume.'
                when 'unknown_workflow' then 'It goes on by itself when a worker that has the workflow starts.'
                when 'paused' then 'Nothing: its workflow is not paused any more, a worker makes it ready.'
                else 'When the reason is mended: rowlock.resume.' end;
    details := p_task.reason;
end $$;

-- why_running: of a run that a worker has.
create or replace function rowlock.why_running(
    p_task rowlock.task, out cause text, out message text, out hint text, out details jsonb)
language plpgsql stable
set search_path = pg_catalog
set enable_seqscan = off set jit = off
as $$
declare
    v_worker rowlock.worker;
    v_step   record;
    v_last   record;
    v_cancel record;
begin
    select w.* into v_worker from rowlock.worker as w where w.id = p_task.worker_id;
    details := jsonb_build_object('worker_id', p_task.worker_id, 'host', v_worker.host, 'pid', v_worker.pid,
                                  'claimed_at', p_task.claimed_at, 'epoch', p_task.epoch,
                                  'lease_until', v_worker.lease_until);
    if v_worker.id is null or v_worker.lease_until <= clock_timestamp() then
        cause := 'worker_lost';
        message := format('worker %s', p_task.worker_id)
                   || case when v_worker.id is null then ', which ran it, is gone'
                           else format(' (%s, pid %s), which runs it, has not renewed its lease, which ended at %s',
                                       v_worker.host, v_worker.pid, rowlock.moment(v_worker.lease_until)) end;
        hint := case when exists (select from rowlock.worker as w where w.lease_until > clock_timestamp())
                     then 'Another worker takes the run over with its next round.'
                     else 'No worker is alive to take the run over: start one.' end;
        return;
    end if;
    select x ->> 'place' as place, x ->> 'name' as name, (x ->> 'attempt')::integer as attempt,
           (x ->> 'since')::timestamptz as since
      into v_step
      from jsonb_array_elements(v_worker.doing) as x
     where (x ->> 'run')::uuid = p_task.run_id
     order by x ->> 'since' limit 1;
    select s.place, s.kind, s.name, s.recorded_at into v_last
      from rowlock.step as s
     where s.run_id = p_task.run_id and s.generation = p_task.generation
     order by s.position desc limit 1;
    select * into v_cancel from rowlock.cancelling(p_task);
    message := format('worker %s (%s, pid %s) has been running it since %s', v_worker.id, v_worker.host,
                      v_worker.pid, rowlock.moment(p_task.claimed_at))
               || case when v_step.place is not null
                       then format(', and step %s at place %s, attempt %s, since %s', v_step.name, v_step.place,
                                   v_step.attempt, rowlock.moment(v_step.since))
                       when v_last.place is not null
                       then format('; it recorded %s at place %s last, at %s',
                                   concat_ws(' ', v_last.kind, nullif(v_last.name, '')), v_last.place,
                                   rowlock.moment(v_last.recorded_at))
                       else '; it has recorded nothing yet' end;
    details := details || jsonb_build_object('step', to_jsonb(v_step), 'last', to_jsonb(v_last));
    if v_cancel.requested_at is not null then
        cause := v_cancel.cause;
        message := v_cancel.message || '; ' || message;
        hint := v_cancel.hint;
        details := details || v_cancel.details;
    else
        cause := 'running';
        hint := 'Nothing. If a step takes too long, give it a timeout; rowlock.cancel stops the run.';
    end if;
end $$;

-- cancelling: whether a run is to be cancelled, and how far that is.
create or replace function rowlock.cancelling(
    p_task rowlock.task, out cause text, out message text, out hint text, out details jsonb,
    out requested_at timestamptz)
language plpgsql stable
set search_path = pg_catalog
set enable_seqscan = off set jit = off
as $$
declare
    v_request rowlock.cancel_request;
    v_seen    record;
begin
    select c.* into v_request from rowlock.cancel_request as c
     where c.run_id = p_task.run_id and rowlock.is_meant(c, p_task.generation)
     order by c.requested_at limit 1;
    select s.recorded_at, s.recorded_at + (s.output ->> 'grace_s')::double precision * interval '1 second' as until
      into v_seen
      from rowlock.step as s
     where s.run_id = p_task.run_id and s.generation = p_task.generation and s.place = 'cancel';
    if v_request.run_id is null and v_seen.recorded_at is null then
        return;
    end if;
    requested_at := coalesce(v_request.requested_at, v_seen.recorded_at);
    details := jsonb_build_object('cancel_requested_at', requested_at, 'cancel_reason', v_request.reason,
                                  'cancel_seen_at', v_seen.recorded_at, 'cleanup_until', v_seen.until);
    if v_seen.recorded_at is null then
        cause := 'cancel_requested';
        message := format('a cancel was requested at %s', rowlock.moment(requested_at))
                   || coalesce(' (' || v_request.reason || ')', '') || '; its code has not met it yet';
        hint := 'Nothing: it gets it where it waits next. rowlock.cancel(…, force => true) does not wait for it.';
    else
        cause := 'cleaning_up';
        message := format('it was cancelled at %s and may clean up until %s', rowlock.moment(v_seen.recorded_at),
                          rowlock.moment(v_seen.until));
        hint := 'Nothing: it ends when it has cleaned up and undone what it registered. '
                'rowlock.cancel(…, force => true) ends it now.';
    end if;
end $$;

-- why_asleep: what a run waits for. Of several things the one that comes first in the program.
create or replace function rowlock.why_asleep(
    p_task rowlock.task, out cause text, out message text, out hint text, out details jsonb)
language plpgsql stable
set search_path = pg_catalog
set enable_seqscan = off set jit = off
as $$
declare
    v_wait   rowlock.wait;
    v_waits  jsonb;
    v_status text;
    v_other  rowlock.run;
    v_here   bigint;
    v_run    rowlock.run;
begin
    if p_task.state = 'scheduled' and p_task.started_at is null then
        -- As take_debounce and take_batch see it: who has the key now, of those that can still be changed.
        select r.* into v_run
          from rowlock.run as r
         cross join lateral (values ('debounce', r.debounce), ('batch', r.batch)) as w (kind, key)
          join rowlock.start_key as k on k.app = r.app and k.workflow = r.workflow and k.kind = w.kind
                                     and k.key = w.key and k.run_id = r.id
         where r.id = p_task.run_id and p_task.generation = 1 and rowlock.may_change(r.id);
        details := jsonb_build_object('due_at', p_task.due_at);
        if v_run.debounce is not null then
            cause := 'debounced';
            message := format('it was started with the debounce key %s, and is due at %s: a start with that key that '
                              'comes before replaces its input, and may put it off again',
                              rowlock.shown(v_run.debounce), rowlock.moment(p_task.due_at));
            hint := 'Nothing: it begins when no more such starts come. rowlock.reschedule(…, now()) lets it begin at '
                    'once.';
            details := details || jsonb_build_object('debounce', v_run.debounce);
            return;
        elsif v_run.batch is not null then
            v_here := jsonb_array_length(v_run.input -> rowlock.batch_list(v_run.input));
            cause := 'batching';
            message := format('it gathers the batch %s, has %s of %s, and is due at %s or when it is full',
                              rowlock.shown(v_run.batch), v_here, v_run.batch_size, rowlock.moment(p_task.due_at));
            hint := 'Nothing: it begins then. rowlock.reschedule(…, now()) lets it begin at once.';
            details := details || jsonb_build_object('batch', v_run.batch, 'inputs', v_here, 'size', v_run.batch_size);
            return;
        end if;
        cause := 'not_due';
        message := format('it is not due until %s', rowlock.moment(p_task.due_at));
        hint := 'Nothing; rowlock.reschedule changes that.';
        return;
    elsif p_task.state = 'scheduled' then
        cause := 'saving_up';
        message := format('something that it waits for has come; it waits for much, and is woken at %s for all '
                          'that comes until then', rowlock.moment(p_task.due_at));
        hint := 'Nothing: it goes on by itself.';
        details := jsonb_build_object('due_at', p_task.due_at);
        return;
    end if;
    select jsonb_agg(jsonb_build_object(
               'place', w.place, 'kind', w.kind, 'name', w.name, 'run_id', w.on_run_id, 'due_at', w.due_at,
               'attempt', nullif(w.attempt, 0), 'since', w.opened_at)
               order by string_to_array(w.place, '.')::integer[])
      into v_waits
      from rowlock.wait as w
     where w.run_id = p_task.run_id and w.generation = p_task.generation
       and w.place ~ '^\d{1,9}(\.\d{1,9})*$';
    select w.* into v_wait from rowlock.wait as w
     where w.run_id = p_task.run_id and w.generation = p_task.generation
     order by w.kind in ('timer', 'retry'), w.due_at, w.place collate "C" limit 1;
    details := jsonb_build_object('waits', v_waits, 'due_at', nullif(p_task.due_at, 'infinity'));
    if v_wait.on_run_id is not null then
        -- It may be of an app that the caller may not look into: then its id is all that is said.
        select r.* into v_other from rowlock.run as r
         where r.id = v_wait.on_run_id and rowlock.allowed(r.app);
        v_status := case when v_other.id is null then 'of another app' else coalesce(
            (select t.state from rowlock.task as t where t.run_id = v_wait.on_run_id),
            (select o.status from rowlock.outcome as o where o.run_id = v_wait.on_run_id
              order by o.generation desc limit 1)) end;
        details := details || jsonb_build_object('other_run', v_wait.on_run_id, 'other_status', v_status);
    end if;
    case v_wait.kind
        when 'message' then
            cause := 'waiting_for_message';
            message := format('it waits for a message on topic %s', v_wait.name);
            hint := format('rowlock.send(''%s'', ''%s'', …) sends one.', p_task.run_id, v_wait.name);
        when 'event' then
            cause := 'waiting_for_event';
            message := format('it waits for event %s of run %s', v_wait.name, v_wait.on_run_id)
                       || coalesce(' of ' || v_other.workflow, '') || ', which is ' || coalesce(v_status, 'gone');
            hint := format('What holds that run: select * from rowlock.explain(''%s'').', v_wait.on_run_id);
        when 'run' then
            cause := 'waiting_for_run';
            message := format('it waits for the end of run %s', v_wait.on_run_id)
                       || coalesce(' of ' || v_other.workflow, '') || ', which is ' || coalesce(v_status, 'gone');
            hint := format('What holds that run: select * from rowlock.explain(''%s'').', v_wait.on_run_id);
        when 'group' then
            select coalesce(sum(a.count), 0) into v_here from rowlock.arrival as a where a.name = v_wait.name;
            cause := 'waiting_for_children';
            message := format('it waits for %s children, of which %s have ended', v_wait.count, v_here);
            hint := format('Those that have not: select * from rowlock.runs where parent_id = ''%s'' and finished_at is null.',
                           p_task.run_id);
            details := details || jsonb_build_object('children', v_wait.count, 'ended', v_here);
        when 'retry' then
            cause := 'waiting_to_retry';
            message := format('attempt %s of the step at place %s failed with %s: %s', v_wait.attempt, v_wait.place,
                              v_wait.error ->> 'type', left(v_wait.error ->> 'message', 300));
            hint := 'It is tried again by its retry policy.';
        when 'timer' then
            cause := 'sleeping';
            message := 'it sleeps';
            hint := 'Nothing: it goes on by itself.';
        else
            cause := 'waiting';
            message := 'it waits for something that is not noted';
            hint := 'It looks again by itself.';
    end case;
    if p_task.due_at < 'infinity' then
        message := message || case
            when v_wait.kind in ('timer', 'retry') then format(', until %s', rowlock.moment(p_task.due_at))
            else format('; it looks again at %s', rowlock.moment(p_task.due_at)) end;
    end if;
    if jsonb_array_length(v_waits) > 1 then
        message := message || format(', and for %s other things', jsonb_array_length(v_waits) - 1);
    end if;
end $$;

create or replace function rowlock.explain(run_id uuid)
returns table (status text, cause text, message text, hint text, details jsonb)
language plpgsql stable
set search_path = pg_catalog
set enable_seqscan = off set jit = off
as $$
#variable_conflict use_column
declare
    v_task rowlock.task;
    v_end  rowlock.outcome;
    v_why  record;
begin
    select t.* into v_task from rowlock.task as t where t.run_id = explain.run_id;
    if not found then
        select o.* into v_end from rowlock.outcome as o
         where o.run_id = explain.run_id order by o.generation desc limit 1;
    end if;
    if coalesce(v_task.app, v_end.app) is null or not rowlock.allowed(coalesce(v_task.app, v_end.app)) then
        return query select null::text, 'unknown', format('there is no run %s', coalesce(explain.run_id::text, 'null')),
                            'The id is wrong, retention has removed the run, or it is of an app that this role may not use.',
                            '{}'::jsonb;
        return;
    elsif v_task.run_id is null then
        return query
        select v_end.status, 'finished',
               format('it has %s, at %s', case v_end.status when 'cancelled' then 'been cancelled'
                                               when 'dead' then 'been given up' else v_end.status end,
                      rowlock.moment(v_end.finished_at))
               || case when jsonb_typeof(v_end.error) = 'object'
                       then format(': %s: %s', v_end.error ->> 'type', left(v_end.error ->> 'message', 300))
                       else '' end,
               case v_end.status
                   when 'failed' then 'rowlock.retry goes on from its failed step; rowlock.rewind or fork do a part of it again.'
                   when 'succeeded' then 'rowlock.rewind or fork do a part of it again.'
                   else 'rowlock.resume lets it go on from what is recorded.' end,
               jsonb_build_object('finished_at', v_end.finished_at, 'generation', v_end.generation);
        return;
    end if;

    if v_task.state = 'running' then
        v_why := rowlock.why_running(v_task);
    elsif v_task.state = 'blocked' then
        v_why := rowlock.why_blocked(v_task);
    elsif v_task.state = 'ready' or v_task.due_at <= clock_timestamp() then
        v_why := rowlock.why_paused(v_task);
        if v_why.cause is null then
            v_why := rowlock.why_not_claimed(v_task);
        end if;
    else
        select c.cause, c.message, c.hint, c.details into v_why from rowlock.cancelling(v_task) as c;
        if v_why.cause is null then
            v_why := rowlock.why_asleep(v_task);
        end if;
    end if;
    if v_task.start_before is not null and v_task.started_at is null then
        v_why.message := v_why.message || format(
            case when v_task.start_before > clock_timestamp()
                 then '; if it has not begun by %s, it fails'
                 else '; it was to begin by %s, so it fails with the next round of a worker' end,
            rowlock.moment(v_task.start_before));
        v_why.details := v_why.details || jsonb_build_object('start_before', v_task.start_before);
    end if;
    return query select v_task.state, v_why.cause, v_why.message, v_why.hint, v_why.details;
end $$;
comment on function rowlock.explain(uuid) is
'Why a run is not running, or not done. Always one row; an unknown id is a cause too.

run_id: the run.
status: the run''s status; null: there is none.
cause: the one that has to go first, in a word.
message: the same in a sentence.
hint: what to do about it.
details: the facts, as a JSON object.';
