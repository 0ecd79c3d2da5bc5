"""A spy within each claim's own transaction: was any limit exceeded, at any instant?

A trigger counts after every claim what the claim has made, before it commits. While the gate is
held alone nobody else claims, so its count is exact; settings must not change between the claim's
look and the spy's: whoever changes them in a test holds the gate meanwhile.
"""

from __future__ import annotations

SPY = """
create table public.over_limit
    (what text, queue text, partition text, running integer, most integer);
create function public.spy() returns trigger language plpgsql security definer as $$
declare
    v_set rowlock.queue;
begin
    select q.* into v_set from rowlock.queue as q where q.app = new.app and q.name = new.queue;
    if v_set.concurrency is not null then
        insert into public.over_limit
        select 'queue', new.queue, null, count(*), v_set.concurrency from rowlock.task as t
         where t.app = new.app and t.queue = new.queue and t.state = 'running'
        having count(*) > v_set.concurrency;
    end if;
    if v_set.partition_concurrency is not null then
        insert into public.over_limit
        select 'partition', new.queue, new.partition, count(*), v_set.partition_concurrency
          from rowlock.task as t
         where t.app = new.app and t.queue = new.queue and t.state = 'running'
           and t.partition is not distinct from new.partition
        having count(*) > v_set.partition_concurrency;
    end if;
    if v_set.worker_concurrency is not null then
        insert into public.over_limit
        select 'worker', new.queue, null, count(*), v_set.worker_concurrency
          from rowlock.task as t
         where t.worker_id = new.worker_id and t.queue = new.queue and t.state = 'running'
        having count(*) > v_set.worker_concurrency;
    end if;
    return null;
end $$;
create trigger spy after update on rowlock.task for each row
    when (new.state = 'running' and old.state <> 'running') execute function public.spy();
"""
NO_SPY = """
drop trigger if exists spy on rowlock.task;
drop function if exists public.spy();
drop table if exists public.over_limit;
"""

# Half-open windows: one that begins with a claim holds the most.
FULLEST_WINDOW = """
select coalesce(max(n), 0) from (
    select count(*) over (partition by x.share order by x.at range between current row
                          and %s::interval - interval '1 microsecond' following) as n
      from (select t.started_at as at, case when %s then coalesce(r.partition, '') end as share
              from (select run_id, started_at, queue from rowlock.task
                    union all
                    select run_id, started_at, queue from rowlock.outcome where generation = 1) as t
              join rowlock.run as r on r.id = t.run_id
             where t.queue = %s and t.started_at is not null) as x) as y
"""
"""Parameters: the period, whether by partition, the queue."""
