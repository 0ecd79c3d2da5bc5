-- late: runs that were not to begin after a time, and have not begun by then.
--
-- Any worker's round ends them, whatever holds them back: a backlog, a limit, a pause, or nobody who works.
-- A claim looks at no time of day, so one that comes between that time and the next round begins the run
-- still; next_due_in (tend.sql) brings that round on time.

create or replace function rowlock.end_late(p_limit integer) returns integer
language plpgsql volatile
set search_path = pg_catalog
set enable_seqscan = off set jit = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
declare
    v_now  timestamptz := clock_timestamp();
    v_late uuid[];
begin
    if not exists (select from rowlock.task as t
                    where t.start_before <= v_now and t.start_before is not null and t.started_at is null) then
        return 0;
    end if;
    perform rowlock.require_read_committed();
    v_late := array(
        select t.run_id from rowlock.task as t
         where t.start_before <= v_now and t.start_before is not null and t.started_at is null
         order by t.start_before
         limit p_limit
           for update skip locked);
    if v_late = '{}' then
        return 0;
    end if;
    with gone as (
        delete from rowlock.task where run_id = any (v_late) returning *)
    insert into rowlock.outcome
          (run_id, generation, epoch, app, workflow, queue, version, status, finished_at, error)
    select g.run_id, g.generation, g.epoch, g.app, g.workflow, g.queue, g.version, 'failed',
           clock_timestamp(),
           jsonb_build_object(
               'type', 'rowlock.errors.DeadlineExceeded',
               'message', format('it is too late to begin: the run of %s had not begun by %s', g.workflow,
                                 g.start_before),
               'state', jsonb_build_object('workflow', g.workflow))
      from gone as g;
    perform rowlock.drop_requests(v_late);
    perform rowlock.note_waiters(array(
        select split_part(g.name, ':', 1)::uuid
          from unnest(rowlock.note_arrivals(v_late)) as g (name)));
    perform rowlock.wake_waiters(v_late);
    perform rowlock.tell(v_late);
    return cardinality(v_late);
end $$;
