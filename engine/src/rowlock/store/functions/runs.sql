-- runs, steps, resume: what people look at and the first of what they do.

create or replace view rowlock.runs as
select r.id as run_id,
       r.app,
       r.workflow,
       r.queue,
       r.key,
       coalesce(t.state, o.status) as status,
       coalesce(nullif(t.version, ''), nullif(o.version, '')) as version,
       r.priority,
       coalesce(t.generation, o.generation) as generation,
       coalesce(t.epoch, o.epoch) as epoch,
       r.created_at,
       t.due_at,
       coalesce(t.started_at, o.started_at) as started_at,
       o.finished_at,
       t.worker_id,
       t.takeovers,
       r.parent_id,
       r.attributes,
       r.input,
       o.output,
       o.error,
       t.reason
  from rowlock.run as r
  left join rowlock.task as t on t.run_id = r.id
  left join lateral (
        select x.* from rowlock.outcome as x
         where x.run_id = r.id and t.run_id is null
         order by x.generation desc
         limit 1) as o on true;
comment on view rowlock.runs is 'Every run with its present state: scheduled, ready, running, waiting, blocked, or how it ended.';
comment on column rowlock.runs.status is 'scheduled, ready, running, waiting or blocked while unfinished; then succeeded, failed, cancelled, dead or continued.';

create or replace view rowlock.steps as
select s.run_id, s.generation, s.position, s.place, s.kind, s.name,
       case when s.error is null then 'succeeded' else 'failed' end as status,
       s.attempts, s.recorded_at, s.seconds, s.epoch, s.output, s.error
  from rowlock.step as s;
comment on view rowlock.steps is 'Every recorded step; position is the order of recording within the run''s generation.';

create or replace view rowlock.workers as
select w.id as worker_id, w.app, nullif(w.version, '') as version, w.host, w.pid, w.queues, w.slots,
       (select count(*) from rowlock.task as t where t.worker_id = w.id and t.state = 'running') as running,
       w.registered_at, w.lease_until, w.draining,
       w.lease_until > clock_timestamp() as alive
  from rowlock.worker as w;
comment on view rowlock.workers is 'Worker processes that hold a lease, and those that lost it and have not been cleared yet.';

-- resume: a blocked run is ready again. It is no longer pinned: the version it was blocked on
-- does not fit it, so the app's current version gets it.
create or replace function rowlock.resume(run_id uuid) returns void
language plpgsql volatile set search_path = pg_catalog as $$
declare
    v_task   rowlock.task;
    v_status text;
begin
    update rowlock.task as t
       set state = 'ready', due_at = clock_timestamp(), version = '', reason = null, takeovers = 0
     where t.run_id = resume.run_id and t.state = 'blocked'
    returning t.* into v_task;
    if found then
        perform rowlock.notify_idle(v_task.app, v_task.queue);
        return;
    end if;
    select r.status into v_status from rowlock.runs as r where r.run_id = resume.run_id;
    if not found then
        raise exception 'there is no run %', resume.run_id
            using errcode = 'RLN03', hint = 'The id is wrong, or retention has removed the run.';
    end if;
    raise exception 'run % is %, not blocked', resume.run_id, v_status
        using errcode = 'RLS01', hint = 'Only a blocked run can be resumed.';
end $$;
comment on function rowlock.resume(uuid) is
    'Makes a blocked run ready again; the app''s current version takes it and continues from what is recorded.';
