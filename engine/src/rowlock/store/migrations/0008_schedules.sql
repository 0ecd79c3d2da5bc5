-- minimum code level: 4
-- 0008_schedules: runs that are started by the calendar.
--
-- A tick is taken on the schedule's row, in the transaction that starts its run: `ticked_to` only grows,
-- so a tick can't be taken twice, whatever became of its run. Workers compute ticks, the database decides.

create table rowlock.schedule (
    created_at        timestamptz not null default clock_timestamp(),
    due_at            timestamptz not null default clock_timestamp(),
    ticked_to         timestamptz not null default clock_timestamp(),
    next_tick         timestamptz,
    last_tick         timestamptz,
    last_skipped      timestamptz,
    start_at          timestamptz,
    end_at            timestamptz,
    paused_at         timestamptz,
    removed_at        timestamptz,
    set_at            timestamptz,
    jitter            interval    not null default '0',
    every             interval,
    catch_up_window   interval,
    fired             bigint      not null default 0,
    skipped           bigint      not null default 0,
    last_run_id       uuid,
    revision          integer     not null default 1,
    priority          smallint,
    app               text        not null,
    name              text        not null,
    workflow          text        not null,
    queue             text,
    cron              text,
    timezone          text        not null default 'UTC',
    overlap           text        not null default 'skip',
    catch_up          text        not null default 'last',
    tick_argument     text,
    created_by        text        not null,
    set_by            text,
    paused_by         text,
    reason            text,
    error             text,
    input             jsonb       not null default '{}',
    declared          jsonb,
    constraint schedule_pkey primary key (app, name),
    constraint schedule_kind check (num_nonnulls(cron, every) = 1),
    constraint schedule_every check (every >= interval '1 second'),
    constraint schedule_jitter check (jitter >= interval '0'),
    constraint schedule_overlap check (overlap in ('skip', 'queue', 'cancel_running', 'allow')),
    constraint schedule_catch_up check (catch_up in ('none', 'last', 'all')),
    constraint schedule_window check (catch_up_window > interval '0'),
    constraint schedule_range check (end_at > start_at)
) with (fillfactor = 50);
create index schedule_due on rowlock.schedule (app, due_at);
comment on table rowlock.schedule is 'What is started by the calendar. Workers compute its ticks; they are taken on this row.';
comment on column rowlock.schedule.created_at is 'When it was made, or first declared.';
comment on column rowlock.schedule.paused_at is 'Since when it is paused.';
comment on column rowlock.schedule.catch_up is 'none, last or all: ticks that are made up for when no worker was there.';
comment on column rowlock.schedule.app is 'The app it belongs to.';
comment on column rowlock.schedule.name is 'Its name.';
comment on column rowlock.schedule.workflow is 'The workflow that is started.';
comment on column rowlock.schedule.cron is 'When; null: by the interval.';
comment on column rowlock.schedule.timezone is 'In which cron is read.';
comment on column rowlock.schedule.overlap is 'skip, queue, cancel_running or allow: what happens at a tick while a run is unfinished.';
comment on column rowlock.schedule.created_by is 'The role that made it.';
comment on column rowlock.schedule.paused_by is 'The role that paused it.';
comment on column rowlock.schedule.reason is 'Why it is paused.';
comment on column rowlock.schedule.input is 'The arguments of its runs.';
comment on column rowlock.schedule.due_at is 'When a worker has to look at it; infinity: never.';
comment on column rowlock.schedule.ticked_to is 'Ticks up to this one have been taken, or are past; it only grows.';
comment on column rowlock.schedule.next_tick is 'The next one, as far as a worker has computed it.';
comment on column rowlock.schedule.last_tick is 'The last tick that started a run.';
comment on column rowlock.schedule.last_skipped is 'The last tick that started none, because a run was unfinished.';
comment on column rowlock.schedule.start_at is 'No tick comes before.';
comment on column rowlock.schedule.end_at is 'No tick comes after.';
comment on column rowlock.schedule.removed_at is 'Since when the code does not declare it any more.';
comment on column rowlock.schedule.set_at is 'When it was changed live, against its declaration; null: it is as declared.';
comment on column rowlock.schedule.set_by is 'The role that changed it.';
comment on column rowlock.schedule.jitter is 'How much later than its tick a run may begin, at random.';
comment on column rowlock.schedule.every is 'The interval, counted from start_at, else from 1970.';
comment on column rowlock.schedule.catch_up_window is 'How old a tick may be that is caught up; null: any age.';
comment on column rowlock.schedule.fired is 'How many ticks started a run.';
comment on column rowlock.schedule.skipped is 'How many ticks started none, because a run was unfinished.';
comment on column rowlock.schedule.last_run_id is 'The run of the last tick.';
comment on column rowlock.schedule.revision is 'Grows with each change: ticks computed from an older one are refused.';
comment on column rowlock.schedule.priority is 'Of its runs; null: as any.';
comment on column rowlock.schedule.queue is 'Where its runs wait; null: in the workflow''s queue.';
comment on column rowlock.schedule.tick_argument is 'The argument of the workflow that is given the time of the tick; null: none.';
comment on column rowlock.schedule.error is 'Why no ticks can be computed; null: they can.';
comment on column rowlock.schedule.declared is 'What code declared last; null: it was made at run time.';

-- Runs of ticks (and triggered ones) that may not have ended; the next tick clears away those that have.
create table rowlock.schedule_run (
    started_at  timestamptz not null default clock_timestamp(),
    run_id      uuid        not null,
    app         text        not null,
    name        text        not null,
    constraint schedule_run_pkey primary key (app, name, run_id)
);
comment on table rowlock.schedule_run is 'Runs of a schedule that may not have ended: what overlap looks at.';
comment on column rowlock.schedule_run.app is 'The app.';
comment on column rowlock.schedule_run.started_at is 'When it was started.';
comment on column rowlock.schedule_run.run_id is 'The run.';
comment on column rowlock.schedule_run.name is 'The schedule.';

create table rowlock.schedule_backfill (
    id            bigint generated always as identity,
    requested_at  timestamptz not null default clock_timestamp(),
    ticked_to     timestamptz not null,
    until         timestamptz not null,
    since         timestamptz not null,
    ended_at      timestamptz,
    started       bigint      not null default 0,
    app           text        not null,
    name          text        not null,
    requested_by  text        not null,
    error         text,
    constraint schedule_backfill_pkey primary key (id)
) with (fillfactor = 50);
create index schedule_backfill_open on rowlock.schedule_backfill (app, id) where ended_at is null;
comment on table rowlock.schedule_backfill is 'Ranges of past ticks to be run; workers work them off in batches.';
comment on column rowlock.schedule_backfill.app is 'The app.';
comment on column rowlock.schedule_backfill.id is 'Its number.';
comment on column rowlock.schedule_backfill.requested_at is 'When it was asked for.';
comment on column rowlock.schedule_backfill.ticked_to is 'Ticks up to this one have been started.';
comment on column rowlock.schedule_backfill.since is 'Where the range begins; a tick at that time is in it.';
comment on column rowlock.schedule_backfill.until is 'Where it ends; a tick at that time is not in it.';
comment on column rowlock.schedule_backfill.ended_at is 'When all were started, or it was given up.';
comment on column rowlock.schedule_backfill.started is 'How many ticks have a run now.';
comment on column rowlock.schedule_backfill.name is 'The schedule.';
comment on column rowlock.schedule_backfill.requested_by is 'The role that asked.';
comment on column rowlock.schedule_backfill.error is 'Why it was given up.';

do $$
declare
    v_table text;
begin
    foreach v_table in array array['schedule', 'schedule_run', 'schedule_backfill'] loop
        execute format('alter table rowlock.%I enable row level security', v_table);
        execute format('create policy by_app on rowlock.%I for select using ('
                       '(select rowlock.my_apps()) is null or app = any ((select rowlock.my_apps())::text[]))',
                       v_table);
    end loop;
end $$;
