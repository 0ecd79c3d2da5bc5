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
