-- minimum code level: 2
-- 0002_observed: what traces and metrics need.
--
-- A run carries the trace it belongs to, so that whichever worker runs it can go on with that
-- trace. The functions below get more arguments or columns; `create or replace` can't do that.

alter table rowlock.run add column trace_context jsonb;
comment on column rowlock.run.trace_context is
    'W3C trace context of whoever started it: {"traceparent": …, "tracestate": …}; null: the run begins a trace.';

drop function if exists rowlock.claim(bigint, text, text, text[], integer, boolean);
drop function if exists rowlock.start(text, jsonb, text, text, text, integer, interval, timestamptz, jsonb);
