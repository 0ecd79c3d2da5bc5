-- ended: which runs have ended, newest first: by app, workflow, queue and status (each of them, or all
-- of it), or by version.
--
-- plpgsql, because before PostgreSQL 18 a function in SQL is planned anew by every call.
--
-- There is one index for the first four (outcome_lane), a lane being what agrees in all of them. There
-- are few lanes, however many runs: a loose walk finds them, a probe each, as ready_queues does for the
-- claim; then each gives its newest runs. Walked downwards, because what retention deletes stands at the
-- lower end of each lane, and is passed over again and again until a vacuum.
--
-- The last column of these indexes is `nulls first`, so they are read downwards as `desc nulls last`, an
-- order that the primary key doesn't have. Else a planner that has seen but one lane would walk that
-- instead, later past every run there is when none is in the lane.
--
-- Read with the rights of who asks. Whoever may not see all apps must name his (rowlock.my_apps()): a walk
-- over apps would pass every run of the others.

-- id_at: the lowest id that a run made at this time can have.
create or replace function rowlock.id_at(p_at timestamptz) returns uuid
language sql immutable set search_path = pg_catalog
return (lpad(to_hex(floor(extract(epoch from
            least(greatest(p_at, timestamptz '1970-01-01 00:00:00Z'), timestamptz '9999-12-31 00:00:00Z'))
        * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid;

-- newest_ended: the newest so many, by id, with p_from <= id < p_below; of these apps, null: of all. Of each lane are read, first,
-- enough that all of them together may be a page: none below the last of these can be in it; then
-- what is above that. So a page of 1,000 out of 100 lanes doesn't read 1,000 of each.
create or replace function rowlock.newest_ended(
    p_apps text[], p_workflow text, p_queue text, p_status text, p_from uuid, p_below uuid, p_limit integer)
returns setof uuid
language plpgsql stable
set search_path = pg_catalog set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off
set enable_incremental_sort = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
begin
    return query
    with recursive apps (app) as (
        (select x.app from unnest(p_apps) as x (app)
         union all
         select (select o.app from rowlock.outcome as o
                  where o.redone_at is null and o.status <> 'continued'
                  order by o.app desc limit 1)
          where p_apps is null)
        union all
        select (select o.app from rowlock.outcome as o
                 where o.redone_at is null and o.status <> 'continued' and o.app < a.app
                 order by o.app desc limit 1)
          from apps as a
         where p_apps is null and a.app is not null
    ), walk (app, workflow, queue) as (
        select a.app, n.workflow, n.queue
          from apps as a
         cross join lateral (
               (select o.workflow, o.queue from rowlock.outcome as o
                 where p_workflow is null
                   and o.redone_at is null and o.status <> 'continued' and o.app = a.app
                 order by o.workflow desc, o.queue desc limit 1)
               union all
               (select o.workflow, o.queue from rowlock.outcome as o
                 where o.redone_at is null and o.status <> 'continued' and o.app = a.app
                   and o.workflow = p_workflow
                 order by o.queue desc limit 1)) as n
        union all
        select w.app, n.workflow, n.queue
          from walk as w
         cross join lateral (
               (select o.workflow, o.queue from rowlock.outcome as o
                 where p_workflow is null
                   and o.redone_at is null and o.status <> 'continued' and o.app = w.app
                   and (o.workflow, o.queue) < (w.workflow, w.queue)
                 order by o.workflow desc, o.queue desc limit 1)
               union all
               (select o.workflow, o.queue from rowlock.outcome as o
                 where o.redone_at is null and o.status <> 'continued' and o.app = w.app
                   and o.workflow = p_workflow and o.queue < w.queue
                 order by o.queue desc limit 1)) as n
    ), lanes as materialized (
        select w.app, w.workflow, w.queue, s.status, count(*) over () as lanes
          from walk as w
         cross join unnest(array['succeeded', 'failed', 'cancelled', 'dead']) as s (status)
         where (p_queue is null or w.queue = p_queue) and (p_status is null or s.status = p_status)
    ), first as materialized (
        select n.run_id
          from lanes as l
         cross join lateral (
               select o.run_id from rowlock.outcome as o
                where o.redone_at is null and o.status <> 'continued'
                  and o.app = l.app and o.workflow = l.workflow and o.queue = l.queue and o.status = l.status
                  and o.run_id < p_below and o.run_id >= p_from
                order by o.run_id desc nulls last
                limit (p_limit + l.lanes - 1) / l.lanes) as n
    ), least_of_page as materialized (
        select f.run_id from first as f order by f.run_id desc offset p_limit - 1 limit 1
    )
    select n.run_id
      from lanes as l
     cross join lateral (
           select o.run_id from rowlock.outcome as o
            where o.redone_at is null and o.status <> 'continued'
              and o.app = l.app and o.workflow = l.workflow and o.queue = l.queue and o.status = l.status
              and o.run_id < p_below
              and o.run_id >= coalesce((select x.run_id from least_of_page as x), p_from)
            order by o.run_id desc nulls last
            limit p_limit) as n
     order by n.run_id desc
     limit p_limit;
end $$;

-- newest_of_version: the same for those that ended on one version of the code.
create or replace function rowlock.newest_of_version(
    p_apps text[], p_version text, p_status text, p_from uuid, p_below uuid, p_limit integer)
returns setof uuid
language plpgsql stable
set search_path = pg_catalog set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off
set enable_incremental_sort = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
begin
    return query
    with recursive apps (app) as (
        (select x.app from unnest(p_apps) as x (app)
         union all
         select (select o.app from rowlock.outcome as o
                  where o.redone_at is null and o.status <> 'continued' and o.version <> ''
                  order by o.app desc limit 1)
          where p_apps is null)
        union all
        select (select o.app from rowlock.outcome as o
                 where o.redone_at is null and o.status <> 'continued' and o.version <> ''
                   and o.app < a.app
                 order by o.app desc limit 1)
          from apps as a
         where p_apps is null and a.app is not null
    )
    select n.run_id
      from apps as a
     cross join unnest(array['succeeded', 'failed', 'cancelled', 'dead']) as s (status)
     cross join lateral (
           select o.run_id from rowlock.outcome as o
            where o.redone_at is null and o.status <> 'continued' and o.version <> ''
              and o.app = a.app and o.version = p_version and o.status = s.status
              and o.run_id < p_below and o.run_id >= p_from
            order by o.run_id desc nulls last
            limit p_limit) as n
     where a.app is not null and s.status = coalesce(p_status, s.status)
     order by n.run_id desc
     limit p_limit;
end $$;
