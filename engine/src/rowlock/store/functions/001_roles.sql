-- roles: who calls, and which apps that role may use.
--
-- Functions that write are SECURITY DEFINER (zz_rights.sql says which): they run as the owner of the
-- schema, so nobody else needs a right on a table, and plans are everybody's. They ask here whether
-- their caller may use the app. Inside them current_user is the owner; the caller is whom the session
-- logged in as, or what it said SET ROLE to. What only reads runs as its caller, under row-level
-- security (migrations/0004_control.sql). The owner, superusers and rowlock_admin may use every app.

-- invoker: who calls. Also right where a definer's function stands in between.
create or replace function rowlock.invoker() returns text
language sql stable
return case current_setting('role') when 'none' then session_user::text else current_setting('role') end;

-- is_member: whether the caller may use an app. To be asked in functions of the owner only.
create or replace function rowlock.is_member(p_app text) returns boolean
language sql stable
set search_path = pg_catalog
as $$
    select pg_has_role(i.role::name, current_user, 'usage')
        or coalesce(pg_has_role(i.role::name, to_regrole('rowlock_admin')::oid, 'usage'), false)
        or exists (select from rowlock.app_member as m
                    where (m.app = p_app or m.app is null)
                      and pg_has_role(i.role::name, to_regrole(format('%I', m.role))::oid, 'usage'))
      from (select rowlock.invoker() as role) as i
$$;

-- is_owner, allowed: the same, at next to no cost where the owner himself calls. The planner puts their
-- text in place of a call, for they have neither settings nor subqueries.
create or replace function rowlock.is_owner() returns boolean
language sql stable
return session_user = current_user and current_setting('role') = 'none';

create or replace function rowlock.allowed(p_app text) returns boolean
language sql stable
return rowlock.is_owner() or rowlock.is_member(p_app);

-- my_apps: for policies, which are asked as the role that reads.
create or replace function rowlock.my_apps() returns text[]
language sql stable
set search_path = pg_catalog
as $$
    select case
           when pg_has_role(n.nspowner, 'usage')
             or pg_has_role(to_regrole('rowlock_admin')::oid, 'usage')
             or exists (select from rowlock.app_member as m
                         where m.app is null and pg_has_role(to_regrole(format('%I', m.role))::oid, 'usage'))
           then null
           else array(select m.app from rowlock.app_member as m
                       where pg_has_role(to_regrole(format('%I', m.role))::oid, 'usage'))
           end
      from pg_namespace as n
     where n.nspname = 'rowlock'
$$;
comment on function rowlock.my_apps() is
'The apps whose runs the current role may see; null: all of them.';

create or replace function rowlock.refuse_app(p_app text) returns void
language plpgsql stable set search_path = pg_catalog as $$
begin
    raise exception 'role % may not use app %', rowlock.invoker(), rowlock.shown(p_app)
        using errcode = 'RLP01',
              hint = format('Who administers Rowlock lets it: select rowlock.grant_app(%L, %L). Nothing was '
                            'changed.', rowlock.invoker(), rowlock.shown(p_app));
end $$;

-- check_role: a role that exists; given back as it is called.
create or replace function rowlock.check_role(p_role text) returns void
language plpgsql stable set search_path = pg_catalog as $$
begin
    if not exists (select from pg_catalog.pg_roles as r where r.rolname = p_role) then
        raise exception 'there is no role %', rowlock.shown(p_role)
            using errcode = 'RLN08', hint = 'Roles are made with CREATE ROLE. Nothing was changed.';
    end if;
end $$;

create or replace function rowlock.grant_app(role text, app text) returns boolean
language plpgsql volatile
set search_path = pg_catalog
as $$
#variable_conflict use_column
begin
    perform rowlock.check_role(grant_app.role);
    if grant_app.app = '' or length(grant_app.app) > 200 then
        perform rowlock.check_name('name of the app', grant_app.app);
    end if;
    insert into rowlock.app_member (role, app, granted_by)
    values (grant_app.role, grant_app.app, rowlock.invoker())
    on conflict do nothing;
    if not found then
        return false;
    end if;
    perform rowlock.note_audit('grant_app', grant_app.app, null, 'role ' || grant_app.role,
                               '{"granted": false}', '{"granted": true}');
    return true;
end $$;
comment on function rowlock.grant_app(text, text) is
'Lets a role, and all that inherit from it, use an app, as far as rowlock_client, rowlock_worker or
rowlock_reader allow. True when it could not before.

role: its name.
app: which app; null: every one there is and will be.';

create or replace function rowlock.revoke_app(role text, app text) returns boolean
language plpgsql volatile
set search_path = pg_catalog
as $$
#variable_conflict use_column
begin
    delete from rowlock.app_member as m
     where m.role = revoke_app.role and m.app is not distinct from revoke_app.app;
    if not found then
        perform rowlock.check_role(revoke_app.role);
        return false;
    end if;
    perform rowlock.note_audit('revoke_app', revoke_app.app, null, 'role ' || revoke_app.role,
                               '{"granted": true}', '{"granted": false}');
    return true;
end $$;
comment on function rowlock.revoke_app(text, text) is
'Takes back what grant_app gave, of this app alone. True when there was such a grant.

role: its name.
app: which app; null: the grant of every app.';

create or replace view rowlock.members as
select m.role, m.app, m.granted_at, m.granted_by from rowlock.app_member as m;
comment on view rowlock.members is 'Which role may use which app; app null: every app there is and will be.';
comment on column rowlock.members.role is 'The role that may.';
comment on column rowlock.members.app is 'The app; null: every one.';
comment on column rowlock.members.granted_at is 'Since when.';
comment on column rowlock.members.granted_by is 'The role that granted it.';
