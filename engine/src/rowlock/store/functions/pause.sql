-- pause, unpause: a queue, a workflow or a whole app whose runs are not claimed for a while.
--
-- A pause is a row that claims read without a lock: whoever leaves his transaction open holds up nobody.
-- Runs that run go on until they next wait. What a queue or an app holds back stays `ready`: a claim
-- skips the queue, however deep it is. Workflows are not in the claim's index, and a deep backlog of one
-- at the head of a queue must not cost every claim a walk: so the claim that meets such runs sets them
-- aside (`blocked`, reason `paused`), each once, a bounded batch at a time, and goes on behind them.
-- When the pause is lifted, whoever tends makes them ready again, in batches, with the due_at they had.

-- check_pause: what is to be paused, refused when there is no such thing. Gives its app.
create or replace function rowlock.check_pause(p_queue text, p_workflow text, p_app text) returns text
language plpgsql stable
set search_path = pg_catalog
as $$
declare
    v_app text;
begin
    if num_nonnulls(p_queue, p_workflow, p_app) = 0 or num_nonnulls(p_queue, p_workflow) = 2 then
        raise exception 'what is meant is not clear: %',
                        case when p_queue is null then 'neither a queue nor a workflow nor an app is named'
                             else 'both a queue and a workflow are named' end
            using errcode = 'RLV02',
                  hint = 'queue => ''…'' or workflow => ''…'', in one of several apps with app => ''…''; app alone '
                         'means all of it. Nothing was changed.';
    end if;
    v_app := rowlock.resolve_app(p_app);
    if p_queue is not null then
        if not exists (select from rowlock.queue as q where q.app = v_app and q.name = p_queue) then
            perform rowlock.refuse_queue(v_app, p_queue);
        end if;
    elsif p_workflow is not null then
        if not exists (select from rowlock.workflow as w where w.app = v_app and w.name = p_workflow) then
            raise exception 'app % has no workflow %', v_app, rowlock.shown(p_workflow)
                using errcode = 'RLN05',
                      hint = 'A workflow is known once a worker or client of its code has shown it. '
                             'Nothing was changed.';
        end if;
    elsif not exists (select from rowlock.workflow as w where w.app = v_app)
          and not exists (select from rowlock.queue as q where q.app = v_app) then
        raise exception 'there is no app %', v_app
            using errcode = 'RLN07',
                  hint = 'An app is known once a worker or client of its code has shown it. '
                         'Nothing was changed.';
    end if;
    return v_app;
end $$;

-- check_reason: what people write why they did it.
create or replace function rowlock.check_reason(p_reason text) returns void
language plpgsql immutable set search_path = pg_catalog as $$
begin
    if length(p_reason) > 1000 then
        raise exception 'the reason has % characters, but may have 1000', length(p_reason)
            using errcode = 'RLV02', hint = 'Nothing was changed.';
    end if;
end $$;

create or replace function rowlock.refuse_queue(p_app text, p_queue text) returns void
language plpgsql stable set search_path = pg_catalog as $$
begin
    raise exception 'app % has no queue %', p_app, rowlock.shown(p_queue)
        using errcode = 'RLN01',
              hint = 'A queue is known once a worker or client of its code has shown it; rowlock.queues lists '
                     'them. Nothing was changed.';
end $$;

create or replace function rowlock.pause(
    queue text default null, workflow text default null, app text default null, reason text default null)
returns boolean
language plpgsql volatile
set search_path = pg_catalog
as $$
#variable_conflict use_column
declare
    v_app text := rowlock.check_pause(pause.queue, pause.workflow, pause.app);
begin
    perform rowlock.check_reason(pause.reason);
    insert into rowlock.pause as p (app, queue, workflow, paused_by, reason)
    values (v_app, pause.queue, pause.workflow, rowlock.invoker(), pause.reason)
    on conflict on constraint pause_key do update
       set paused_at = excluded.paused_at, paused_by = excluded.paused_by, reason = excluded.reason,
           lifted_at = null
     where p.lifted_at is not null;
    if not found then
        return false;
    end if;
    perform rowlock.note_audit('pause', v_app, null, rowlock.paused_thing(pause.queue, pause.workflow),
                               '{"paused": false}',
                               jsonb_build_object('paused', true, 'reason', pause.reason));
    return true;
end $$;
comment on function rowlock.pause(text, text, text, text) is
'Stops the claiming of runs of a queue, of a workflow, or with neither of all of an app. Runs that run go
on until they next wait. True when it was not paused before.

queue: which queue; default: none in particular.
workflow: which workflow, instead of a queue; default: none in particular.
app: which app; default: the one there is, if there is one. With neither queue nor workflow it must be
    named.
reason: why, for those who wonder; default: none.';

-- paused_thing: what is paused, as the audit calls it.
create or replace function rowlock.paused_thing(p_queue text, p_workflow text) returns text
language sql immutable
return coalesce('queue ' || p_queue, 'workflow ' || p_workflow, 'app');

create or replace function rowlock.unpause(
    queue text default null, workflow text default null, app text default null)
returns boolean
language plpgsql volatile
set search_path = pg_catalog
as $$
#variable_conflict use_column
declare
    v_app   text := rowlock.check_pause(unpause.queue, unpause.workflow, unpause.app);
    v_pause rowlock.pause;
begin
    if unpause.workflow is not null then
        -- The row stays until those that were set aside are back.
        update rowlock.pause as p
           set lifted_at = clock_timestamp()
         where p.app = v_app and p.workflow = unpause.workflow and p.queue is null and p.lifted_at is null
        returning p.* into v_pause;
    else
        delete from rowlock.pause as p
         where p.app = v_app and p.queue is not distinct from unpause.queue and p.workflow is null
        returning p.* into v_pause;
    end if;
    if v_pause.app is null then
        return false;
    end if;
    perform rowlock.note_audit('unpause', v_app, null, rowlock.paused_thing(unpause.queue, unpause.workflow),
                               jsonb_build_object('paused', true, 'paused_at', v_pause.paused_at,
                                                  'paused_by', v_pause.paused_by, 'reason', v_pause.reason),
                               '{"paused": false}');
    if unpause.workflow is not null then
        perform rowlock.notify_tender(v_app);
    else
        perform rowlock.notify_idle(v_app, q.name) from rowlock.queue as q
          where q.app = v_app and (unpause.queue is null or q.name = unpause.queue);
    end if;
    return true;
end $$;
comment on function rowlock.unpause(text, text, text) is
'Ends a pause that was made with the same arguments, and no other. True when there was one.

queue: which queue; default: none in particular.
workflow: which workflow, instead of a queue; default: none in particular.
app: which app; default: the one there is, if there is one. With neither queue nor workflow it must be
    named.';

-- set_aside: clear the head of a queue (or of one of its partitions) of runs whose workflow is paused. False: there are more of them
-- than one call may move; ask again. It holds the pause it acts for (KEY SHARE, which neither pause nor
-- unpause has to wait for): lift_pauses, which takes back what was set aside, skips it meanwhile.
create or replace function rowlock.set_aside(
    p_app text, p_queue text, p_partition text, p_fits text[], p_workflows text[], p_want integer)
returns boolean
language plpgsql volatile
set search_path = pg_catalog
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
set enable_mergejoin = off set jit = off set plan_cache_mode = force_generic_plan
as $$
declare
    most      constant integer := 2000;
    v_paused  text[];
    v_depth   integer := 500;
    v_head    uuid[];
    v_met     uuid[];
    v_moved   integer;
    v_left    integer := most;
begin
    v_paused := array(
        select p.workflow from rowlock.pause as p
         where p.app = p_app and p.workflow = any (p_workflows) and p.lifted_at is null
           for key share skip locked);
    if v_paused = '{}' then
        return true;
    end if;
    loop
        select coalesce(array_agg(c.run_id), '{}'),
               coalesce(array_agg(c.run_id) filter (where c.workflow = any (v_paused)), '{}')
          into v_head, v_met
          from unnest(p_fits) as f (version)
         cross join lateral (
               select r.run_id, r.workflow
                 from rowlock.task as r
                where r.app = p_app and r.queue = p_queue and r.version = f.version and r.state = 'ready'
                  and coalesce(r.partition, '') = p_partition
                order by r.app, r.queue, r.version, coalesce(r.partition, ''), r.priority, r.due_at, r.run_id
                limit v_depth) as c;
        if v_met = '{}' or cardinality(v_head) - cardinality(v_met) >= p_want then
            return true;
        end if;
        with held as (
            select t.run_id from rowlock.task as t
             where t.run_id = any (v_met) and t.state || '' = 'ready'  -- by its key, whatever the plan
             limit v_left
               for no key update skip locked)
        update rowlock.task as t
           set state = 'blocked', reason = jsonb_build_object('kind', 'paused', 'workflow', t.workflow)
         where t.run_id = any (array(select h.run_id from held as h));
        get diagnostics v_moved = row_count;
        v_left := v_left - v_moved;
        if v_left <= 0 then
            return false;
        end if;
        if v_moved = 0 then
            -- Others hold all of these. A stranger may do so for long: look behind them.
            if cardinality(v_head) < v_depth then
                return true;
            end if;
            v_depth := v_depth * 4;
        end if;
    end loop;
end $$;

-- lift_pauses: make ready again what was set aside for a workflow that is not paused any more. Who holds
-- the pause's row FOR UPDATE knows that no claim is just setting aside for it: so when a later look finds
-- none, none is left.
create or replace function rowlock.lift_pauses(p_limit integer) returns integer
language plpgsql volatile
set search_path = pg_catalog set enable_seqscan = off set jit = off set enable_bitmapscan = off
as $$
declare
    v_pause rowlock.pause;
    v_ready record;
    v_count integer := 0;
begin
    for v_pause in
        select p.* from rowlock.pause as p where p.lifted_at is not null for update skip locked
    loop
        for v_ready in
            with back as (
                update rowlock.task as t
                   set state = 'ready', reason = null
                 where t.run_id = any (array(
                         select b.run_id from rowlock.task as b
                          where b.state = 'blocked' and b.app = v_pause.app
                            and b.workflow = v_pause.workflow and rowlock.is_paused(b.reason)
                          order by b.app, b.workflow
                          limit p_limit
                            for no key update skip locked))
                returning t.queue)
            select queue, count(*) as n from back group by queue
        loop
            v_count := v_count + v_ready.n;
            perform rowlock.notify_idle(v_pause.app, v_ready.queue);
        end loop;
        perform 1 from rowlock.task as b
          where b.state = 'blocked' and b.app = v_pause.app
            and b.workflow = v_pause.workflow and rowlock.is_paused(b.reason)
          order by b.app, b.workflow
          limit 1;
        if not found then
            delete from rowlock.pause as p
             where p.app = v_pause.app and p.workflow = v_pause.workflow and p.lifted_at is not null;
        end if;
    end loop;
    return v_count;
end $$;

create or replace view rowlock.pauses as
select p.app, p.queue, p.workflow, p.paused_at, p.paused_by, p.reason
  from rowlock.pause as p
 where p.lifted_at is null;
comment on view rowlock.pauses is
    'What is paused: a queue, a workflow, or with neither all of an app. rowlock.unpause ends it.';
comment on column rowlock.pauses.app is 'The app.';
comment on column rowlock.pauses.queue is 'The queue that is paused; null: it is a workflow, or all of the app.';
comment on column rowlock.pauses.workflow is 'The workflow that is paused; null: it is a queue, or all of the app.';
comment on column rowlock.pauses.paused_at is 'Since when.';
comment on column rowlock.pauses.paused_by is 'The role that paused it.';
comment on column rowlock.pauses.reason is 'Why, as that role said.';
