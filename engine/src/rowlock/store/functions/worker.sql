-- register_worker, heartbeat, leave: the life of a worker process as the database sees it.

-- register_worker: a row, and with it a lease. Shows the app's queues and workflows, and wakes
-- runs that were blocked only because no worker knew their workflow.
create or replace function rowlock.register_worker(
    p_app text, p_version text, p_host text, p_pid integer, p_slots integer, p_queues text[],
    p_lease interval)
returns bigint
language plpgsql volatile set search_path = pg_catalog as $$
declare
    v_id bigint;
begin
    if not rowlock.allowed(p_app) then
        perform rowlock.refuse_app(p_app);
    end if;
    -- Looked for first: an insert would wait for whoever is promoting this version.
    if p_version <> '' and not exists (
          select from rowlock.version as v where v.app = p_app and v.name = p_version) then
        insert into rowlock.version (app, name) values (p_app, p_version)
        on conflict do nothing;
    end if;
    insert into rowlock.worker (app, version, host, pid, slots, queues, lease_until)
    values (p_app, p_version, p_host, p_pid, p_slots, p_queues, clock_timestamp() + p_lease)
    returning id into v_id;
    -- It may have become the current version.
    perform rowlock.apply_declaration(p_app);
    return v_id;
end $$;

-- show_app: make an app's queues and workflows known, so that SQL callers can name them. A
-- client that holds the code does it too, or the first start would come before the first worker.
-- Writes only what is new or changed: it runs at every start of every process.
create or replace function rowlock.show_app(
    p_app text, p_queues text[], p_workflows text[], p_workflow_queues text[])
returns void
language plpgsql volatile set search_path = pg_catalog as $$
begin
    if not rowlock.allowed(p_app) then
        perform rowlock.refuse_app(p_app);
    end if;
    insert into rowlock.queue (app, name)
    select p_app, q.name from unnest(p_queues) as q (name)
     where not exists (select from rowlock.queue as x where x.app = p_app and x.name = q.name)
     order by q.name
    on conflict do nothing;
    insert into rowlock.queue_gate (app, name)
    select p_app, q.name from unnest(p_queues) as q (name)
     where not exists (select from rowlock.queue_gate as x where x.app = p_app and x.name = q.name)
     order by q.name
    on conflict do nothing;
    insert into rowlock.workflow (app, name, queue)
    select p_app, w.name, w.queue from unnest(p_workflows, p_workflow_queues) as w (name, queue)
     where not exists (select from rowlock.workflow as x
                        where x.app = p_app and x.name = w.name and x.queue = w.queue)
     order by w.name
    on conflict (app, name) do update set queue = excluded.queue;
    update rowlock.task as t
       set state = 'ready', due_at = clock_timestamp(), reason = null, version = ''
     where t.run_id = any (array(
             select b.run_id
               from rowlock.task as b
              where b.state = 'blocked' and b.app = p_app
                and b.reason ->> 'kind' = 'unknown_workflow'
                and b.workflow = any (p_workflows)
                for update skip locked));
end $$;

-- heartbeat: renew the lease, say which steps take long (p_doing, for people), and hear what this
-- worker owns, so that both sides can be reconciled: a claim whose reply was lost, a run that was
-- taken over; and which of its runs are to be cancelled. No row: the worker was declared dead and must begin anew. clock_timestamp(), not
-- now(): a lease counted from the begin of a transaction that had to wait may be over when it is
-- written (8F). A request to drain becomes a fact of the worker's row here: only the worker itself may
-- touch that row, for whoever else did so in an open transaction would cost it its lease.
create or replace function rowlock.heartbeat(p_worker bigint, p_lease interval, p_doing jsonb)
returns table (run_ids uuid[], epochs integer[], cancels text)
language plpgsql volatile set search_path = pg_catalog set enable_seqscan = off set jit = off as $$
begin
    perform rowlock.require_read_committed();
    update rowlock.worker as w
       set lease_until = clock_timestamp() + p_lease,
           draining = w.draining or exists (
               select from rowlock.drain_request as d where d.worker_id = p_worker),
           doing = (select jsonb_agg(jsonb_build_object(
                               'run', d.run, 'place', d.place, 'name', d.name, 'attempt', d.attempt,
                               'since', clock_timestamp() - d.seconds * interval '1 second'))
                      from jsonb_to_recordset(p_doing) as d (
                               run uuid, place text, name text, attempt integer,
                               seconds double precision))
     where w.id = p_worker and rowlock.allowed(w.app);
    if not found then
        return;
    end if;
    return query
    select coalesce(array_agg(t.run_id order by t.run_id), '{}'),
           coalesce(array_agg(t.epoch order by t.run_id), '{}'),
           (jsonb_object_agg(t.run_id, q.request) filter (where q.request is not null))::text
      from rowlock.task as t
      left join lateral (
           select rowlock.request_of(t.run_id, t.generation)::jsonb as request
            where exists (select from rowlock.cancel_request as x where x.run_id = t.run_id)
           offset 0) as q on true
     where t.worker_id = p_worker and t.state = 'running';
end $$;

-- drain: this worker takes no new runs. For the worker itself; others ask with drain_worker.
create or replace function rowlock.drain(p_worker bigint) returns void
language sql volatile set search_path = pg_catalog as $$
    update rowlock.worker as w set draining = true, listening = false
     where w.id = p_worker and rowlock.allowed(w.app);
$$;

-- leave: the worker is done; whatever it still owned is free at once. Skips if a reaper is at it.
create or replace function rowlock.leave(p_worker bigint) returns integer
language plpgsql volatile
set search_path = pg_catalog set enable_seqscan = off set jit = off
as $$
declare
    v_freed integer;
begin
    perform rowlock.require_read_committed();
    perform 1 from rowlock.worker as w
      where w.id = p_worker and rowlock.allowed(w.app) for update skip locked;
    if not found then
        return 0;
    end if;
    update rowlock.task as t
       set state = 'ready', epoch = t.epoch + 1, worker_id = null, claimed_at = null, closing = false
     where t.run_id = any (array(
             select o.run_id from rowlock.task as o
              where o.worker_id = p_worker and o.state = 'running'
                for update skip locked));
    get diagnostics v_freed = row_count;
    if not exists (select from rowlock.task where worker_id = p_worker and state = 'running') then
        delete from rowlock.worker where id = p_worker;
        delete from rowlock.drain_request
         where ctid = any (array(select d.ctid from rowlock.drain_request as d
                                  where d.worker_id = p_worker for update skip locked));
    end if;
    return v_freed;
end $$;
