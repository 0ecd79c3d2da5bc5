-- runs, steps, workers, messages, events, streams, generations: what people look at.
--
-- Columns are added at the end and never renamed or dropped: people's queries name them.

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
       case when coalesce(t.generation, o.generation) = 1 then r.deadline_at
            else (select g.deadline_at from rowlock.generation as g
                   where g.run_id = r.id and g.generation = coalesce(t.generation, o.generation))
       end as deadline_at,
       r.forked_from,
       r.parent_generation,
       r.parent_place,
       r.child_index,
       coalesce(r.detached, false) as detached,
       t.claimed_at,
       r.trace_context,
       case when t.run_id is null then r.partition else t.partition end as partition,
       r.start_before,
       r.dedup,
       r.debounce,
       r.batch
  from rowlock.run as r
  left join rowlock.task as t on t.run_id = r.id
  left join lateral (
        select x.* from rowlock.outcome as x
         where x.run_id = r.id and t.run_id is null
         order by x.generation desc
         limit 1) as o on true;
comment on view rowlock.runs is
    'Every run with its present state. One run, or children, or runs with some attributes, are looked up by an index; for pages of all others take rowlock.list_runs.';
comment on column rowlock.runs.run_id is 'UUIDv7, made by the server: ordering by it is ordering by creation.';
comment on column rowlock.runs.app is 'The app it belongs to.';
comment on column rowlock.runs.workflow is 'The workflow it is a run of.';
comment on column rowlock.runs.queue is 'The queue it waits in, or was run from.';
comment on column rowlock.runs.key is 'The caller''s idempotency key; null: it has none.';
comment on column rowlock.runs.status is
    'scheduled, ready, running, waiting or blocked while unfinished; then succeeded, failed, cancelled or dead.';
comment on column rowlock.runs.version is 'The code version it is pinned to, or ended on; null: none yet, or its workers carry none.';
comment on column rowlock.runs.priority is '0 (claimed first) to 100 (last).';
comment on column rowlock.runs.generation is 'Which of its histories this is; a redo and continue_as_new begin the next one.';
comment on column rowlock.runs.epoch is 'How often it has changed hands.';
comment on column rowlock.runs.created_at is 'When it was started by its caller.';
comment on column rowlock.runs.due_at is
    'When it may run; of a ready run, since when it might. infinity: it waits for no time. Null once it has ended.';
comment on column rowlock.runs.started_at is 'When a worker claimed it for the first time; null: it never began.';
comment on column rowlock.runs.finished_at is 'When it ended; null while it is unfinished.';
comment on column rowlock.runs.worker_id is 'The worker that runs it, see rowlock.workers; null while none does.';
comment on column rowlock.runs.takeovers is
    'How often in a row it was taken over from a dead worker without a new step; too often, and it ends as dead. Null once it has ended.';
comment on column rowlock.runs.parent_id is 'The run that started it as its child; null: none did.';
comment on column rowlock.runs.attributes is 'What its caller wants it to be found by: attributes @> ''{"customer": 42}''.';
comment on column rowlock.runs.input is 'The arguments it was started with, by name.';
comment on column rowlock.runs.output is 'What it returned, if it succeeded.';
comment on column rowlock.runs.error is 'Why it failed, was cancelled or is dead: {"type", "message", …}.';
comment on column rowlock.runs.reason is 'Why it is blocked: {"kind", "message", …}; null while it is not.';
comment on column rowlock.runs.deadline_at is 'When it must have ended, else it fails; null: whenever.';
comment on column rowlock.runs.forked_from is 'The run whose history it began with a copy of; null: none.';
comment on column rowlock.runs.parent_generation is 'The generation of its parent that started it.';
comment on column rowlock.runs.parent_place is 'The place in its parent''s history where it was started, see rowlock.steps.';
comment on column rowlock.runs.child_index is 'Which of its group it is (app.map), from 1; null: a child by itself, or none.';
comment on column rowlock.runs.detached is 'Whether it is a child that is not cancelled with its parent.';
comment on column rowlock.runs.claimed_at is 'When the worker that runs it claimed it; null while none does.';
comment on column rowlock.runs.trace_context is 'The W3C trace context it was started with; null: it begins a trace.';
comment on column rowlock.runs.partition is 'The part of its queue it waits in; once it has ended, the one it was started with. Null: none.';
comment on column rowlock.runs.start_before is 'When it was too late to begin; null: never.';
comment on column rowlock.runs.dedup is 'The key it has while it is unfinished, unique within its workflow; null: none.';
comment on column rowlock.runs.debounce is 'The key by which a later start puts it off until it is due; null: none.';
comment on column rowlock.runs.batch is 'The key by which a later start adds to its list until it is due or full; null: none.';

create or replace view rowlock.steps as
select s.run_id, s.generation, s.position, s.place, s.kind, s.name,
       case when s.error is null then 'succeeded' else 'failed' end as status,
       s.attempts, s.recorded_at, s.seconds, s.epoch, s.output, s.error,
       s.recorded_at - s.seconds * interval '1 second' as started_at
  from rowlock.step as s;
comment on view rowlock.steps is
    'Every recorded step. Those of earlier generations stay; the present ones are those of the run''s generation.';
comment on column rowlock.steps.run_id is 'The run, see rowlock.runs.';
comment on column rowlock.steps.generation is 'The history it stands in; a redo copies the steps it keeps into the next one.';
comment on column rowlock.steps.position is 'The order of recording within the generation; gaps mean nothing.';
comment on column rowlock.steps.place is 'Outline number of the call in the program: 1, 2, 3; in the branch that is the fourth thing, 4.1.';
comment on column rowlock.steps.kind is
    'step, transaction, or what the app itself did: timer, receive, child, children, send, set_event, emit, cancel, now, …';
comment on column rowlock.steps.name is 'The step''s function; of a receive its topic, of a child its workflow.';
comment on column rowlock.steps.status is 'succeeded or failed.';
comment on column rowlock.steps.attempts is 'How often it was tried.';
comment on column rowlock.steps.recorded_at is 'When its outcome was recorded; a copy keeps that.';
comment on column rowlock.steps.seconds is 'How long its last attempt took, by the worker''s clock.';
comment on column rowlock.steps.epoch is 'The epoch of the claim under which it was recorded: one epoch, one worker.';
comment on column rowlock.steps.output is 'What it returned.';
comment on column rowlock.steps.error is 'What it raised at last: {"type", "message", …}; null: it succeeded.';
comment on column rowlock.steps.started_at is 'When its last attempt began: recorded_at less seconds.';

create or replace view rowlock.workers as
select w.id as worker_id, w.app, nullif(w.version, '') as version, w.host, w.pid, w.queues, w.slots,
       (select count(*) from rowlock.task as t where t.worker_id = w.id and t.state = 'running') as running,
       w.registered_at, w.lease_until,
       w.draining or exists (select from rowlock.drain_request as d where d.worker_id = w.id) as draining,
       w.lease_until > clock_timestamp() as alive
  from rowlock.worker as w;
comment on view rowlock.workers is 'Worker processes that hold a lease, and those that lost it and have not been cleared yet.';
comment on column rowlock.workers.worker_id is 'Its number; a process that loses its lease comes back with another.';
comment on column rowlock.workers.app is 'The app whose runs it claims.';
comment on column rowlock.workers.version is 'The code version it carries; null: none, so it takes every run of the app.';
comment on column rowlock.workers.host is 'The machine or pod.';
comment on column rowlock.workers.pid is 'The operating-system process there.';
comment on column rowlock.workers.queues is 'The queues it serves; null: all of its app''s.';
comment on column rowlock.workers.slots is 'How many runs it may have at a time.';
comment on column rowlock.workers.running is 'How many it has now.';
comment on column rowlock.workers.registered_at is 'Since when it is there.';
comment on column rowlock.workers.lease_until is 'When others take its runs over unless it renews its lease.';
comment on column rowlock.workers.draining is 'Whether it takes no new runs because it is about to stop.';
comment on column rowlock.workers.alive is 'Whether its lease holds now.';

create or replace view rowlock.messages as
select m.run_id, m.id as message_id, m.topic, m.key, m.value, m.sent_at, m.from_run_id,
       m.received_generation, m.received_place
  from rowlock.message as m;
comment on view rowlock.messages is 'What was sent to runs. A run receives the messages of a topic in the order of their ids.';
comment on column rowlock.messages.run_id is 'The run it was sent to.';
comment on column rowlock.messages.message_id is 'Its number; within a run these follow the order of commits.';
comment on column rowlock.messages.topic is 'What it is about: a receive names it.';
comment on column rowlock.messages.key is 'The sender''s idempotency key; unique within the run it was sent to.';
comment on column rowlock.messages.value is 'What it says.';
comment on column rowlock.messages.sent_at is 'When it was sent.';
comment on column rowlock.messages.from_run_id is 'The run that sent it; null: it came from outside.';
comment on column rowlock.messages.received_generation is 'The generation that received it; null: none has yet.';
comment on column rowlock.messages.received_place is 'The place of the receive that got it; null: none has yet.';

create or replace view rowlock.events as
select e.run_id, e.name, e.value, e.set_at from rowlock.event as e;
comment on view rowlock.events is 'What runs show to others: the latest value of each event.';
comment on column rowlock.events.run_id is 'The run that shows it.';
comment on column rowlock.events.name is 'Which of its events.';
comment on column rowlock.events.value is 'The latest value.';
comment on column rowlock.events.set_at is 'When that was set.';

create or replace view rowlock.streams as
select s.run_id, s.stream, s."offset", s.value, s.emitted_at from rowlock.stream_entry as s;
comment on view rowlock.streams is 'What runs have emitted, an entry a row.';
comment on column rowlock.streams.run_id is 'The run that emitted it.';
comment on column rowlock.streams.stream is 'Which of its streams.';
comment on column rowlock.streams."offset" is 'Which entry of the stream, counted from 0 without a gap.';
comment on column rowlock.streams.value is 'What was emitted.';
comment on column rowlock.streams.emitted_at is 'When that was.';

create or replace view rowlock.generations as
select h.run_id, h.generation, coalesce(g.reason, 'start') as reason, g.place, h.status, h.version,
       coalesce(g.created_at, r.created_at) as began_at, h.finished_at,
       case when h.generation = 1 then r.input else g.input end as input, h.output, h.error
  from (select o.run_id, o.generation, o.status, nullif(o.version, '') as version, o.finished_at,
               o.output, o.error
          from rowlock.outcome as o
        union all
        select t.run_id, t.generation, t.state, nullif(t.version, ''), null, null, null
          from rowlock.task as t) as h
  join rowlock.run as r on r.id = h.run_id
  left join rowlock.generation as g on g.run_id = h.run_id and g.generation = h.generation;
comment on view rowlock.generations is
    'The histories of each run, the present one too: a redo and continue_as_new begin the next one, and change nothing of those before.';
comment on column rowlock.generations.run_id is 'The run.';
comment on column rowlock.generations.generation is 'Which of its histories, from 1.';
comment on column rowlock.generations.reason is 'How it began: start, resume, retry, rewind, fork or continued (continue_as_new).';
comment on column rowlock.generations.place is 'The first place that was not kept, of a rewind or fork.';
comment on column rowlock.generations.status is
    'How it ended: succeeded, failed, cancelled, dead or continued; of an unfinished one its state.';
comment on column rowlock.generations.version is 'The code version it ended on or is pinned to; null: none.';
comment on column rowlock.generations.began_at is 'When it began.';
comment on column rowlock.generations.finished_at is 'When it ended; null while it has not.';
comment on column rowlock.generations.input is 'The arguments it was given, by name.';
comment on column rowlock.generations.output is 'What it returned.';
comment on column rowlock.generations.error is 'Why it did not succeed.';
