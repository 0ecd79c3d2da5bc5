-- retention: ended runs leave by policy, a bounded batch at a time.
--
-- What is old stands at the lower end of the ids, which are in the order of creation; but among what
-- leaves stands what stays: without a policy, not old enough since it ran for long, or needed by another
-- run. So a walk remembers how far it has come, in which lane; a batch looks at a bounded number of runs,
-- whether they leave or stay, and the next one goes on behind them. At the end the walk begins anew.
--
-- A lane is one range of an index over ended runs: what no policy reaches is in none that is walked, and
-- what is too young is above the upper end.

-- at_least_a_minute: for so long a run is kept anyway: whoever waits for it with his code loaded, or as a
-- client, asks for its outcome or its events within seconds.
create or replace function rowlock.at_least_a_minute(p_keep interval) returns interval
language sql immutable set search_path = pg_catalog
return case when p_keep is not null then greatest(p_keep, interval '1 minute') end;

-- young_from: ids from this one on are of runs that were made less than p_keep ago. In a test that lets
-- time pass, ids are as young as they were.
create or replace function rowlock.young_from(p_keep interval) returns uuid
language sql stable set search_path = pg_catalog
return rowlock.id_at(
    statement_timestamp() - p_keep
    + coalesce(nullif(current_setting('rowlock.test_offset', true), ''), '0')::interval);

-- retention_lanes: the lanes to walk, and for how long their runs are kept. Found from above: at the lower
-- end of each stands what was removed and is not vacuumed yet.
create or replace function rowlock.retention_lanes(p_app text, p_archived boolean)
returns table (lane text[], keep interval)
language plpgsql stable
set search_path = pg_catalog set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off
set enable_incremental_sort = off set jit = off set plan_cache_mode = force_generic_plan
as $$
declare
    v_lane   record;
    v_policy rowlock.retention;
begin
    select o.app, o.workflow, o.queue, o.status into v_lane
      from rowlock.outcome as o
     where o.redone_at is null and o.status <> 'continued'
     order by o.app desc, o.workflow desc, o.queue desc, o.status desc
     limit 1;
    while v_lane.app is not null loop
        if p_app is null or v_lane.app = p_app then
            v_policy := rowlock.policy_for(v_lane.app, v_lane.workflow, v_lane.status);
            if v_policy.keep is not null and (p_archived or not v_policy.archive) then
                lane := array[v_lane.app, v_lane.workflow, v_lane.queue, v_lane.status];
                keep := rowlock.at_least_a_minute(v_policy.keep);
                return next;
            end if;
        end if;
        select o.app, o.workflow, o.queue, o.status into v_lane
          from rowlock.outcome as o
         where o.redone_at is null and o.status <> 'continued'
           and (o.app, o.workflow, o.queue, o.status)
               < (v_lane.app, v_lane.workflow, v_lane.queue, v_lane.status)
         order by o.app desc, o.workflow desc, o.queue desc, o.status desc
         limit 1;
    end loop;
end $$;

-- retention_look: the first runs of a lane between two ids. `nulls first`: see ended.sql.
create or replace function rowlock.retention_look(
    p_lane text[], p_after uuid, p_below uuid, p_limit integer)
returns uuid[]
language plpgsql stable
set search_path = pg_catalog set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off
set enable_incremental_sort = off set jit = off set plan_cache_mode = force_generic_plan
as $$
begin
    return array(
        select o.run_id from rowlock.outcome as o
         where o.redone_at is null and o.status <> 'continued'
           and o.app = p_lane[1] and o.workflow = p_lane[2] and o.queue = p_lane[3] and o.status = p_lane[4]
           and o.run_id > p_after and o.run_id < p_below
         order by o.run_id nulls first
         limit p_limit);
end $$;

-- old_enough: those of p_runs that may leave by their policy, if nothing else needs them.
create or replace function rowlock.old_enough(
    p_runs uuid[], p_app text, p_archived boolean, p_now timestamptz)
returns uuid[]
language sql stable
set search_path = pg_catalog
set enable_seqscan = off set jit = off set enable_hashjoin = off set enable_mergejoin = off
as $$
    select array(
        select i.id
          from unnest(p_runs) as i (id)
         cross join lateral (
               select y.* from rowlock.outcome as y
                where y.run_id = i.id order by y.run_id desc, y.generation desc limit 1) as o
         cross join lateral rowlock.policy_for(o.app, o.workflow, o.status) as p
         where p.keep is not null and (p_app is null or o.app = p_app) and (p_archived or not p.archive)
           and o.finished_at < p_now - rowlock.at_least_a_minute(p.keep)
         order by i.id)
$$;

-- choose_runs: the next batch of a walk that has come to p_lane and p_after (nulls: that begins), its
-- rows locked, and how far the walk is then. No runs: what was looked at stays. done: that was the end.
create or replace function rowlock.choose_runs(
    p_limit integer, p_app text, p_archived boolean, p_lane text[], p_after uuid)
returns table (runs uuid[], lane text[], after_id uuid, done boolean)
language plpgsql volatile
set search_path = pg_catalog
set enable_seqscan = off set jit = off set enable_hashjoin = off set enable_mergejoin = off
as $$
declare
    c_first constant uuid := '00000000-0000-0000-0000-000000000000';
    c_last  constant uuid := 'ffffffff-ffff-ffff-ffff-ffffffffffff';
    v_now   timestamptz := clock_timestamp();
    v_left  integer := 5 * p_limit;
    v_lane  record;
    v_below uuid;
    v_seen  uuid[];
    v_fit   uuid[];
begin
    if coalesce(p_limit, 0) not between 1 and 10000 then
        raise exception 'the limit is %, but must be 1 to 10000', coalesce(p_limit::text, 'null')
            using errcode = 'RLV02', hint = 'Nothing was changed.';
    end if;
    perform rowlock.require_read_committed();
    for v_lane in
        select l.lane, l.keep from rowlock.retention_lanes(p_app, p_archived) as l
         where p_lane is null or l.lane >= p_lane
         order by l.lane
    loop
        lane := v_lane.lane;
        after_id := case when v_lane.lane = p_lane then p_after else c_first end;
        v_below := rowlock.young_from(v_lane.keep);
        loop
            v_seen := rowlock.retention_look(lane, after_id, v_below, least(p_limit, v_left));
            exit when v_seen = '{}';
            v_left := v_left - cardinality(v_seen);
            after_id := case when cardinality(v_seen) < p_limit and v_left > 0 then c_last
                             else v_seen[cardinality(v_seen)] end;
            v_fit := rowlock.old_enough(v_seen, p_app, p_archived, v_now);
            v_fit := array(select i.id from unnest(v_fit) as i (id)
                           except select k.run_id from rowlock.kept_because(v_fit, false) as k
                           order by 1);
            runs := array(select r.id from rowlock.run as r
                           where r.id = any (v_fit) order by r.id for update skip locked);
            if runs <> '{}' then
                v_fit := rowlock.not_too_many(runs, 20 * p_limit);
                if cardinality(v_fit) < cardinality(runs) then
                    after_id := v_fit[cardinality(v_fit)];
                end if;
                -- Looked at again, under the lock.
                v_fit := rowlock.old_enough(v_fit, p_app, p_archived, v_now);
                runs := array(select i.id from unnest(v_fit) as i (id)
                              except select k.run_id from rowlock.kept_because(v_fit, true) as k
                              order by 1);
            end if;
            if runs <> '{}' or v_left <= 0 then
                done := false;
                return next;
                return;
            end if;
        end loop;
    end loop;
    runs := '{}';
    lane := null;
    after_id := null;
    done := true;
    return next;
end $$;

-- expire_keys: keys of runs that were removed, which may be used again.
create or replace function rowlock.expire_keys(p_limit integer) returns integer
language plpgsql volatile
set search_path = pg_catalog set enable_seqscan = off set jit = off set enable_bitmapscan = off
as $$
declare
    v_now   timestamptz := clock_timestamp();
    v_count integer;
begin
    delete from rowlock.run_key
     where ctid = any (array(
             select k.ctid from rowlock.run_key as k
              where k.expires_at <= v_now
              order by k.expires_at
              limit p_limit
                for update skip locked));
    get diagnostics v_count = row_count;
    return v_count;
end $$;

-- walk_on: one batch of a walk that remembers how far it has come. Nobody waits for a walk: while
-- somebody is at it, others have nothing to do.
create or replace function rowlock.walk_on(p_walker text, p_limit integer, p_app text)
returns table (removed integer, keys integer, done boolean)
language plpgsql volatile
set search_path = pg_catalog
as $$
declare
    v_began   timestamptz := clock_timestamp();
    v_walk    rowlock.retention_walk;
    v_batch   record;
    v_in_vain interval;
begin
    removed := 0;
    keys := 0;
    done := true;
    -- An insert would wait for another's that is not committed.
    if not exists (select from rowlock.retention_walk as w where w.walker = p_walker)
       and pg_try_advisory_xact_lock(hashtextextended('rowlock.retention_walk ' || p_walker, 0)) then
        insert into rowlock.retention_walk (walker) values (p_walker) on conflict do nothing;
    end if;
    select w.* into v_walk from rowlock.retention_walk as w
     where w.walker = p_walker for update skip locked;
    if found then
        select b.* into v_batch
          from rowlock.choose_runs(p_limit, p_app, false, v_walk.lane, v_walk.after_id) as b;
        if v_batch.runs <> '{}' then
            perform rowlock.remove_runs(v_batch.runs, true);
        end if;
        removed := cardinality(v_batch.runs);
        keys := rowlock.expire_keys(p_limit);
        done := v_batch.done and keys < p_limit;
        v_in_vain := v_walk.in_vain + case when removed = 0 then clock_timestamp() - v_began
                                           else interval '0' end;
        -- Passing by what stays shall take a fifth of the time at most.
        update rowlock.retention_walk as w
           set lane = v_batch.lane, after_id = v_batch.after_id,
               in_vain = case when done then interval '0' else v_in_vain end,
               next_at = v_began + case when done then least(
                             greatest(4 * v_in_vain, interval '1 minute'), interval '1 hour')
                             else interval '0' end
         where w.walker = p_walker;
    end if;
    return next;
end $$;

create or replace function rowlock.retain(at_most integer default 1000, app text default null)
returns table (removed integer, keys integer, done boolean)
language sql volatile
set search_path = pg_catalog
as $$
    select * from rowlock.walk_on(coalesce('app ' || retain.app, 'all'), retain.at_most, retain.app)
$$;
comment on function rowlock.retain(integer, text) is
'Removes a batch of ended runs that were kept long enough, and keys whose time is over; not those that are to
be archived first. The next call goes on behind it. Workers do this by themselves.

at_most: how many runs; default: 1000.
app: of which app; default: of all.
removed: how many runs it removed.
keys: how many keys may be used again.
done: that was the end of the walk, and the next call begins anew.';

-- house_due: seconds until a worker should call keep_house; null: nobody has asked for anything.
create or replace function rowlock.house_due() returns double precision
language sql stable
set search_path = pg_catalog set enable_seqscan = off set jit = off
as $$
    select case when (select true from rowlock.retention as p where p.keep is not null and not p.archive limit 1)
                  or (select true from rowlock.run_key as k where k.expires_at <= statement_timestamp() limit 1)
           then greatest(0, extract(epoch from (
                    select w.next_at from rowlock.retention_walk as w where w.walker = 'workers')
                    - clock_timestamp()))::double precision end
$$;

-- keep_house: a batch of the walk that all workers share, if it is due; and when to come again.
create or replace function rowlock.keep_house(p_limit integer)
returns table (removed integer, keys integer, next_in double precision)
language plpgsql volatile
set search_path = pg_catalog
as $$
declare
    v_done boolean;
begin
    removed := 0;
    keys := 0;
    next_in := rowlock.house_due();
    if next_in <= 0 then
        select w.removed, w.keys, w.done into removed, keys, v_done
          from rowlock.walk_on('workers', p_limit, null) as w;
        next_in := rowlock.house_due();
        if v_done and next_in <= 0 then
            next_in := 60;  -- another is at it, and will see to the rest
        end if;
    end if;
    return next;
end $$;

-- retain_plan: what would go now. Looks at no more than the first 10,000 old runs of each lane.
create or replace function rowlock.retain_plan(
    inout app text default null, out workflow text, out outcome text, out keep interval,
    out archive boolean, out runs bigint, out oldest timestamptz, out held_back jsonb,
    out at_least boolean)
returns setof record
language sql stable
set search_path = pg_catalog
set enable_seqscan = off set jit = off set enable_hashjoin = off set enable_mergejoin = off
as $$
    with seen as materialized (
        select rowlock.retention_look(
                   l.lane, '00000000-0000-0000-0000-000000000000', rowlock.young_from(l.keep), 10000) as ids
          from rowlock.retention_lanes(retain_plan.app, true) as l
    ), old as materialized (
        select rowlock.old_enough(s.ids, retain_plan.app, true, statement_timestamp()) as ids,
               cardinality(s.ids) = 10000 as at_least
          from seen as s
    ), judged as materialized (
        select o.ids, o.at_least,
               (select jsonb_object_agg(k.run_id, k.reason) from rowlock.kept_because(o.ids, true) as k) as why
          from old as o
    ), counted as (
        select e.app, e.workflow, e.status, j.why ->> i.id::text as reason, count(*) as runs,
               min(e.finished_at) as oldest, bool_or(j.at_least) as at_least
          from judged as j
         cross join lateral unnest(j.ids) as i (id)
         cross join lateral (
               select o.* from rowlock.outcome as o
                where o.run_id = i.id order by o.run_id desc, o.generation desc limit 1) as e
         group by 1, 2, 3, 4
    )
    select c.app, c.workflow, c.status, p.keep, p.archive,
           coalesce(sum(c.runs) filter (where c.reason is null), 0)::bigint,
           min(c.oldest) filter (where c.reason is null),
           jsonb_object_agg(c.reason, c.runs) filter (where c.reason is not null),
           bool_or(c.at_least)
      from counted as c
     cross join lateral rowlock.policy_for(c.app, c.workflow, c.status) as p
     where rowlock.allowed(c.app)
     group by c.app, c.workflow, c.status, p.keep, p.archive
     order by c.app, c.workflow, c.status
$$;
comment on function rowlock.retain_plan(text) is
'What retention would remove now, by kind of run, and what stays although it is old.

app: of which app; default: of all.
workflow: of which workflow they are.
outcome: how they ended.
keep: how long their policy keeps them.
archive: only whoever archives them removes them.
runs: how many would go.
oldest: the end of the oldest.
held_back: how many stay although they are old, by reason.
at_least: it has not looked at all of them, so there may be more.';
