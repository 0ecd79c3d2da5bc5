-- explain_schedule: whether a schedule ticks, or the one thing that has to happen first.
--
-- A tick that waits for the run before it has no run of its own yet (ticks.sql), so it is asked for here.
-- What becomes of a run that a tick has started, rowlock.explain says.

create or replace function rowlock.explain_schedule(name text, app text default null)
returns table (status text, cause text, message text, hint text, details jsonb)
language plpgsql stable
set search_path = pg_catalog
set enable_seqscan = off set jit = off
as $$
#variable_conflict use_column
declare
    v_app   text := rowlock.resolve_app(explain_schedule.app);
    v_at    timestamptz := clock_timestamp();
    v_one   record;
    v_runs  uuid[];
    v_lease timestamptz;
begin
    select s.* into v_one from rowlock.schedules as s where s.app = v_app and s.schedule = explain_schedule.name;
    if not found then
        return query select null::text, 'unknown',
                            format('app %s has no schedule %s', v_app, rowlock.shown(explain_schedule.name)),
                            'rowlock.schedules lists them. One that code declares is known once a worker has begun.',
                            '{}'::jsonb;
        return;
    end if;
    status := v_one.status;
    details := jsonb_strip_nulls(jsonb_build_object(
        'app', v_app, 'schedule', v_one.schedule, 'next_tick', v_one.next_tick, 'last_tick', v_one.last_tick,
        'last_run_id', v_one.last_run_id, 'last_skipped', v_one.last_skipped));
    v_runs := rowlock.unfinished_of(v_app, v_one.schedule);
    if v_runs <> '{}' then
        details := details || jsonb_build_object('unfinished', v_runs[1:10]);
    end if;
    select max(w.lease_until) into v_lease from rowlock.worker as w where w.app = v_app;
    case
    when status = 'removed' then
        cause := 'removed';
        message := format('the code of app %s has not declared it since %s', v_app, rowlock.moment(v_one.removed_at));
        hint := 'If it is to go on, declare it again: its catch_up rule says what it makes up for. If not, '
                'rowlock.delete_schedule removes it.';
    when status = 'paused' then
        cause := 'paused';
        message := format('it was paused at %s by %s', rowlock.moment(v_one.paused_at), v_one.paused_by)
                   || coalesce(': ' || v_one.reason, '');
        hint := 'rowlock.resume_schedule lets it tick from then on; rowlock.backfill has what it missed run.';
        details := details || jsonb_build_object('paused_at', v_one.paused_at, 'paused_by', v_one.paused_by,
                                                 'reason', v_one.reason);
    when status = 'refused' then
        cause := 'refused';
        message := 'no ticks can be computed: ' || v_one.error;
        hint := 'When that is mended: rowlock.update_schedule, or another declaration, tries again.';
    when status = 'ended' then
        cause := 'ended';
        message := 'it has no more ticks' || coalesce('; it ended at ' || rowlock.moment(v_one.end_at), '');
        hint := 'rowlock.update_schedule gives it another time.';
    when v_lease is null or v_lease <= v_at then
        cause := 'no_worker';
        message := format('no live worker of app %s is there to let it tick', v_app)
                   || coalesce('; the last lease ended at ' || rowlock.moment(v_lease), '');
        hint := format('Start one (rowlock worker …): then catch_up, which is %s, says which of the ticks until '
                       'then are made up for.', v_one.catch_up);
    when v_one.next_tick is null then
        cause := 'computing';
        message := 'it was made or changed, and no worker has computed its next tick yet';
        hint := 'Nothing: a worker does, within ten seconds.';
    when v_one.next_tick <= v_at and v_one.overlap = 'queue' and v_runs <> '{}' then
        cause := 'waiting_for_run';
        message := format('its tick of %s waits until no run of it is unfinished; %s',
                          rowlock.moment(v_one.next_tick),
                          case when cardinality(v_runs) = 1 then format('run %s is', v_runs[1])
                               else format('run %s and %s others are', v_runs[1], cardinality(v_runs) - 1) end);
        hint := format('What holds that run: select * from rowlock.explain(''%s'').', v_runs[1]);
    when v_one.next_tick <= v_at then
        cause := 'due';
        message := format('its tick of %s is due', rowlock.moment(v_one.next_tick));
        hint := 'Nothing: a worker takes it.';
    when not exists (select from rowlock.workflow as w where w.app = v_app and w.name = v_one.workflow) then
        cause := 'unknown_workflow';
        message := format('it ticks next at %s, but no code of app %s has shown a workflow named %s',
                          rowlock.moment(v_one.next_tick), v_app, v_one.workflow);
        hint := 'Is the name right? If its code is still to be deployed, the runs wait for it.';
    else
        cause := 'not_due';
        message := format('it ticks next at %s', rowlock.moment(v_one.next_tick))
                   || case when v_one.last_skipped > coalesce(v_one.last_tick, '-infinity')
                           then format('; the tick of %s started nothing, because a run was unfinished',
                                       rowlock.moment(v_one.last_skipped)) else '' end;
        hint := case when v_runs = '{}' then 'Nothing; rowlock.trigger_schedule starts a run now.'
                     else format('Nothing. Its runs that have not ended, such as %s: rowlock.explain says what holds '
                                 'them.', v_runs[1]) end;
    end case;
    return next;
end $$;
comment on function rowlock.explain_schedule(text, text) is
'Whether a schedule ticks, and why not. Always one row; an unknown name is a cause too.

name: which schedule.
app: which app; default: the one there is, if there is one.
status: the schedule''s status, as in rowlock.schedules; null: there is none.
cause: not_due, if it ticks; else what has to go first, in a word.
message: the same in a sentence.
hint: what to do about it.
details: the facts, as a JSON object.';
