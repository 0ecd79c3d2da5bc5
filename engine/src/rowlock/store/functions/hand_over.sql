-- hand_over: who lets go of a limited queue's runs claims as many others in the same transaction.
--
-- Under pressure a claim by itself costs a commit, a round trip and the queue's gate, for one run or a few;
-- and meanwhile the limit is not used up. Here the places of runs that end go to runs that wait, with the
-- commit that ends them, and without the gate: at no instant does anybody see more runs running than before.
-- Who holds the gate and counts sees either those that ended or those that came for them. So nothing depends
-- on what is read here: where a limit was lowered meanwhile, the number of runs stays at most what it was;
-- and a later statement sees the lower limit, and hands over nothing until there is room.
--
-- That the places are the caller's to give is certain: journal (journal.sql) holds the worker's row FOR KEY
-- SHARE and their tasks FOR UPDATE, and has ended their claims. His own claims may come meanwhile: that makes
-- more that run, not fewer places. Whom he claims he claims no earlier than those whose places they take, whatever
-- the clock says: so no count begins behind them (limits.sql).
--
-- Places go on this way neither where there are rates and partitions, which the gate guards too; nor before all
-- that runs is marked, so that it is counted (limits.sql); nor where work waits that other code must take: it
-- might never get a place.

-- others_wait: whether there is ready work in a queue that only code of another version may take.
create or replace function rowlock.others_wait(p_app text, p_queue text, p_fits text[]) returns boolean
language plpgsql volatile
set search_path = pg_catalog
as $$
begin
    perform 1 from (select v.name from rowlock.version as v where v.app = p_app union all select '') as v
      cross join lateral (
            select from rowlock.task as t
             where t.app = p_app and t.queue = p_queue and t.version = v.name and t.state = 'ready' limit 1) as x
      where not v.name = any (p_fits);
    return found;
end $$;

-- hand_over: see above. p_runs: what journal held; of which queue (null: it leaves no place), and when it was
-- claimed. p_asleep: some of these may run still. p_memory: by queue what its next look is to be told
-- (behind.sql). Answers are those of journal: each run that was taken, `claimed`, and the next `memory`.
create or replace function rowlock.hand_over(
    p_worker bigint, p_app text, p_version text, p_memory jsonb, p_runs uuid[], p_queues text[],
    p_claimed_at timestamptz[], p_asleep boolean)
returns table (i integer, verdict text, detail jsonb)
language plpgsql volatile
set search_path = pg_catalog
set enable_seqscan = off set enable_bitmapscan = off set enable_indexscan = on set enable_indexonlyscan = on
set enable_hashjoin = off set enable_mergejoin = off set jit = off set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
    a_walk    constant integer := 2000;  -- as in claim_next
    a_version constant integer := 300;
    a_read    constant integer := 50;
    v_fits    text[] := rowlock.fitting(p_app, p_version);
    v_place   record;
    v_began   timestamptz;
    v_walked  bigint;
    v_read    bigint;
    v_parted  boolean;
    v_room    integer;
    v_oldest  timestamptz;
    v_ids     uuid[];
    v_known   jsonb;
    v_queues  jsonb;
    v_bounded boolean;
    v_bounds  jsonb;
    v_memory  jsonb := '{}';
begin
    if p_memory is not null then
        -- Of queues that had no places for a while nothing is known any more.
        v_memory := coalesce((
            select jsonb_object_agg(m.key, m.value) from jsonb_each(p_memory) as m
             where (m.value ->> 'due')::timestamptz > clock_timestamp() - interval '10 s'), '{}');
    end if;
    for v_place in
        -- A run counts once, however often it came. Not `exists`: a plan that was made when `task` was tiny
        -- would hash all of it.
        select p.queue, p.n, p.claimed_at, q.ageing
          from (select e.queue, count(distinct e.run_id)::integer as n, max(e.claimed_at) as claimed_at
                  from unnest(p_runs, p_queues, p_claimed_at) as e (run_id, queue, claimed_at)
                 where e.queue is not null
                   and not (p_asleep and (select t.state from rowlock.task as t where t.run_id = e.run_id)
                                         is not distinct from 'running')
                 group by e.queue) as p
         cross join lateral (
               select y.ageing, y.revision from rowlock.queue as y
                where y.app = p_app and y.name = p.queue and y.limited and y.rate is null and not y.partitions
               offset 0) as q
         cross join lateral (
               select from rowlock.queue_gate as y
                where y.app = p_app and y.name = p.queue and y.marked >= q.revision
               offset 0) as g
         where exists (select from rowlock.worker as w
                        where w.id = p_worker and w.lease_until > clock_timestamp() and not w.draining
                          and not exists (select from rowlock.drain_request as d where d.worker_id = w.id))
           and not exists (select from rowlock.pause as y
                            where y.app = p_app and y.lifted_at is null
                              and (y.queue = p.queue or y.queue is null))
         order by p.queue
    loop
        v_began := clock_timestamp();
        v_walked := pg_stat_get_xact_tuples_returned('rowlock.task_ready'::regclass);
        v_read := pg_stat_get_xact_blocks_fetched('rowlock.task_ready'::regclass);
        v_known := (p_memory ->> v_place.queue)::jsonb;
        select r.bounded, r.queues into v_bounded, v_queues from rowlock.recall(v_known, v_began) as r;
        select l.bounds, l.is_parted into v_bounds, v_parted
          from rowlock.look(p_app, v_place.queue, v_fits, v_known is not null, v_bounded,
                            v_queues -> v_place.queue, v_began) as l;
        v_ids := '{}';
        v_room := 0;
        if not v_parted and not rowlock.others_wait(p_app, v_place.queue, v_fits) then
            v_room := (rowlock.room(p_app, v_place.queue, v_fits, p_worker, v_place.n, null)).room;
        end if;
        if v_room > 0 then
            select x.ids, v_bounds || jsonb_build_object('', x.next_bounds)
              into v_ids, v_bounds
              from rowlock.pick(p_app, v_place.queue, '', v_fits, '{}', v_place.ageing, v_room, v_room, '{}',
                                v_bounds -> '', v_began) as x;
        end if;
        if v_ids <> '{}' then
            -- Only now: room may have moved the bound, past those who left.
            v_oldest := (select g.oldest_claim from rowlock.queue_gate as g
                          where g.app = p_app and g.name = v_place.queue);
            return query
            select -1, 'claimed', to_jsonb(c) || '{"limited": true}'
              from rowlock.take(p_worker, p_version, v_ids, greatest(v_place.claimed_at, v_oldest), null, true)
                   as c;
        end if;

        v_queues := case when v_known is not null
                         then jsonb_build_object(v_place.queue, coalesce(v_bounds, '"many"')) end;
        v_memory := v_memory - v_place.queue;
        if v_bounded then
            v_memory := v_memory || jsonb_build_object(
                v_place.queue, v_known || jsonb_build_object('queues', v_queues));
        elsif pg_stat_get_xact_tuples_returned('rowlock.task_ready'::regclass) - v_walked
                  > a_walk + a_version * cardinality(v_fits) + 10 * cardinality(v_ids)
              or (v_ids <> '{}' and pg_stat_get_xact_blocks_fetched('rowlock.task_ready'::regclass) - v_read
                                     > a_read + rowlock.probes(v_fits, v_bounds)) then
            v_memory := v_memory || jsonb_build_object(
                v_place.queue, rowlock.memory_of(v_queues, '{}', v_began));
        end if;
    end loop;
    if v_memory <> '{}' then
        return query select -1, 'memory', to_jsonb(v_memory::text);
    end if;
end $$;
