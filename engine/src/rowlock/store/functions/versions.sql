-- versions: which code version takes the runs that are not pinned yet.
--
-- Claims and registrations read versions without a lock: whoever leaves a promote open holds up nobody but
-- another promote or retire of the same version.

create or replace function rowlock.refuse_version(p_app text, p_version text) returns void
language plpgsql stable set search_path = pg_catalog as $$
begin
    raise exception 'app % has no version %', p_app, rowlock.shown(p_version)
        using errcode = 'RLN02',
              hint = 'A version exists once a worker that carries it has registered; rowlock.versions lists them. '
                     'Nothing was changed.';
end $$;

-- usable_version: refuses one that is not there or retired; holds it, so that nobody retires it before
-- this transaction ends.
create or replace function rowlock.usable_version(p_app text, p_version text) returns void
language plpgsql volatile set search_path = pg_catalog as $$
declare
    v_retired_at timestamptz;
begin
    select v.retired_at into v_retired_at from rowlock.version as v
     where v.app = p_app and v.name = p_version for key share;
    if not found then
        perform rowlock.refuse_version(p_app, p_version);
    end if;
    if v_retired_at is not null then
        raise exception 'version % of app % was retired at %', p_version, p_app, v_retired_at
            using errcode = 'RLS04',
                  hint = 'Nothing was changed. Give its code a new name: a retired version never comes back.';
    end if;
end $$;

create or replace function rowlock.promote(app text, version text) returns void
language plpgsql volatile
set search_path = pg_catalog
as $$
#variable_conflict use_column
declare
    v_app    text := rowlock.resolve_app(promote.app);
    v_before text;
begin
    perform rowlock.usable_version(v_app, promote.version);
    v_before := rowlock.current_version(v_app);
    update rowlock.version as v
       set promoted_at = clock_timestamp()
     where v.app = v_app and v.name = promote.version;
    perform rowlock.apply_declaration(v_app);
    perform rowlock.note_audit('promote', v_app, null, 'version ' || promote.version,
                               jsonb_build_object('current', v_before),
                               jsonb_build_object('current', promote.version));
end $$;
comment on function rowlock.promote(text, text) is
'Makes a registered version the current one: it takes all runs that are not pinned yet.

app: which app; null: the one there is.
version: its name.';

create or replace function rowlock.retire(app text, version text) returns boolean
language plpgsql volatile
set search_path = pg_catalog
as $$
#variable_conflict use_column
declare
    v_app        text := rowlock.resolve_app(retire.app);
    v_retired_at timestamptz;
    v_pinned     bigint;
begin
    select v.retired_at into v_retired_at from rowlock.version as v
     where v.app = v_app and v.name = retire.version for update;
    if not found then
        perform rowlock.refuse_version(v_app, retire.version);
    end if;
    if v_retired_at is not null then
        return false;
    end if;
    if rowlock.current_version(v_app) = retire.version then
        raise exception 'version % is the current one of app %', retire.version, v_app
            using errcode = 'RLS04', hint = 'Promote another first. Nothing was changed.';
    end if;
    select count(*) into v_pinned from rowlock.task as t
     where t.app = v_app and t.version = retire.version;
    if v_pinned > 0 then
        raise exception '% unfinished runs of app % are pinned to version %', v_pinned, v_app,
                        retire.version
            using errcode = 'RLS04',
                  hint = 'Let its workers finish them, or cancel them. Nothing was changed.';
    end if;
    update rowlock.version as v
       set retired_at = clock_timestamp()
     where v.app = v_app and v.name = retire.version;
    perform rowlock.note_audit('retire', v_app, null, 'version ' || retire.version,
                               '{"retired": false}', '{"retired": true}');
    return true;
end $$;
comment on function rowlock.retire(text, text) is
'A version that has nothing more to do never becomes current again. Refused while it is current or
unfinished runs are pinned to it. False when it was retired before.

app: which app; null: the one there is.
version: its name.';

create or replace view rowlock.versions as
select v.app, v.name as version, v.registered_at, v.promoted_at, v.retired_at,
       v.name = rowlock.current_version(v.app) as current,
       coalesce(t.tasks, 0) as unfinished,
       (select count(*) from rowlock.worker as w
         where w.app = v.app and w.version = v.name and w.lease_until > statement_timestamp()) as workers
  from rowlock.version as v
  left join (select x.app, x.version, count(*) as tasks from rowlock.task as x group by x.app, x.version) as t
    on t.app = v.app and t.version = v.name;
comment on view rowlock.versions is
    'Code versions of each app: which takes the runs that are not pinned yet, and how many unfinished runs and live workers each has. Counting reads all tasks once.';
comment on column rowlock.versions.app is 'The app whose code it is.';
comment on column rowlock.versions.version is 'Its name: ROWLOCK_VERSION of the workers that carry it.';
comment on column rowlock.versions.registered_at is 'When a worker first carried it.';
comment on column rowlock.versions.promoted_at is 'When it was made the current one last; null: never.';
comment on column rowlock.versions.retired_at is 'From then on it never becomes current again; null: it may.';
comment on column rowlock.versions.current is 'Whether it takes the runs that are not pinned yet.';
comment on column rowlock.versions.unfinished is 'How many unfinished runs are pinned to it.';
comment on column rowlock.versions.workers is 'How many live workers carry it.';
