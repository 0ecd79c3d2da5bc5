-- search: pages of runs by any filter, newest first, fast at a million runs.
--
-- list_runs asks several sources for candidates, newest first and a chunk at a time, and holds each
-- against all filters in one place, by the view. A source need only be complete for its filter. First come
-- a few of the newest runs as they are: where many fit, that is all. Then, whichever applies first: the
-- key, the parent, the attributes, the version, or what ended (ended.sql) and what is unfinished by app,
-- workflow, queue and status. It is STABLE, so all of its statements see what the caller's sees.
--
-- Ids are UUIDv7, so a time is a bound on ids, a rough one: created_at is when the call came, and the ids
-- of a large batch are made after that, those of a fork's children before. So candidates come from a
-- little more than was asked for.
--
-- It runs as its caller, under row-level security. The planner may then use no index for what might leak, as
-- `@>` might: so with_attributes runs as the owner and asks for the apps itself.

-- id_since: no run from this id on was created before the time. That is a second later, unless a large
-- batch was being started just then: the next runs tell. As the owner: the next runs may be others'.
create or replace function rowlock.id_since(p_at timestamptz) returns uuid
language plpgsql stable strict
set search_path = pg_catalog set enable_seqscan = off set enable_bitmapscan = off set jit = off
set plan_cache_mode = force_generic_plan
as $$
declare
    v_lag interval := interval '1 second';
    v_id  uuid;
begin
    loop
        v_id := rowlock.id_at(p_at + v_lag);
        exit when not exists (
            select from (select r.created_at from rowlock.run as r
                          where r.id >= v_id order by r.id limit 20) as x
             where x.created_at < p_at);
        v_lag := v_lag * 4;
    end loop;
    return v_id;
end $$;

-- id_until: the same to the other side: no run before this id was created at the time or later.
create or replace function rowlock.id_until(p_at timestamptz) returns uuid
language plpgsql stable strict
set search_path = pg_catalog set enable_seqscan = off set enable_bitmapscan = off set jit = off
set plan_cache_mode = force_generic_plan
as $$
declare
    v_lag interval := interval '1 second';
    v_id  uuid;
begin
    loop
        v_id := rowlock.id_at(p_at - v_lag);
        exit when not exists (
            select from (select r.created_at from rowlock.run as r
                          where r.id < v_id order by r.id desc limit 20) as x
             where x.created_at >= p_at);
        v_lag := v_lag * 4;
    end loop;
    return v_id;
end $$;

-- with_key: of these apps; null: a loose walk over all.
create or replace function rowlock.with_key(p_apps text[], p_key text) returns setof uuid
language plpgsql stable
set search_path = pg_catalog set enable_seqscan = off set enable_bitmapscan = off set jit = off
set enable_hashjoin = off set enable_mergejoin = off set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
begin
    return query
    with recursive apps (app) as (
        (select x.app from unnest(p_apps) as x (app)
         union all
         select (select k.app from rowlock.run_key as k order by k.app limit 1) where p_apps is null)
        union all
        select (select k.app from rowlock.run_key as k where k.app > a.app order by k.app limit 1)
          from apps as a
         where p_apps is null and a.app is not null
    )
    select k.run_id
      from apps as a
     cross join lateral (select x.run_id from rowlock.run_key as x
                          where x.app = a.app and x.key = p_key offset 0) as k;
end $$;

-- with_parent: by its index (`desc nulls last`: see ended.sql).
create or replace function rowlock.with_parent(p_parent uuid, p_from uuid, p_below uuid, p_limit integer)
returns setof uuid
language plpgsql stable
set search_path = pg_catalog set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set jit = off set plan_cache_mode = force_generic_plan
as $$
begin
    return query
    select r.id from rowlock.run as r
     where r.parent_id = p_parent and r.id >= p_from and r.id < p_below
     order by r.id desc nulls last
     limit p_limit;
end $$;

-- with_attributes: by the index, which knows no order: all are read for the newest so many. The fence
-- keeps the ids from the planner, which would walk them and look at the attributes of every run.
create or replace function rowlock.with_attributes(
    p_attributes jsonb, p_from uuid, p_below uuid, p_limit integer)
returns setof uuid
language plpgsql stable
set search_path = pg_catalog set enable_seqscan = off set enable_indexscan = off set jit = off
set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
begin
    return query
    with fit as materialized (
        select x.id, x.app
          from (select r.id, r.app from rowlock.run as r
                 where r.attributes @> p_attributes and r.attributes is not null offset 0) as x
         where x.id >= p_from and x.id < p_below
    ), mine as materialized (
        select d.app from (select distinct f.app from fit as f) as d where rowlock.allowed(d.app)
    )
    select f.id
      from fit as f
     where f.app in (select m.app from mine as m)
     order by f.id desc
     limit p_limit;
end $$;

-- newest_unfinished: tasks churn, so they have no index for this. Those that run or are blocked are few;
-- those that are ready are in the claim's index; the others are walked, newest first: a million sleepers
-- take a second if none of them fits.
create or replace function rowlock.newest_unfinished(
    p_apps text[], p_workflow text, p_queue text, p_status text, p_version text, p_from uuid, p_below uuid,
    p_limit integer)
returns setof uuid
language plpgsql stable
set search_path = pg_catalog set enable_seqscan = off set enable_bitmapscan = off set jit = off
set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
begin
    return query
    select u.run_id
      from (
        -- What else a task has is asked outside of the fence: inside it there is only what the index is for.
        select x.run_id, x.app, x.workflow, x.queue, x.version
          from (select t.* from rowlock.task as t
                 where t.state = 'running' and t.worker_id is not null offset 0) as x
         where p_status = 'running'
        union all
        select x.run_id, x.app, x.workflow, x.queue, x.version
          from (select t.* from rowlock.task as t
                 where t.state = 'blocked' and t.app >= '' offset 0) as x
         where p_status = 'blocked'
        union all
        select x.run_id, x.app, x.workflow, x.queue, x.version
          from (select t.* from rowlock.task as t
                 where t.state = 'ready' and t.app >= '' offset 0) as x
         where p_status = 'ready'
        union all
        select x.run_id, x.app, x.workflow, x.queue, x.version
          from (select t.* from rowlock.task as t
                 where t.run_id >= p_from and t.run_id < p_below
                   and (p_apps is null or t.app = any (p_apps))
                   and (p_workflow is null or t.workflow = p_workflow)
                   and (p_queue is null or t.queue = p_queue)
                   and (p_version is null or t.version = p_version)
                   and (p_status is null or t.state = p_status)
                 order by t.run_id desc
                 limit p_limit) as x
         where p_status is null or p_status in ('scheduled', 'waiting')
           ) as u
     where u.run_id >= p_from and u.run_id < p_below
       and (p_apps is null or u.app = any (p_apps))
       and (p_workflow is null or u.workflow = p_workflow)
       and (p_queue is null or u.queue = p_queue)
       and (p_version is null or u.version = p_version)
     order by u.run_id desc
     limit p_limit;
end $$;

-- in_words: at most ten names, for a hint.
create or replace function rowlock.in_words(p_names text[]) returns text
language sql immutable set search_path = pg_catalog
return case when cardinality(p_names) = 0 then 'none'
            else array_to_string(p_names[1:10], ', ')
                 || case when cardinality(p_names) > 10 then ', …' else '' end
       end;

-- refuse_unknown_names: an empty page may be a slip of the pen. Known is what was declared or registered, and
-- what some run has. p_apps: what is to be searched, as in list_runs.
create or replace function rowlock.refuse_unknown_names(
    p_apps text[], p_app text, p_workflow text, p_queue text, p_version text)
returns void
language plpgsql stable
set search_path = pg_catalog
as $$
declare
    v_first constant uuid := rowlock.id_at('-infinity');
    v_last  constant uuid := rowlock.id_at('infinity');
    v_known text[];
    v_whose text := case when p_app is null then 'no app has' else 'app ' || rowlock.shown(p_app) || ' has no' end;
begin
    if p_app is not null then
        v_known := array(select w.app from rowlock.workflow as w union select q.app from rowlock.queue as q
                          union select v.app from rowlock.version as v order by 1);
        if not p_app = any (v_known)
           and not exists (select from rowlock.newest_ended(p_apps, null, null, null, v_first, v_last, 1))
           and not exists (select from rowlock.newest_unfinished(
                                           p_apps, null, null, null, null, v_first, v_last, 1)) then
            raise exception 'there is no app %', rowlock.shown(p_app)
                using errcode = 'RLN07', hint = 'There are: ' || rowlock.in_words(v_known) || '.';
        end if;
    end if;
    if p_workflow is not null then
        v_known := array(select distinct w.name from rowlock.workflow as w
                          where p_app is null or w.app = p_app order by 1);
        if not p_workflow = any (v_known)
           and not exists (select from rowlock.newest_ended(
                                           p_apps, p_workflow, null, null, v_first, v_last, 1))
           and not exists (select from rowlock.newest_unfinished(
                                           p_apps, p_workflow, null, null, null, v_first, v_last, 1)) then
            raise exception '% workflow %', v_whose, rowlock.shown(p_workflow)
                using errcode = 'RLN05', hint = 'There are: ' || rowlock.in_words(v_known) || '.';
        end if;
    end if;
    if p_queue is not null then
        v_known := array(select distinct q.name from rowlock.queue as q
                          where p_app is null or q.app = p_app order by 1);
        if not p_queue = any (v_known)
           and not exists (select from rowlock.newest_ended(p_apps, null, p_queue, null, v_first, v_last, 1))
           and not exists (select from rowlock.newest_unfinished(
                                           p_apps, null, p_queue, null, null, v_first, v_last, 1)) then
            raise exception '% queue %', v_whose, rowlock.shown(p_queue)
                using errcode = 'RLN01', hint = 'There are: ' || rowlock.in_words(v_known) || '.';
        end if;
    end if;
    if p_version is not null then
        v_known := array(select distinct v.name from rowlock.version as v
                          where p_app is null or v.app = p_app order by 1);
        if not p_version = any (v_known)
           and not exists (select from rowlock.newest_of_version(
                                           p_apps, p_version, null, v_first, v_last, 1))
           and not exists (select from rowlock.newest_unfinished(
                                           p_apps, null, null, null, p_version, v_first, v_last, 1)) then
            raise exception '% version %', v_whose, rowlock.shown(p_version)
                using errcode = 'RLN02', hint = 'There are: ' || rowlock.in_words(v_known) || '.';
        end if;
    end if;
end $$;

create or replace function rowlock.list_runs(
    app            text        default null,
    status         text        default null,
    workflow       text        default null,
    queue          text        default null,
    version        text        default null,
    key            text        default null,
    parent_id      uuid        default null,
    attributes     jsonb       default null,
    created_after  timestamptz default null,
    created_before timestamptz default null,
    before         uuid        default null,
    "limit"        integer     default 50)
returns setof rowlock.runs
language plpgsql stable
set search_path = pg_catalog set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off set jit = off set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
    -- v_size: so many candidates are asked for; v_walk: among so many of the newest runs
    c_first constant integer := 100;
    c_first_attributes constant integer := 5000;
    c_most  constant integer := 10000;
    v_mine   text[] := rowlock.my_apps();  -- null: all
    v_apps   text[] := case when v_mine is null then case when list_runs.app is not null
                                                          then array[list_runs.app] end
                            when list_runs.app is null then v_mine
                            when list_runs.app = any (v_mine) then array[list_runs.app]
                            else '{}' end;
    v_next   text := case when list_runs.attributes is not null then 'attributes'
                          when coalesce(list_runs.app, list_runs.status, list_runs.workflow,
                                        list_runs.queue, list_runs.version) is not null
                            or v_mine is not null then 'indexed' end;
    v_source text := case when list_runs.key is not null then 'key'
                          when list_runs.parent_id is not null then 'parent'
                          when v_mine is not null then v_next  -- 'all' would pass the runs of other apps
                          else 'all' end;
    v_first  uuid := coalesce(rowlock.id_until(list_runs.created_after), rowlock.id_at('-infinity'));
    v_below  uuid := least(list_runs.before, rowlock.id_since(list_runs.created_before),
                           rowlock.id_at('infinity'));
    v_size   integer := case when v_source = 'all' and v_next is not null
                             then least(2 * list_runs."limit", c_first) else list_runs."limit" end;
    v_walk   integer := greatest(v_size, case when v_next = 'attributes' then c_first_attributes end);
    v_walked integer := 0;
    v_some   uuid[];             -- candidates
    v_last   uuid;               -- the last that was looked at; null: there are no more
    v_sparse boolean;            -- few of them were candidates
    v_missing integer := list_runs."limit";
    v_fit    integer;
begin
    if list_runs."limit" is null or list_runs."limit" not between 1 and 1000 then
        raise exception 'the limit is %, but must be between 1 and 1000', coalesce(list_runs."limit"::text, 'null')
            using errcode = 'RLV02', hint = 'Further pages: before => the last run_id of this one.';
    end if;
    if list_runs.status not in ('scheduled', 'ready', 'running', 'waiting', 'blocked',
                                'succeeded', 'failed', 'cancelled', 'dead', 'continued') then
        raise exception 'there is no status %', rowlock.shown(list_runs.status)
            using errcode = 'RLV02',
                  hint = 'There are: scheduled, ready, running, waiting, blocked, succeeded, failed, '
                         'cancelled, dead, continued.';
    end if;
    if jsonb_typeof(list_runs.attributes) <> 'object' then
        raise exception 'the attributes are not a JSON object'
            using errcode = 'RLV01', hint = 'For example attributes => ''{"customer": 42}''.';
    end if;

    loop
        v_some := case v_source
            when 'key' then array(
                select k.run_id from rowlock.with_key(v_apps, list_runs.key) as k (run_id))
            when 'parent' then array(
                select c.id
                  from rowlock.with_parent(list_runs.parent_id, v_first, v_below, v_size) as c (id))
            when 'attributes' then array(
                select a.id
                  from rowlock.with_attributes(list_runs.attributes, v_first, v_below, v_size) as a (id))
            when 'indexed' then array(
                select x.id
                  from (select e.id
                          from rowlock.newest_ended(
                                   v_apps, list_runs.workflow, list_runs.queue, list_runs.status,
                                   v_first, v_below, v_size) as e (id)
                         where list_runs.version is null
                        union all
                        select e.id
                          from rowlock.newest_of_version(
                                   v_apps, list_runs.version, list_runs.status, v_first, v_below,
                                   v_size) as e (id)
                         where list_runs.version is not null
                        union all
                        select u.id
                          from rowlock.newest_unfinished(
                                   v_apps, list_runs.workflow, list_runs.queue, list_runs.status,
                                   list_runs.version, v_first, v_below, v_size) as u (id)) as x
                 order by x.id desc limit v_size)
            else array(
                select x.id
                  from (select r.id, r.app, r.workflow, r.attributes from rowlock.run as r
                         where r.id >= v_first and r.id < v_below
                         order by r.id desc limit v_walk) as x
                 where (list_runs.app is null or x.app = list_runs.app)
                   and (list_runs.workflow is null or x.workflow = list_runs.workflow)
                   and (list_runs.attributes is null or x.attributes @> list_runs.attributes)
                 order by x.id desc limit v_size)
            end;
        v_last := v_some[v_size];
        v_sparse := v_last is null;
        if v_sparse and v_source = 'all' then
            v_last := (select r.id from rowlock.run as r
                        where r.id >= v_first and r.id < v_below
                        order by r.id desc offset v_walk - 1 limit 1);
        end if;
        return query
        select x.*
          from unnest(v_some) as c (id)
         cross join lateral (
               select y.* from rowlock.runs as y
                where y.run_id = c.id
                  and y.run_id >= v_first and y.run_id < v_below
                  and (list_runs.app is null or y.app = list_runs.app)
                  and (list_runs.workflow is null or y.workflow = list_runs.workflow)
                  and (list_runs.key is null or y.key = list_runs.key)
                  and (list_runs.parent_id is null or y.parent_id = list_runs.parent_id)
                  and (list_runs.attributes is null or y.attributes @> list_runs.attributes)
                  and (list_runs.created_after is null or y.created_at >= list_runs.created_after)
                  and (list_runs.created_before is null or y.created_at < list_runs.created_before)
                  and (list_runs.queue is null or y.queue = list_runs.queue)
                  and (list_runs.status is null or y.status = list_runs.status)
                  and (list_runs.version is null or y.version = list_runs.version)
               offset 0) as x
         order by x.run_id desc
         limit v_missing;
        get diagnostics v_fit = row_count;
        v_missing := v_missing - v_fit;
        exit when v_last is null or v_missing = 0 or v_source = 'key';

        v_below := v_last;
        v_walked := v_walked + v_walk;
        if v_source = 'all' and v_walked <= 2 * (list_runs."limit" - v_missing) then
            v_size := 2 * v_missing;
            v_walk := v_size;
        elsif v_source = 'all' and (v_next = 'indexed' or (v_next = 'attributes' and v_sparse)) then
            v_source := v_next;
            v_size := v_missing;
        else
            v_size := least(v_size * 4, c_most);
            v_walk := greatest(v_walk, v_size);
        end if;
    end loop;
    if v_missing = list_runs."limit" then
        perform rowlock.refuse_unknown_names(
            v_apps, list_runs.app, list_runs.workflow, list_runs.queue, list_runs.version);
    end if;
end $$;
comment on function rowlock.list_runs(
    text, text, text, text, text, text, uuid, jsonb, timestamptz, timestamptz, uuid, integer) is
'A page of runs, newest first: those that fit all that is given. Fast at a million runs, and the more so
the more apps, workflows, queues and statuses are named. An empty page of an app, workflow, queue or
version that nobody knows is refused.

app: of this app; default: of all you may see.
status: with this present status; default: any.
workflow: of this workflow; default: any.
queue: in this queue, or run from it; default: any.
version: pinned to this code version, or ended on it; default: any.
key: with this key; default: any.
parent_id: children of this run; default: anybody''s.
attributes: whose attributes contain these, as a JSON object; default: any.
created_after: started at this time or later; default: whenever.
created_before: started before this time; default: whenever.
before: the page after the one whose last run_id this is; default: the first page.
limit: how many at most, 1 to 1,000; default: 50.';
