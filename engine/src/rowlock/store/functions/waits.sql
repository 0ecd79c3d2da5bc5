-- waits: what runs wait for, for people.
--
-- A row of `wait` may be older than the truth: a timer's row stays when its place is recorded, until the
-- run falls asleep or ends. So a place that is recorded, or of a history that has ended, is left out
-- here. A run that is loaded waits for some things in memory only; its rows appear when it falls asleep.
create or replace view rowlock.waits as
select w.run_id, w.generation, w.place, w.kind, w.name, w.on_run_id, w.opened_at,
       nullif(w.due_at, 'infinity') as due_at, nullif(w.attempt, 0) as attempts, w.error,
       w.count as children,
       case when w.kind = 'group'
            then (select coalesce(sum(a.count), 0) from rowlock.arrival as a where a.name = w.name)
       end as arrived
  from rowlock.wait as w
  join rowlock.task as t on t.run_id = w.run_id and t.generation = w.generation
 where not exists (select from rowlock.step as s
                    where s.run_id = w.run_id and s.generation = w.generation and s.place = w.place);
comment on view rowlock.waits is
    'What unfinished runs wait for, by place. A run that is loaded waits for some things in memory only.';
comment on column rowlock.waits.run_id is 'The run that waits.';
comment on column rowlock.waits.generation is 'In which of its histories.';
comment on column rowlock.waits.place is 'Where in its program.';
comment on column rowlock.waits.kind is 'timer, retry, run, message, event or group (of children).';
comment on column rowlock.waits.name is 'The message''s topic, the event''s name, or the group''s.';
comment on column rowlock.waits.on_run_id is 'The run whose end or event it waits for.';
comment on column rowlock.waits.opened_at is 'Since when.';
comment on column rowlock.waits.due_at is 'When it goes on by itself, or the timeout of what it waits for; null: never.';
comment on column rowlock.waits.attempts is 'Of a retry: how many attempts have failed.';
comment on column rowlock.waits.error is 'Of a retry: how the last attempt failed.';
comment on column rowlock.waits.children is 'Of a group: how many there are.';
comment on column rowlock.waits.arrived is 'Of a group: how many have ended.';

-- oldest_waits: of the runs that sleep, what has been waited for longest. Those are read from the oldest
-- run on (the key of `wait` begins with the run's id, and ids are ordered by creation), at most p_look
-- of them, and for those twenty times as many rows: a million sleepers are not sorted to show ten.
-- p_app null: all apps.
create or replace function rowlock.oldest_waits(
    p_limit integer default 10, p_app text default null, p_look integer default 1000)
returns table (
    run_id uuid, app text, workflow text, queue text, place text, kind text, name text, on_run_id uuid,
    opened_at timestamptz, due_at timestamptz)
language sql stable
set search_path = pg_catalog set enable_seqscan = off set jit = off set enable_hashjoin = off
set enable_mergejoin = off set enable_bitmapscan = off set enable_sort = off
as $$
    with oldest as materialized (
        select w.run_id, t.app, t.workflow, t.queue, w.place, w.kind, w.name, w.on_run_id, w.opened_at,
               nullif(w.due_at, 'infinity') as due_at
          from (select y.* from rowlock.wait as y
                 order by y.run_id, y.generation, y.place limit 20 * p_look) as w
         cross join lateral (
               select x.* from rowlock.task as x
                where x.run_id = w.run_id and x.generation = w.generation and x.state || '' = 'waiting'
                  and (p_app is null or x.app = p_app)
               offset 0) as t
         order by w.run_id, w.generation, w.place
         limit p_look)
    select * from oldest order by opened_at, run_id limit p_limit
$$;
