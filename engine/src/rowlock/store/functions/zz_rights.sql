-- rights: who may call which function, and which of them run as the owner of the schema.
--
-- Applied with every change of a function, as the last: a new one is nobody's until it stands here.
-- Functions that write, and those that workers live by, are SECURITY DEFINER: they ask for the app
-- themselves (001_roles.sql). `reads` are not: they see what row-level security shows their caller.
-- Every function is given `search_path = pg_catalog, pg_temp`: without its name there, a caller's
-- temporary schema would come first, and with it a type `text` of his making, in functions of the owner.

-- rights: the decision for each function, by name. What does not stand here is for the owner alone.
create or replace function rowlock.rights() returns table (function text, roles text[], reads boolean)
language sql immutable
set search_path = pg_catalog
as $$
    select x.name, x.roles::text[], coalesce(x.reads, false)
      from (values
        -- what products do with the runs of their apps
        ('start',                     '{client,admin}',               false),
        ('start_many',                '{client,worker,admin}',        false),  -- a worker: keyed children
        ('send',                      '{client,admin}',               false),
        ('set_event',                 '{client,admin}',               false),
        ('emit',                      '{client,admin}',               false),
        ('cancel',                    '{client,admin}',               false),
        ('show_app',                  '{client,worker,admin}',        false),
        ('declare_queues',            '{client,worker,admin}',        false),
        ('create_schedule',           '{client,admin}',               false),
        ('update_schedule',           '{client,admin}',               false),
        ('unset_schedule',            '{client,admin}',               false),
        ('delete_schedule',           '{client,admin}',               false),
        ('trigger_schedule',          '{client,admin}',               false),
        -- what people do who watch over them
        ('resume',                    '{admin}',                      false),
        ('retry',                     '{admin}',                      false),
        ('rewind',                    '{admin}',                      false),
        ('fork',                      '{admin}',                      false),
        ('pause',                     '{admin}',                      false),
        ('unpause',                   '{admin}',                      false),
        ('set_limit',                 '{admin}',                      false),
        ('unset_limit',               '{admin}',                      false),
        ('reset_limits',              '{admin}',                      false),
        ('pause_schedule',            '{admin}',                      false),
        ('resume_schedule',           '{admin}',                      false),
        ('backfill',                  '{admin}',                      false),
        ('reprioritise',              '{admin}',                      false),
        ('reschedule',                '{admin}',                      false),
        ('move',                      '{admin}',                      false),
        ('promote',                   '{admin}',                      false),
        ('retire',                    '{admin}',                      false),
        ('drain_worker',              '{admin}',                      false),
        ('grant_app',                 '{admin}',                      false),
        ('revoke_app',                '{admin}',                      false),
        ('set_retention',             '{admin}',                      false),
        ('drop_retention',            '{admin}',                      false),
        ('delete',                    '{admin}',                      false),
        ('retain',                    '{admin}',                      false),
        ('choose_runs',               '{admin}',                      false),
        ('archived_rows',             '{admin}',                      false),
        ('remove_chosen',             '{admin}',                      false),
        ('expire_keys',               '{admin}',                      false),
        ('retain_plan',               '{reader,admin}',               false),
        ('why_kept',                  '{reader,admin}',               false),
        -- what workers live by
        ('register_worker',           '{worker}',                     false),
        ('heartbeat',                 '{worker}',                     false),
        ('drain',                     '{worker}',                     false),
        ('leave',                     '{worker}',                     false),
        ('tend',                      '{worker}',                     false),
        ('claim',                     '{worker}',                     false),
        ('claim_next',                '{worker}',                     false),
        ('apply_declaration',         '{worker}',                     false),
        ('history',                   '{worker}',                     false),
        ('journal',                   '{worker}',                     false),
        ('journal_and_claim',         '{worker}',                     false),
        ('record_transaction',        '{worker}',                     false),
        ('record_failed_transaction', '{worker}',                     false),
        ('tell',                      '{worker}',                     false),
        ('house_due',                 '{worker}',                     false),
        ('keep_house',                '{worker}',                     false),
        ('look_at_schedules',         '{worker}',                     false),
        ('schedules_to_place',        '{worker}',                     false),
        ('tick',                      '{worker}',                     false),
        ('backfill_ticks',            '{worker}',                     false),
        ('set_schedule_aside',        '{worker}',                     false),
        ('declare_schedules',         '{worker}',                     false),
        -- who waits, or wonders
        ('listen',                    '{client,worker,reader,admin}', false),
        ('unlisten',                  '{client,worker,reader,admin}', false),
        ('explain',                   '{client,worker,reader,admin}', false),
        ('explain_schedule',          '{client,worker,reader,admin}', false),
        -- looking
        ('get_event',                 '{client,worker,reader,admin}', true),
        ('current_version',           '{client,worker,reader,admin}', true),
        ('my_apps',                   '{client,worker,reader,admin}', true),
        ('list_runs',                 '{client,worker,reader,admin}', true),
        -- … and what that needs; the first three see others' runs, and tell nothing of them
        ('id_since',                  '{client,worker,reader,admin}', false),
        ('id_until',                  '{client,worker,reader,admin}', false),
        ('with_attributes',           '{client,worker,reader,admin}', false),
        ('with_key',                  '{client,worker,reader,admin}', true),
        ('with_parent',               '{client,worker,reader,admin}', true),
        ('newest_unfinished',         '{client,worker,reader,admin}', true),
        ('newest_ended',              '{client,worker,reader,admin}', true),
        ('newest_of_version',         '{client,worker,reader,admin}', true),
        ('id_at',                     '{client,worker,reader,admin}', true),
        ('in_words',                  '{client,worker,reader,admin}', true),
        ('refuse_unknown_names',      '{client,worker,reader,admin}', true),
        ('shown',                     '{client,worker,reader,admin}', true),
        ('is_paused',                 '{client,worker,reader,admin}', true),
        ('rate_text',                 '{client,worker,reader,admin}', true),
        ('fleet_tasks',               '{reader,admin}',               true),
        ('fleet_workers',             '{reader,admin}',               true),
        ('fleet_versions',            '{reader,admin}',               true),
        ('fleet_rates',               '{reader,admin}',               true),
        ('fleet_limits',              '{reader,admin}',               true),
        ('oldest_waits',              '{reader,admin}',               true)
      ) as x (name, roles, reads)
$$;

-- readable: who may read which table or view, under row-level security. Views are read with the rights of
-- whoever reads them, so their tables stand here too.
create or replace function rowlock.readable() returns table (relation text, roles text[])
language sql immutable
set search_path = pg_catalog
as $$
    select x.name, x.roles::text[]
      from (values
        ('run',            '{client,worker,reader,admin}'), ('runs',        '{client,worker,reader,admin}'),
        ('task',           '{client,worker,reader,admin}'), ('outcome',     '{client,worker,reader,admin}'),
        ('generation',     '{client,worker,reader,admin}'), ('generations', '{client,worker,reader,admin}'),
        ('step',           '{client,worker,reader,admin}'), ('steps',       '{client,worker,reader,admin}'),
        ('message',        '{client,worker,reader,admin}'), ('messages',    '{client,worker,reader,admin}'),
        ('event',          '{client,worker,reader,admin}'), ('events',      '{client,worker,reader,admin}'),
        ('stream_entry',   '{client,worker,reader,admin}'), ('streams',     '{client,worker,reader,admin}'),
        ('queue',          '{client,worker,reader,admin}'), ('queues',      '{client,worker,reader,admin}'),
        ('pause',          '{client,worker,reader,admin}'), ('pauses',      '{client,worker,reader,admin}'),
        ('version',        '{client,worker,reader,admin}'), ('versions',    '{client,worker,reader,admin}'),
        ('worker',         '{client,worker,reader,admin}'), ('workers',     '{client,worker,reader,admin}'),
        ('schedule',       '{client,worker,reader,admin}'), ('schedules',   '{client,worker,reader,admin}'),
        ('schedule_run',   '{client,worker,reader,admin}'),
        ('schedule_backfill', '{client,worker,reader,admin}'), ('backfills', '{client,worker,reader,admin}'),
        ('retention',      '{reader,admin}'),               ('retentions',  '{reader,admin}'),
        ('app_member',     '{client,worker,reader,admin}'), ('members',     '{reader,admin}'),
        ('audit_entry',    '{reader,admin}'),               ('audit',       '{reader,admin}'),
        ('workflow',       '{client,worker,reader,admin}'),
        ('run_key',        '{client,worker,reader,admin}'),
        ('drain_request',  '{client,worker,reader,admin}'),
        ('wait',           '{reader,admin}'),               ('waits',       '{reader,admin}'),
        ('cancel_request', '{reader,admin}'),
        ('arrival',        '{worker,reader,admin}'),
        -- what level the database is at
        ('migration',      '{client,worker,reader,admin}'),
        ('repeatable',     '{client,worker,reader,admin}')
      ) as x (name, roles)
$$;

-- grant_rights: make it so, for those of the four roles that exist. They are made by `rowlock migrate
-- --roles`, for all databases of the server; the rights are of this one.
create or replace function rowlock.grant_rights() returns void
language plpgsql volatile
set search_path = pg_catalog
as $$
declare
    v_role  text;
    v_class text;
    v_what  record;
begin
    foreach v_class in array array['client', 'worker', 'reader', 'admin'] loop
        v_role := 'rowlock_' || v_class;
        continue when to_regrole(v_role) is null;
        execute format('revoke all on all functions in schema rowlock from %I', v_role);
        execute format('revoke all on all tables in schema rowlock from %I', v_role);
        execute format('grant usage on schema rowlock to %I', v_role);
        for v_what in
            select p.oid::regprocedure::text as name
              from pg_catalog.pg_proc as p
              join rowlock.rights() as x on x.function = p.proname
             where p.pronamespace = 'rowlock'::regnamespace and v_class = any (x.roles)
        loop
            execute format('grant execute on function %s to %I', v_what.name, v_role);
        end loop;
        for v_what in
            select c.oid::regclass::text as name
              from pg_catalog.pg_class as c
              join rowlock.readable() as x on x.relation = c.relname
             where c.relnamespace = 'rowlock'::regnamespace and c.relkind in ('r', 'v')
               and v_class = any (x.roles)
        loop
            execute format('grant select on %s to %I', v_what.name, v_role);
        end loop;
    end loop;
end $$;

do $do$
declare
    v_what record;
begin
    -- A superuser may have migrated what somebody else owns: one owner for all, else a function of the one
    -- could not read a table of the other.
    for v_what in
        select format('%s %s', case c.relkind when 'v' then 'view' else 'table' end, c.oid::regclass) as name,
               n.nspowner::regrole as owner
          from pg_catalog.pg_class as c
          join pg_catalog.pg_namespace as n on n.oid = c.relnamespace and n.nspname = 'rowlock'
         where c.relkind in ('r', 'v') and c.relowner <> n.nspowner
        union all
        select format('function %s', p.oid::regprocedure), n.nspowner::regrole
          from pg_catalog.pg_proc as p
          join pg_catalog.pg_namespace as n on n.oid = p.pronamespace and n.nspname = 'rowlock'
         where p.proowner <> n.nspowner
    loop
        execute format('alter %s owner to %s', v_what.name, v_what.owner);
    end loop;
    revoke all on all functions in schema rowlock from public;
    for v_what in
        select p.oid::regprocedure::text as name, x.function is not null and not x.reads as is_definer,
               p.prosqlbody is null as is_text
          from pg_catalog.pg_proc as p
          left join rowlock.rights() as x on x.function = p.proname
         where p.pronamespace = 'rowlock'::regnamespace
    loop
        if v_what.is_definer then
            execute format('alter function %s security definer', v_what.name);
        end if;
        if v_what.is_text then
            execute format('alter function %s set search_path = pg_catalog, pg_temp', v_what.name);
        end if;
    end loop;
    for v_what in
        select c.oid::regclass::text as name from pg_catalog.pg_class as c
         where c.relnamespace = 'rowlock'::regnamespace and c.relkind = 'v'
    loop
        execute format('alter view %s set (security_invoker = true)', v_what.name);
    end loop;
    perform rowlock.grant_rights();
end $do$;
