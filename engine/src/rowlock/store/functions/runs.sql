-- runs, steps, workers, messages, events, streams, generations: what people look at.

create or replace view rowlock.runs as
select r.id as run_id,
       r.app,
       r.workflow,
       coalesce(t.queue, o.queue, r.queue) as queue,
       r.key,
       coalesce(t.state, o.status) as status,
       coalesce(nullif(t.version, ''), nullif(o.version, '')) as version,
       coalesce(t.priority, r.priority) as priority,
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
       t.reason,
       case when coalesce(t.generation, o.generation) = 1 then r.deadline_at end as deadline_at,
       r.forked_from
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
       w.registered_at, w.lease_until,
       w.draining or exists (select from rowlock.drain_request as d where d.worker_id = w.id) as draining,
       w.lease_until > clock_timestamp() as alive
  from rowlock.worker as w;
comment on view rowlock.workers is 'Worker processes that hold a lease, and those that lost it and have not been cleared yet.';

create or replace view rowlock.messages as
select m.run_id, m.id as message_id, m.topic, m.key, m.value, m.sent_at, m.from_run_id,
       m.received_generation, m.received_place
  from rowlock.message as m;
comment on view rowlock.messages is 'What was sent to runs; received_place is null for what nobody has received yet.';

create or replace view rowlock.events as
select e.run_id, e.name, e.value, e.set_at from rowlock.event as e;
comment on view rowlock.events is 'What runs show to others: the latest value of each event.';

create or replace view rowlock.streams as
select s.run_id, s.stream, s."offset", s.value, s.emitted_at from rowlock.stream_entry as s;
comment on view rowlock.streams is 'What runs have emitted, by stream and offset.';

create or replace view rowlock.generations as
select o.run_id, o.generation, coalesce(g.reason, 'start') as reason, g.place, o.status, o.version,
       coalesce(g.created_at, r.created_at) as began_at, o.finished_at,
       case when o.generation = 1 then r.input else g.input end as input, o.output, o.error
  from rowlock.outcome as o
  join rowlock.run as r on r.id = o.run_id
  left join rowlock.generation as g on g.run_id = o.run_id and g.generation = o.generation;
comment on view rowlock.generations is 'The ended histories of each run; a redo begins the next one.';
