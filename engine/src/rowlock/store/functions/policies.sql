-- policies: how long ended runs are kept, and their keys.
--
-- Nothing is removed that nobody asked for: runs without a policy are kept for ever. Of several that fit
-- the most specific counts: that of the workflow and the outcome, else of the workflow, else of the
-- outcome, else of the app. Removals read them without a lock: whoever leaves a change open holds up
-- nobody but another change of the same policy.

-- policy_for: what counts for runs of this kind; no row: they are kept for ever.
create or replace function rowlock.policy_for(p_app text, p_workflow text, p_outcome text)
returns setof rowlock.retention
language sql stable rows 1
set search_path = pg_catalog
as $$
    select p.* from rowlock.retention as p
     where p.app = p_app and coalesce(p.workflow, p_workflow) = p_workflow
       and coalesce(p.outcome, p_outcome) = p_outcome
     order by p.workflow nulls last, p.outcome nulls last
     limit 1
$$;

-- check_retained: a name that no code has shown, and that no run has, is a slip of the pen: what the policy was
-- to keep, or to remove, would not be.
create or replace function rowlock.check_retained(p_app text, p_workflow text) returns void
language plpgsql stable
set search_path = pg_catalog
as $$
declare
    v_first constant uuid := rowlock.id_at('-infinity');
    v_last  constant uuid := rowlock.id_at('infinity');
    v_known text[];
begin
    v_known := array(select w.name from rowlock.workflow as w where w.app = p_app order by 1);
    if p_workflow = any (v_known)
       or (p_workflow is null
           and (v_known <> '{}' or exists (select from rowlock.queue as q where q.app = p_app)))
       or exists (select from rowlock.newest_ended(array[p_app], p_workflow, null, null, v_first, v_last, 1))
       or exists (select from rowlock.newest_unfinished(
                                  array[p_app], p_workflow, null, null, null, v_first, v_last, 1)) then
        return;
    elsif p_workflow is null or v_known = '{}' then
        raise exception 'there is no app %', rowlock.shown(p_app)
            using errcode = 'RLN07',
                  hint = 'Is the name right? An app is known once a worker or client of its code has begun. '
                         'Nothing was changed.';
    end if;
    raise exception 'app % has no workflow %', p_app, rowlock.shown(p_workflow)
        using errcode = 'RLN05',
              hint = 'There are: ' || rowlock.in_words(v_known) || '. Nothing was changed.';
end $$;

create or replace function rowlock.set_retention(
    keep       interval,
    workflow   text     default null,
    outcome    text     default null,
    keep_keys  interval default null,
    archive    boolean  default false,
    app        text     default null)
returns boolean
language plpgsql volatile
set search_path = pg_catalog
as $$
#variable_conflict use_column
declare
    v_app    text := rowlock.resolve_app(set_retention.app);
    v_why    text;
    v_before rowlock.retention;
begin
    v_why := case
        when set_retention.keep < interval '0'
            then format('keep is %s, but must be 0 or more', set_retention.keep)
        when set_retention.outcome not in ('succeeded', 'failed', 'cancelled', 'dead')
            then format('outcome is %s, but must be succeeded, failed, cancelled or dead',
                        rowlock.shown(set_retention.outcome))
        when set_retention.keep_keys is not null and set_retention.keep is null
            then 'keep_keys has no meaning for runs that are kept for ever'
        when set_retention.keep_keys < set_retention.keep
            then format('keep_keys is %s, but a key stays at least as long as its run, %s',
                        set_retention.keep_keys, set_retention.keep)
        when greatest(set_retention.keep, set_retention.keep_keys) > interval '1000 years'
            then format('%s is more than 1000 years', greatest(set_retention.keep, set_retention.keep_keys))
        end;
    if v_why is not null then
        raise exception '%', v_why
            using errcode = 'RLV02',
                  hint = 'For example rowlock.set_retention(interval ''7 days'', outcome => ''succeeded''). '
                         'Nothing was changed.';
    end if;
    if set_retention.workflow is not null then
        perform rowlock.check_name('workflow', set_retention.workflow);
    end if;
    perform rowlock.check_retained(v_app, set_retention.workflow);
    select p.* into v_before from rowlock.retention as p
     where p.app = v_app and p.workflow is not distinct from set_retention.workflow
       and p.outcome is not distinct from set_retention.outcome
       for update;
    if found and (v_before.keep, v_before.keep_keys, v_before.archive)
                 is not distinct from (set_retention.keep, set_retention.keep_keys,
                                       coalesce(set_retention.archive, false)) then
        return false;
    end if;
    insert into rowlock.retention as p (app, workflow, outcome, keep, keep_keys, archive)
    values (v_app, set_retention.workflow, set_retention.outcome, set_retention.keep,
            set_retention.keep_keys, coalesce(set_retention.archive, false))
    on conflict on constraint retention_kind do update
       set keep = excluded.keep, keep_keys = excluded.keep_keys, archive = excluded.archive,
           set_at = excluded.set_at;
    perform rowlock.note_audit(
        'set_retention', v_app, null, rowlock.retained_thing(set_retention.workflow, set_retention.outcome),
        jsonb_build_object('keep', v_before.keep, 'keep_keys', v_before.keep_keys, 'archive', v_before.archive),
        jsonb_build_object('keep', coalesce(set_retention.keep::text, 'for ever'),
                           'keep_keys', set_retention.keep_keys, 'archive', set_retention.archive));
    return true;
end $$;
comment on function rowlock.set_retention(interval, text, text, interval, boolean, text) is
'Sets how long ended runs of an app are kept, counted from their end, and their keys: for a workflow, an
outcome, both or all; the most specific policy counts. An app or workflow that nobody knows is refused.
True when it was otherwise before.

keep: how long; null: for ever.
workflow: of which workflow; default: of every one that has no policy of its own.
outcome: succeeded, failed, cancelled or dead; default: any.
keep_keys: how long their keys can''t be used again, counted from the end as well; default: as long as the
    runs are there.
archive: they are removed only by those who archive them first; default: false.
app: of which app; default: the one there is, if there is one.';

-- retained_thing: what a policy is for, as the audit calls it.
create or replace function rowlock.retained_thing(p_workflow text, p_outcome text) returns text
language sql stable
return coalesce(nullif(concat_ws(', ', 'workflow ' || p_workflow, p_outcome), ''), 'app');

create or replace function rowlock.drop_retention(
    workflow text default null, outcome text default null, app text default null)
returns boolean
language plpgsql volatile
set search_path = pg_catalog
as $$
#variable_conflict use_column
declare
    v_app    text := rowlock.resolve_app(drop_retention.app);
    v_before rowlock.retention;
begin
    delete from rowlock.retention as p
     where p.app = v_app and p.workflow is not distinct from drop_retention.workflow
       and p.outcome is not distinct from drop_retention.outcome
    returning p.* into v_before;
    if not found then
        return false;
    end if;
    perform rowlock.note_audit(
        'drop_retention', v_app, null, rowlock.retained_thing(drop_retention.workflow, drop_retention.outcome),
        jsonb_build_object('keep', coalesce(v_before.keep::text, 'for ever'), 'keep_keys', v_before.keep_keys,
                           'archive', v_before.archive),
        '{}');
    return true;
end $$;
comment on function rowlock.drop_retention(text, text, text) is
'Drops the policy that was set for just this. False when there was none.

workflow: for which workflow; default: for all.
outcome: for which outcome; default: for any.
app: of which app; default: the one there is, if there is one.';

create or replace view rowlock.retentions as
select p.app, p.workflow, p.outcome, p.keep, p.keep_keys, p.archive, p.set_at
  from rowlock.retention as p;
comment on view rowlock.retentions is
    'How long ended runs are kept; the most specific policy counts, what has none is kept for ever.';
comment on column rowlock.retentions.app is 'The app whose runs it is for.';
comment on column rowlock.retentions.workflow is 'Null: all that have no policy of their own.';
comment on column rowlock.retentions.outcome is 'succeeded, failed, cancelled or dead; null: any that has no policy of its own.';
comment on column rowlock.retentions.keep is 'How long, counted from the end of the run; null: for ever.';
comment on column rowlock.retentions.keep_keys is 'How long the key of a removed run can''t be used again, counted likewise; null: it goes with the run.';
comment on column rowlock.retentions.archive is 'Only removed by those who archive them first.';
comment on column rowlock.retentions.set_at is 'When it was set like this.';
