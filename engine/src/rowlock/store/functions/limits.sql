-- limits: how many runs a claim may take from a limited queue, and which.
--
-- A limit is a count of rows under a lock that nobody waits for. Only a claim turns a task `running`, and a
-- claim that counts holds the queue's gate alone (FOR UPDATE SKIP LOCKED): everything that is counted here
-- was committed before, or is this claim's own. Whatever lets go of a run meanwhile makes the count too high,
-- never too low. The settings are read without a lock, in a later statement than the gate's: who changes them
-- (set_limit.sql) stops nobody, however long his transaction stays open. The functions are VOLATILE, so each
-- statement looks anew.
--
-- Counted are marked rows (task.limited), for which there is an index that others pay nothing for. When a
-- queue becomes limited, its next claim marks what runs already; what it can't lock it counts one by one.
--
-- While a transaction elsewhere pins xmin, that index keeps whatever has ended, and a count would walk past all
-- of it. So a queue's runs are counted from a bound on, queue_gate.oldest_claim: none that is counted has a
-- smaller claimed_at, nor will one have. No clock has to be trusted for that:
--   Who holds the gate alone moves the bound (move_oldest), in a later statement than the lock's, to the first
--   claimed_at that he sees running; to any time, such as now, if he sees none.
--   A claim that has the gate sees the bound, and claims at that time or later, wherever the clock stands.
--   Who hands places over has no gate, and may not be seen. But he claims no earlier than the runs were claimed
--   whose places they are (hand_over.sql), and for everybody else those run until both change in one commit:
--   whoever moved the bound meanwhile saw them, or those whose places they had themselves. If he moves it himself,
--   when they have left already, he sees it before he claims.
--   What runs since before the queue was limited may have been claimed at any time: when all of it is marked,
--   the bound is forgotten. Until then all that runs is counted.
--
-- The plans that would turn bad are disabled by claim_next and hand_over, whose settings hold for what they call:
-- they would cost each of these calls as well.

-- running: how many runs of a queue, or of one of its partitions, hold a claim; more than p_most need not be
-- exact. p_all: not all of them are marked. p_oldest: queue_gate.oldest_claim.
create or replace function rowlock.running(
    p_app text, p_queue text, p_partition text, p_most integer, p_all boolean, p_oldest timestamptz default null)
returns integer
language plpgsql volatile
set search_path = pg_catalog
as $$
begin
    if p_all then
        return (select count(*) from rowlock.task as t
                 where t.state = 'running' and t.worker_id is not null and t.app || '' = p_app
                   and t.queue || '' = p_queue and (p_partition is null or coalesce(t.partition, '') = p_partition));
    elsif p_partition is null then
        return (select count(*)
                  from ((select from rowlock.task as t
                          where t.app = p_app and t.queue = p_queue and coalesce(t.partition, '') = ''
                            and t.claimed_at >= coalesce(p_oldest, '-infinity') and t.state = 'running' and t.limited
                          limit p_most)
                        union all
                        (select from rowlock.task as t
                          where t.app = p_app and t.queue = p_queue and t.partition > ''
                            and t.claimed_at >= coalesce(p_oldest, '-infinity') and t.state = 'running' and t.limited
                          limit p_most)) as x);
    end if;
    return (select count(*)
              from (select from rowlock.task as t
                     where t.app = p_app and t.queue = p_queue and coalesce(t.partition, '') = p_partition
                       and t.claimed_at >= coalesce(p_oldest, '-infinity') and t.state = 'running' and t.limited
                     limit p_most) as x);
end $$;

-- counted_entries: how many entries of indexes this transaction has walked past, in tables of what runs.
create or replace function rowlock.counted_entries() returns bigint
language plpgsql volatile
set search_path = pg_catalog
as $$
begin
    return pg_stat_get_xact_tuples_returned('rowlock.task_limited'::regclass)
           + pg_stat_get_xact_tuples_returned('rowlock.task_limited_parted'::regclass)
           + pg_stat_get_xact_tuples_returned('rowlock.task_running'::regclass);
end $$;

-- walked_far: whether counts since then passed by much that does not run any more.
create or replace function rowlock.walked_far(p_entries bigint, p_counted integer) returns boolean
language sql volatile
return rowlock.counted_entries() - p_entries > 1000 + p_counted;

-- move_oldest: let counts of a queue begin later (see above), if they can and nobody else is at the gate.
-- p_seen: where they began.
create or replace function rowlock.move_oldest(p_app text, p_queue text, p_seen timestamptz) returns void
language plpgsql volatile
set search_path = pg_catalog
as $$
declare
    v_from timestamptz;
begin
    -- The gate would be taken for nothing where the oldest still runs; and ten times a second is enough where
    -- a walk is long for other reasons.
    if p_seen between clock_timestamp() - interval '0.1 s' and clock_timestamp() then
        return;
    end if;
    perform 1 from ((select from rowlock.task as t
                      where t.app = p_app and t.queue = p_queue and coalesce(t.partition, '') = ''
                        and t.claimed_at = p_seen and t.state = 'running' and t.limited limit 1)
                    union all
                    (select from rowlock.task as t
                      where t.app = p_app and t.queue = p_queue and t.partition > ''
                        and t.claimed_at = p_seen and t.state = 'running' and t.limited limit 1)) as x;
    if found then
        return;
    end if;
    -- Again, under the lock: it may have been forgotten meanwhile.
    select g.oldest_claim into v_from from rowlock.queue_gate as g
     where g.app = p_app and g.name = p_queue for update skip locked;
    if not found then
        return;
    end if;
    update rowlock.queue_gate as g
       set oldest_claim = greatest(v_from, coalesce(least(
               (select t.claimed_at from rowlock.task as t
                 where t.app = p_app and t.queue = p_queue and coalesce(t.partition, '') = ''
                   and t.claimed_at >= coalesce(v_from, '-infinity') and t.state = 'running' and t.limited
                 order by t.app, t.queue, coalesce(t.partition, ''), t.claimed_at limit 1),
               (select t.claimed_at from rowlock.task as t
                 where t.app = p_app and t.queue = p_queue and t.partition > ''
                   and t.claimed_at >= coalesce(v_from, '-infinity') and t.state = 'running' and t.limited
                 order by t.app, t.queue, t.claimed_at limit 1)), clock_timestamp()))
     where g.app = p_app and g.name = p_queue;
end $$;

-- mark_running: mark what runs since before the queue became limited. True: some could not be locked. Its
-- caller holds the gate alone, so nothing more comes that is not marked.
create or replace function rowlock.mark_running(p_app text, p_queue text, p_revision bigint) returns boolean
language plpgsql volatile
set search_path = pg_catalog
as $$
begin
    update rowlock.task as t set limited = true
     where t.run_id = any (array(
             select r.run_id from rowlock.task as r
              where r.state = 'running' and r.worker_id is not null and r.app || '' = p_app
                and r.queue || '' = p_queue and not r.limited
                for no key update skip locked));
    perform 1 from rowlock.task as r
      where r.state = 'running' and r.worker_id is not null and r.app || '' = p_app
        and r.queue || '' = p_queue and not r.limited
      limit 1;
    if found then
        return true;
    end if;
    update rowlock.queue_gate as g set marked = p_revision, oldest_claim = null where g.app = p_app and g.name = p_queue;
    return false;
end $$;

-- is_begun: whether a run that has begun waits in a queue, or in one of its partitions.
create or replace function rowlock.is_begun(p_app text, p_queue text, p_partition text, p_fits text[])
returns boolean
language plpgsql volatile
set search_path = pg_catalog
as $$
begin
    if p_partition is null then
        perform 1 from unnest(p_fits) as f (version)
          cross join lateral (
                select from rowlock.task as t
                 where t.app = p_app and t.queue = p_queue and t.version = f.version
                   and t.state = 'ready' and t.limited and t.started_at is not null limit 1) as x;
    else
        perform 1 from unnest(p_fits) as f (version)
          cross join lateral (
                select from rowlock.task as t
                 where t.app = p_app and t.queue = p_queue and t.version = f.version
                   and coalesce(t.partition, '') = p_partition
                   and t.state = 'ready' and t.limited and t.started_at is not null limit 1) as x;
    end if;
    return found;
end $$;

-- room: how many runs may be claimed from a queue by this worker, and how many of them for the first time.
-- again_in: when the rate gives the next, if nothing else is in the way. counted: how many that run were counted.
create or replace function rowlock.room(
    p_set rowlock.queue, p_fits text[], p_worker bigint, p_want integer, p_at timestamptz, p_all boolean,
    p_oldest timestamptz, out room integer, out fresh integer, out again_in double precision, out counted integer)
language plpgsql volatile
set search_path = pg_catalog
as $$
declare
    v_mine integer;
begin
    room := p_want;
    counted := 0;
    if p_set.concurrency is not null then
        counted := rowlock.running(p_set.app, p_set.name, null, p_set.concurrency, p_all, p_oldest);
        room := least(room, p_set.concurrency - counted);
    end if;
    if p_set.worker_concurrency is not null and room > 0 then
        v_mine := (select count(*) from rowlock.task as t
                    where t.worker_id = p_worker and t.claimed_at >= coalesce(p_oldest, '-infinity')
                      and t.state = 'running' and t.queue || '' = p_set.name);
        room := least(room, p_set.worker_concurrency - v_mine);
        counted := counted + v_mine;
    end if;
    fresh := room;
    if p_set.rate is not null and room > 0 then
        select least(room, r.fresh), r.free_in into fresh, again_in
          from rowlock.rate_room(p_set.app, p_set.name, '', p_set.rate, p_set.rate_period, p_set.rate_smooth,
                                 p_set.rate_burst, p_at) as r;
        if fresh = 0 and not rowlock.is_begun(p_set.app, p_set.name, null, p_fits) then
            room := 0;
        end if;
    end if;
end $$;

-- room: the same as a guess, without the gate: who finds none takes it from nobody. Who has walked far for it
-- lets the next count begin later. p_bounds: see open_partitions.
create or replace function rowlock.room(
    p_app text, p_queue text, p_fits text[], p_worker bigint, p_want integer, p_bounds jsonb,
    out room integer, out again_in double precision)
language plpgsql volatile
set search_path = pg_catalog
as $$
declare
    v_at      timestamptz := clock_timestamp();
    v_entries bigint := rowlock.counted_entries();
    v_set     rowlock.queue;
    v_gate    rowlock.queue_gate;
    v_room    record;
    v_open    record;
begin
    select q.* into v_set from rowlock.queue as q where q.app = p_app and q.name = p_queue;
    select g.* into v_gate from rowlock.queue_gate as g where g.app = p_app and g.name = p_queue;
    v_room := rowlock.room(v_set, p_fits, p_worker, p_want, v_at, false, v_gate.oldest_claim);
    room := v_room.room;
    again_in := v_room.again_in;
    if room > 0 and num_nonnulls(v_set.partition_concurrency, v_set.partition_rate) > 0 then
        v_open := rowlock.open_partitions(
            v_set, p_fits, p_bounds, v_gate.cursor, 1, v_at, v_room.fresh = 0, false, v_gate.oldest_claim);
        -- Where one look does not reach all of them, somebody has to move the cursor.
        if v_open.names = '{}' and not v_open.goes_on then
            room := 0;
            again_in := least(again_in, v_open.again_in);
        end if;
    end if;
    if rowlock.walked_far(v_entries, v_room.counted) then
        perform rowlock.move_oldest(p_app, p_queue, v_gate.oldest_claim);
    end if;
end $$;

-- open_partitions: partitions with work and room, at most as many as are wanted, from behind p_from on and
-- once around; those in none are one more. Each costs a probe or two, however deep it is. goes_on: there are
-- more than one look may visit. p_bounds: of partitions, if they are known (behind.sql). idle: those of them which
-- were visited and have no work.
create or replace function rowlock.open_partitions(
    p_set rowlock.queue, p_fits text[], p_bounds jsonb, p_from text, p_want integer, p_at timestamptz,
    p_begun boolean, p_all boolean, p_oldest timestamptz, out names text[], out rooms integer[], out freshes integer[], out last text,
    out goes_on boolean, out again_in double precision, out idle text[])
language plpgsql volatile
set search_path = pg_catalog
as $$
declare
    most_hops constant integer := 500;
    v_known   text[];
    v_nth     integer;
    v_next    text;
    v_round   boolean := false;
    v_room    integer;
    v_fresh   integer;
    v_free_in double precision;
begin
    names := '{}'; rooms := '{}'; freshes := '{}'; idle := '{}'; last := p_from; goes_on := true;
    if p_bounds is not null then
        v_known := array(select x.name from jsonb_object_keys(p_bounds) as x (name) order by x.name);
        v_nth := (select count(*) from unnest(v_known) as x (name) where x.name <= p_from);
    end if;
    for v_hop in 1 .. most_hops loop
        if p_bounds is not null then
            v_nth := v_nth + 1;
            v_next := v_known[v_nth];
        elsif p_begun then
            v_next := (select min(x.name) from unnest(p_fits) as f (version)
                        cross join lateral (
                              select coalesce(t.partition, '') as name from rowlock.task as t
                               where t.app = p_set.app and t.queue = p_set.name and t.version = f.version
                                 and coalesce(t.partition, '') > last
                                 and t.state = 'ready' and t.limited and t.started_at is not null
                               order by t.app, t.queue, t.version, coalesce(t.partition, '') limit 1) as x);
        else
            v_next := (select min(x.name) from unnest(p_fits) as f (version)
                        cross join lateral (
                              select coalesce(t.partition, '') as name from rowlock.task as t
                               where t.app = p_set.app and t.queue = p_set.name and t.version = f.version
                                 and coalesce(t.partition, '') > last and t.state = 'ready'
                               order by t.app, t.queue, t.version, coalesce(t.partition, '') limit 1) as x);
        end if;
        if v_next is null or (v_round and v_next > p_from) then
            goes_on := not v_round;
            exit when v_round;
            v_round := true;
            v_next := '';
            v_nth := (v_known[1] = '')::integer;
        end if;
        last := v_next;
        v_room := p_want;
        if p_bounds is not null and not rowlock.is_behind(p_set.app, p_set.name, last, p_fits, p_bounds -> last) then
            v_room := 0;
            if p_bounds ? last then
                idle := idle || last;
            end if;
        end if;
        if p_set.partition_concurrency is not null and v_room > 0 then
            v_room := least(v_room, p_set.partition_concurrency - rowlock.running(
                p_set.app, p_set.name, last, p_set.partition_concurrency, p_all, p_oldest));
        end if;
        v_fresh := v_room;
        if p_set.partition_rate is not null and v_room > 0 then
            select least(v_room, r.fresh), r.free_in into v_fresh, v_free_in
              from rowlock.rate_room(p_set.app, p_set.name, ':' || last, p_set.partition_rate,
                                     p_set.partition_rate_period, p_set.partition_rate_smooth,
                                     p_set.partition_rate_burst, p_at) as r;
            if v_fresh = 0 and not rowlock.is_begun(p_set.app, p_set.name, last, p_fits) then
                v_room := 0;
                again_in := least(again_in, v_free_in);
            end if;
        end if;
        if v_room > 0 and p_bounds is not null then
            if p_begun and not rowlock.is_begun(p_set.app, p_set.name, last, p_fits) then
                v_room := 0;
            end if;
        elsif v_room > 0 and last = '' then
            -- Reached without a look whether there are any.
            perform 1 from unnest(p_fits) as f (version)
              cross join lateral (
                    select from rowlock.task as t
                     where t.app = p_set.app and t.queue = p_set.name and t.version = f.version
                       and coalesce(t.partition, '') = '' and t.state = 'ready' limit 1) as x;
            if not found then
                v_room := 0;
            end if;
        end if;
        if v_room > 0 then
            names := names || last; rooms := rooms || v_room; freshes := freshes || v_fresh;
        end if;
        if v_round and last >= p_from then
            goes_on := false;
            exit;
        end if;
        exit when cardinality(names) >= p_want;
    end loop;
end $$;

-- pick: lock the first runs of a partition, of each version that fits, in order of priority and time; with
-- ageing, a run of priority 10 is behind one of priority 0 as if it were ten times as much younger. At most
-- p_fresh from all that are ready, which may be first claims; the rest from those that have begun. p_bounds:
-- those from behind the partition's bounds, where nothing is paused (behind.sql), which become next_bounds.
create or replace function rowlock.pick(
    p_app text, p_queue text, p_partition text, p_fits text[], p_paused text[], p_ageing interval,
    p_want integer, p_fresh integer, p_but uuid[], p_bounds jsonb, p_at timestamptz,
    out ids uuid[], out fresh integer, out next_bounds jsonb)
language plpgsql volatile
set search_path = pg_catalog
as $$
begin
    ids := '{}';
    fresh := 0;
    if p_bounds is not null then
        select b.ids, b.fresh, b.next_bounds into ids, fresh, next_bounds
          from rowlock.pick_behind(
                   p_app, p_queue, p_partition, p_fits, p_ageing, p_fresh, p_but, p_bounds, p_at) as b;
    elsif p_fresh > 0 and p_ageing is null then
        with chosen as (
            select c.run_id, c.started_at
              from unnest(p_fits) as f (version)
             cross join lateral (
                   select r.run_id, r.priority, r.due_at, r.started_at
                     from rowlock.task as r
                    where r.app = p_app and r.queue = p_queue and r.version = f.version
                      and coalesce(r.partition, '') = p_partition
                      and r.state = 'ready' and not r.workflow = any (p_paused) and not r.run_id = any (p_but)
                    order by r.app, r.queue, r.version, coalesce(r.partition, ''), r.priority, r.due_at, r.run_id
                    limit p_fresh
                      for no key update skip locked) as c
             order by c.priority, c.due_at, c.run_id
             limit p_fresh)
        select coalesce(array_agg(c.run_id), '{}'), count(*) filter (where c.started_at is null)
          into ids, fresh
          from chosen as c;
    elsif p_fresh > 0 then
        -- The heads of each priority that is there: at most 101.
        with chosen as (
            select c.run_id, c.started_at
              from unnest(p_fits) as f (version)
             cross join lateral (
                   with recursive walk as (
                       (select t.priority from rowlock.task as t
                         where t.app = p_app and t.queue = p_queue and t.version = f.version
                           and coalesce(t.partition, '') = p_partition and t.state = 'ready'
                         order by t.app, t.queue, t.version, coalesce(t.partition, ''), t.priority limit 1)
                       union all
                       select (select t.priority from rowlock.task as t
                                where t.app = p_app and t.queue = p_queue and t.version = f.version
                                  and coalesce(t.partition, '') = p_partition and t.state = 'ready'
                                  and t.priority > walk.priority
                                order by t.app, t.queue, t.version, coalesce(t.partition, ''), t.priority limit 1)
                         from walk where walk.priority is not null)
                   select walk.priority from walk where walk.priority is not null) as p
             cross join lateral (
                   select r.run_id, r.due_at, r.started_at
                     from rowlock.task as r
                    where r.app = p_app and r.queue = p_queue and r.version = f.version
                      and coalesce(r.partition, '') = p_partition and r.priority = p.priority
                      and r.state = 'ready' and not r.workflow = any (p_paused) and not r.run_id = any (p_but)
                    order by r.app, r.queue, r.version, coalesce(r.partition, ''), r.priority, r.due_at, r.run_id
                    limit p_fresh
                      for no key update skip locked) as c
             order by c.due_at + p.priority * p_ageing, c.run_id
             limit p_fresh)
        select coalesce(array_agg(c.run_id), '{}'), count(*) filter (where c.started_at is null)
          into ids, fresh
          from chosen as c;
    end if;
    if p_want > p_fresh and cardinality(ids) = p_fresh then
        ids := ids || array(
            select c.run_id
              from unnest(p_fits) as f (version)
             cross join lateral (
                   select r.run_id, r.priority, r.due_at
                     from rowlock.task as r
                    where r.app = p_app and r.queue = p_queue and r.version = f.version
                      and coalesce(r.partition, '') = p_partition
                      and r.state = 'ready' and r.limited and r.started_at is not null
                      and not r.workflow = any (p_paused) and not r.run_id = any (p_but || ids)
                    order by r.app, r.queue, r.version, coalesce(r.partition, ''), r.priority, r.due_at, r.run_id
                    limit p_want - p_fresh
                      for no key update skip locked) as c
             order by c.priority, c.due_at, c.run_id
             limit p_want - p_fresh);
    end if;
end $$;

-- pick_limited: what a claim that holds the gate alone takes. at: the time of those claimed for the first time.
-- cursor: which partition had its turn last. p_bounds: from behind these, if they are known (behind.sql), which
-- become next_bounds. p_looked: when that was looked at.
create or replace function rowlock.pick_limited(
    p_app text, p_queue text, p_parted boolean, p_gate rowlock.queue_gate, p_fits text[], p_worker bigint,
    p_paused text[], p_want integer, p_bounds jsonb, p_looked timestamptz,
    out ids uuid[], out at timestamptz, out again_in double precision, out cursor text, out next_bounds jsonb)
language plpgsql volatile
set search_path = pg_catalog
as $$
declare
    v_set    rowlock.queue;
    v_all    boolean := false;
    v_room   record;
    v_open   record;
    v_each   integer;
    v_more   integer[];
    v_n      integer;
    v_pick   record;
    v_left   integer;
    v_fresh  integer;
    v_used   integer[];
    v_rated  boolean;
    v_news   jsonb := '{}';  -- the bounds that changed: put to the others at the end, which takes its time
begin
    ids := '{}';
    cursor := p_gate.cursor;
    next_bounds := p_bounds;
    select q.* into v_set from rowlock.queue as q where q.app = p_app and q.name = p_queue;
    if p_gate.marked < v_set.revision then
        v_all := rowlock.mark_running(p_app, p_queue, v_set.revision);
        p_gate.oldest_claim := null;
    end if;
    v_rated := num_nonnulls(v_set.rate, v_set.partition_rate) > 0;
    at := clock_timestamp();
    if v_rated then
        at := greatest(at, (select u.at from rowlock.rate_use as u
                             where u.app = p_app and u.queue = p_queue and u.share = ''
                             order by u.app desc, u.queue desc, u.share desc, u.at desc limit 1));
    end if;
    v_room := rowlock.room(v_set, p_fits, p_worker, p_want, at, v_all, p_gate.oldest_claim);
    again_in := v_room.again_in;
    if v_room.room <= 0 then
        return;
    end if;
    v_left := v_room.room;
    v_fresh := v_room.fresh;
    if not p_parted and num_nonnulls(v_set.partition_concurrency, v_set.partition_rate) = 0 then
        v_pick := rowlock.pick(p_app, p_queue, '', p_fits, p_paused, v_set.ageing, v_left, v_fresh, '{}',
                               p_bounds -> '', p_looked);
        ids := v_pick.ids;
        next_bounds := p_bounds || jsonb_build_object('', v_pick.next_bounds);
        if v_rated and v_pick.fresh > 0 then
            perform rowlock.use_rate(p_app, p_queue, '', v_set.rate, v_set.rate_period, at, v_pick.fresh);
        end if;
        return;
    end if;
    v_open := rowlock.open_partitions(
        v_set, p_fits, p_bounds, p_gate.cursor, v_left, at, v_fresh = 0, v_all, p_gate.oldest_claim);
    again_in := least(again_in, v_open.again_in);
    cursor := v_open.last;
    if v_open.idle <> '{}' then
        v_news := (select jsonb_object_agg(x.name, rowlock.bounds_until(p_bounds -> x.name, p_looked))
                     from unnest(v_open.idle) as x (name));
    end if;
    v_more := array(select n from generate_subscripts(v_open.names, 1) as n);
    v_used := array_fill(0, array[cardinality(v_more)]);
    -- To each the same; what some could not use goes round again, so a tenant who is alone gets it all.
    while v_left > 0 and v_more <> '{}' loop
        v_each := greatest(1, v_left / cardinality(v_more));
        foreach v_n in array v_more loop
            exit when v_left <= 0;
            if p_paused <> '{}' and not rowlock.set_aside(
                   p_app, p_queue, v_open.names[v_n], p_fits, p_paused, v_each) then
                again_in := 0;
                v_more := array_remove(v_more, v_n);
                continue;
            end if;
            v_pick := rowlock.pick(p_app, p_queue, v_open.names[v_n], p_fits, p_paused, v_set.ageing,
                                   least(v_each, v_left, v_open.rooms[v_n]),
                                   least(v_each, v_left, v_open.rooms[v_n], v_open.freshes[v_n], v_fresh), ids,
                                   coalesce(v_news -> v_open.names[v_n], p_bounds -> v_open.names[v_n]), p_looked);
            if v_pick.next_bounds is not null then
                v_news := v_news || jsonb_build_object(v_open.names[v_n], v_pick.next_bounds);
            end if;
            if v_pick.ids <> '{}' then
                cursor := v_open.names[v_n];
                ids := ids || v_pick.ids;
                v_left := v_left - cardinality(v_pick.ids);
                v_open.rooms[v_n] := v_open.rooms[v_n] - cardinality(v_pick.ids);
                if v_rated then
                    v_fresh := v_fresh - v_pick.fresh;
                    v_open.freshes[v_n] := v_open.freshes[v_n] - v_pick.fresh;
                    v_used[v_n] := v_used[v_n] + v_pick.fresh;
                end if;
            end if;
            if v_pick.ids = '{}' or v_open.rooms[v_n] <= 0 then
                v_more := array_remove(v_more, v_n);
            end if;
        end loop;
    end loop;
    next_bounds := p_bounds || v_news;
    if v_rated and v_room.fresh > v_fresh then
        -- Also where only partitions have one: what is noted first for a queue is its last time.
        perform rowlock.use_rate(p_app, p_queue, '', v_set.rate,
                                 coalesce(v_set.rate_period, v_set.partition_rate_period), at,
                                 v_room.fresh - v_fresh);
        if v_set.partition_rate is not null then
            perform rowlock.use_rate(p_app, p_queue, ':' || v_open.names[u.nth], v_set.partition_rate,
                                     v_set.partition_rate_period, at, u.n)
               from unnest(v_used) with ordinality as u (n, nth)
              where u.n > 0;
        end if;
    end if;
end $$;
