-- minimum code level: 4
-- 0012_batches: a key by which starts of a workflow are gathered in one run until it is due, or full.
--
-- A third kind of start_key, with what debounce rests on: the run is changed only while it is `scheduled`.
-- How much it may take stands in the run, since nobody but such a start ever asks for it.

alter table rowlock.start_key
    drop constraint start_key_kind,
    add constraint start_key_kind check (kind in ('dedup', 'debounce', 'batch'));
comment on table rowlock.start_key is
    'Which run a key of dedup, debounce or batch was last given to. It is the run''s while that is unfinished, or has not begun.';
comment on column rowlock.start_key.kind is 'dedup, debounce or batch.';

alter table rowlock.run add column batch text, add column batch_size integer;
comment on column rowlock.run.batch is 'Its key until it is due or full: till then another start with it adds to its list.';
comment on column rowlock.run.batch_size is 'How long that list may become: the least that any of its starts said.';
comment on table rowlock.run is
    'What was asked: one row a run, never updated, but for what a debounced start replaces and one of a batch adds. Deliveries lock this row, not the task.';

-- Start gets more arguments; `create or replace` can't do that.
drop function if exists rowlock.start(text, jsonb, text, text, text, integer, interval, timestamptz, jsonb, jsonb, interval, text, timestamptz, text, text, text, interval, interval);
