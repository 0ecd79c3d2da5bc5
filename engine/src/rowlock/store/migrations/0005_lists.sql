-- minimum code level: 3
-- 0005_lists: lists by any filter, and what every column means.
--
-- A run that is redone leaves outcomes of earlier generations behind. What is left without redone_at is
-- how a run stands, if it has ended: one row a run, and only those are in the indexes of lists. So no
-- list has to pass what was redone, however much that is.

alter table rowlock.outcome add column redone_at timestamptz;
update rowlock.outcome as o
   set redone_at = g.created_at
  from rowlock.generation as g
 where g.run_id = o.run_id and g.generation = o.generation + 1 and o.status <> 'continued';

-- One index for app, workflow, queue and status, each alone or together: functions/ended.sql walks over
-- those that exist, which are few, and says why `nulls first`. An index for each would cost five times as
-- much WAL a run.
create index outcome_lane on rowlock.outcome (app, workflow, queue, status, run_id nulls first)
    where redone_at is null and status <> 'continued';
-- Versions come and go, so they are none of these.
create index outcome_version on rowlock.outcome (app, version, status, run_id nulls first)
    where redone_at is null and status <> 'continued' and version <> '';
drop index rowlock.outcome_status_run;

-- The newest children of a run that has a hundred thousand.
create index run_parent_id on rowlock.run (parent_id, id nulls first) where parent_id is not null;
drop index rowlock.run_parent;
alter index rowlock.run_parent_id rename to run_parent;

-- Until the new one is there (the functions come after this step) a redo fails, rather than leave an
-- outcome unmarked.
drop function if exists rowlock.begin_again(rowlock.outcome, text, integer, text, jsonb);

-- Who may see an app's runs may look one up by its key.
create policy by_app on rowlock.run_key for select using (
    (select rowlock.my_apps()) is null or app = any ((select rowlock.my_apps())::text[]));

-- What every column means. First those that mean the same wherever they stand.
do $do$
declare
    v_column record;
begin
    for v_column in
        select c.relname, a.attname, x.meaning
          from pg_catalog.pg_class as c
          join pg_catalog.pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
          join (values ('run_id', 'The run.'),
                       ('app', 'The app it belongs to.'),
                       ('workflow', 'The workflow.'),
                       ('queue', 'The queue.'),
                       ('priority', '0 (claimed first) to 100 (last).'),
                       ('generation', 'Which history of the run, from 1.'),
                       ('created_at', 'When it was asked for.'),
                       ('input', 'The arguments, by name.'),
                       ('output', 'What it returned.'),
                       ('error', 'What it raised: {"type", "message", …}.'),
                       ('value', 'What it says.'),
                       ('applied_at', 'When.'),
                       ('checksum', 'SHA-256 of its text.')) as x (name, meaning) on x.name = a.attname
         where c.relnamespace = 'rowlock'::regnamespace and c.relkind = 'r'
           and pg_catalog.col_description(c.oid, a.attnum) is null
    loop
        execute format('comment on column rowlock.%I.%I is %L', v_column.relname, v_column.attname,
                       v_column.meaning);
    end loop;
end $do$;
comment on table rowlock.migration is 'The numbered steps of the tables that were applied.';
comment on column rowlock.migration.number is 'Which step.';
comment on column rowlock.migration.minimum_level is 'Code below this level may not use the database since then.';
comment on column rowlock.migration.name is 'What it is called.';
comment on table rowlock.repeatable is 'What is applied again whenever its text changes: functions and views.';
comment on column rowlock.repeatable.name is 'What it is called.';
comment on column rowlock.run.parent_id is 'The run that started it as its child.';
comment on column rowlock.run.parent_generation is 'The history of the parent in which it did.';
comment on column rowlock.run.parent_place is 'The place in that history.';
comment on column rowlock.run.queue is 'The queue it was started in; the task''s counts.';
comment on column rowlock.run.priority is 'As it was started; the task''s counts.';
comment on column rowlock.run.attributes is 'What its caller wants it to be found by.';
comment on column rowlock.run_key.key is 'The key, unique within the app.';
comment on column rowlock.step.recorded_at is 'When; a copy keeps it.';
comment on column rowlock.step.attempts is 'How often it was tried.';
comment on column rowlock.step.kind is 'What was asked for: a step, a transaction, a child, a message, …';
comment on column rowlock.step.name is 'Of what: the step''s function, the child''s workflow, the message''s topic, …';
comment on column rowlock.outcome.started_at is 'When the run was claimed for the first time; null: never.';
comment on column rowlock.outcome.finished_at is 'When it ended.';
comment on column rowlock.outcome.epoch is 'Of the claim that ended it; a redo counts on from here.';
comment on column rowlock.outcome.version is 'The code version it was pinned to; empty: none.';
comment on column rowlock.outcome.status is 'How it ended.';
comment on column rowlock.outcome.redone_at is
    'When a redo superseded it; null: it counts, and unless it is `continued` it is how the run stands.';
comment on column rowlock.task.started_at is 'When it was claimed for the first time.';
comment on column rowlock.task.claimed_at is 'When it was claimed by the worker that has it.';
comment on column rowlock.task.worker_id is 'The worker that has it.';
comment on column rowlock.task.state is 'scheduled, ready, running, waiting or blocked.';
comment on column rowlock.task.reason is 'Why it is blocked: {"kind", "message", …}.';
comment on column rowlock.wait.opened_at is 'Since when.';
comment on column rowlock.wait.due_at is 'Until when, of a timer; of the others, their timeout.';
comment on column rowlock.wait.on_run_id is 'Whose end or event it waits for.';
comment on column rowlock.wait.attempt is 'Which attempt of the step comes next, of a retry.';
comment on column rowlock.wait.place is 'Where in the program.';
comment on column rowlock.wait.kind is 'timer, retry, run, message, event or group.';
comment on column rowlock.wait.error is 'What the attempt before raised, of a retry.';
comment on column rowlock.wake.noted_at is 'When it was noted.';
comment on column rowlock.wake.name is 'The event''s name; null: the end of the run.';
comment on column rowlock.message.id is 'Its number, in the order of commits within the run.';
comment on column rowlock.message.run_id is 'The run it was sent to.';
comment on column rowlock.message.sent_at is 'When.';
comment on column rowlock.message.from_run_id is 'The run that sent it; null: it came from outside.';
comment on column rowlock.message.topic is 'What it is about.';
comment on column rowlock.message.received_generation is 'The history of the receive that got it; null: none has.';
comment on column rowlock.message.received_place is 'The place of that receive.';
comment on column rowlock.event.set_at is 'When.';
comment on column rowlock.event.name is 'Which event.';
comment on column rowlock.stream_entry.emitted_at is 'When.';
comment on column rowlock.stream_entry."offset" is 'Which entry of the stream, from 0.';
comment on column rowlock.stream_entry.stream is 'Which stream.';
comment on column rowlock.cancel_request.requested_at is 'When.';
comment on column rowlock.cancel_request.grace_s is 'How long it may clean up, in seconds.';
comment on column rowlock.cancel_request.force is 'Without cleaning up.';
comment on column rowlock.cancel_request.reason is 'Why.';
comment on column rowlock.arrival.arrived_at is 'When they ended.';
comment on column rowlock.arrival.count is 'How many.';
comment on column rowlock.queue.declared_at is 'When code first showed it.';
comment on column rowlock.queue.name is 'Its name.';
comment on column rowlock.queue_gate.name is 'The queue.';
comment on column rowlock.workflow.registered_at is 'When code first showed it.';
comment on column rowlock.workflow.name is 'Its name.';
comment on column rowlock.workflow.queue is 'Where its runs wait unless they are told otherwise.';
comment on column rowlock.version.registered_at is 'When a worker first carried it.';
comment on column rowlock.version.promoted_at is 'When it was made the current one last.';
comment on column rowlock.version.name is 'Its name.';
comment on column rowlock.worker.id is 'Its number; a process that loses its lease comes back with another.';
comment on column rowlock.worker.registered_at is 'Since when.';
comment on column rowlock.worker.lease_until is 'When others take its runs over.';
comment on column rowlock.worker.pid is 'The process.';
comment on column rowlock.worker.slots is 'How many runs it may have at a time.';
comment on column rowlock.worker.draining is 'It takes no new runs.';
comment on column rowlock.worker.version is 'The code version it carries; empty: none.';
comment on column rowlock.worker.host is 'The machine or pod.';
comment on column rowlock.listener.id is 'Which client.';
comment on column rowlock.listener.until is 'How long the row counts.';
comment on column rowlock.pause.paused_at is 'Since when.';
comment on column rowlock.pause.paused_by is 'The role that paused it.';
comment on column rowlock.pause.reason is 'Why.';
comment on column rowlock.drain_request.worker_id is 'The worker.';
comment on column rowlock.drain_request.requested_at is 'When.';
comment on column rowlock.audit_entry.id is 'Its number.';
comment on column rowlock.audit_entry.at is 'When.';
comment on column rowlock.audit_entry.actor is 'The role that did it.';
comment on column rowlock.audit_entry.application_name is 'What its session called itself.';
comment on column rowlock.audit_entry.operation is 'The function that was called.';
comment on column rowlock.audit_entry.object is 'What it was done to, if not to a run.';
comment on column rowlock.audit_entry.before is 'What it changed, as it was.';
comment on column rowlock.audit_entry.after is 'What it changed, as it is since then.';
comment on column rowlock.app_member.granted_at is 'Since when.';
comment on column rowlock.app_member.granted_by is 'The role that granted it.';
