-- audit: who changed what through the functions of control.
--
-- Each of them notes what it changed in the caller's transaction: no change without its row, no row
-- without the change. start, send, set_event and emit note nothing: the rows they write are their
-- record. Nor do workers, nor what follows from an entry (the children that a cancel reaches). Values of
-- runs (inputs, outcomes) are not repeated here: before and after say where they stand.

create or replace function rowlock.note_audit(
    p_operation text, p_app text, p_run uuid, p_object text, p_before jsonb, p_after jsonb)
returns void
language sql volatile
set search_path = pg_catalog
as $$
    insert into rowlock.audit_entry (at, run_id, actor, application_name, operation, app, object, before, after)
    values (clock_timestamp(), p_run, rowlock.invoker(), current_setting('application_name'), p_operation,
            p_app, p_object, jsonb_strip_nulls(p_before), jsonb_strip_nulls(p_after));
$$;

create or replace view rowlock.audit as
select a.id as audit_id, a.at, a.actor, a.application_name, a.operation, a.app, a.run_id, a.object,
       a.before, a.after
  from rowlock.audit_entry as a;
comment on view rowlock.audit is
    'Who changed what, when, by cancel, resume, retry, rewind, fork, delete, reprioritise, reschedule, move, pause, unpause, set_limit, unset_limit, reset_limits, promote, retire, drain_worker, set_retention, drop_retention, create_schedule, update_schedule, unset_schedule, delete_schedule, pause_schedule, resume_schedule, trigger_schedule, backfill, grant_app and revoke_app.';
comment on column rowlock.audit.audit_id is 'Its number.';
comment on column rowlock.audit.at is 'When.';
comment on column rowlock.audit.actor is 'The role that did it.';
comment on column rowlock.audit.application_name is 'What its session called itself.';
comment on column rowlock.audit.operation is 'The function that was called.';
comment on column rowlock.audit.app is 'The app it was done in.';
comment on column rowlock.audit.run_id is 'The run it was done to; null: it was done to something else.';
comment on column rowlock.audit.object is 'What else it was done to: queue default, version v1, worker 7, …';
comment on column rowlock.audit.before is 'What it changed, as it was.';
comment on column rowlock.audit.after is 'What it changed, as it is since then.';
