"""Databases that a shop made itself, as in the plan: adopted with their rows, owner, columns and views."""

import os
import re
import subprocess
import sys

import numpy as np
import psycopg
import pytest
from psycopg import sql

from unde_recog.contracts import SkuKey
from unde_recog.db import migrations as migrating
from unde_recog.db.adoption import build_concurrently
from unde_recog.db.connection import LOGICALS, DatabaseError
from unde_recog.db.database import Databases
from unde_recog.db.migrations import dry_run, migrate, migrations
from unde_recog.db.schema import find_tables, wanted_tables
from unde_recog.jobs.hnsw import build_index
from unde_recog.jobs.photos import CatalogPhoto
from unde_recog.jobs.vectors import copy_vectors

from tests.conftest import sibling

# The plan's tables as a shop writes them: other types that do, and columns of its own.
PLAN = """
create extension if not exists vector;
create table raw_products (
  id serial primary key, source varchar(40) not null, external_id varchar not null, brand varchar not null,
  style_id varchar, name text, description text, price numeric(10,2), currency text, category text,
  category_canonical text, gender text, colour text, composition text, sizes jsonb, image_urls jsonb,
  image_views jsonb, collage_url text, image_status text default 'pending',
  ximilar_status text default 'pending', index_scope text default 'pgvector',
  ximilar_synced_urls jsonb default '[]', ximilar_target_count smallint default 2,
  buyer text, season text not null default 'ss26', created_at timestamptz default now(),
  constraint one_product unique (external_id, brand), unique (source, external_id));
create table raw_stores (
  id serial primary key, brand text not null, store_id text not null, name text not null,
  address text, city text, country text, mall_name text, floor text,
  latitude double precision, longitude double precision,
  manager text, unique (brand, store_id));
create table raw_availability (
  brand text not null, store_id text not null, product_id text not null, sizes_in_stock jsonb,
  fetched_at timestamptz not null default now());
create table sku_image_embeddings (
  id bigserial primary key, brand text not null, sku_id text not null, image_url text not null,
  image_rank smallint, image_hash text, embedding vector(512), model_version text, metadata jsonb,
  created_at timestamptz default now());
create table recognition_requests (
  id uuid primary key default gen_random_uuid(), user_id text, photo_url text, user_mall text,
  detected_items jsonb, detection_time_ms integer, tags jsonb, tagging_time_ms integer,
  search_results jsonb, search_time_ms integer,
  availability_time_ms integer, final_matches jsonb, rerank_time_ms integer, total_time_ms integer,
  items_detected integer, items_matched integer, user_feedback jsonb, used_ximilar_booster boolean,
  used_ximilar_tagging boolean, pgvector_top1_score real, pgvector_margin real, ximilar_top1_score real,
  candidates_after_availability smallint, created_at timestamptz default now());
create view products_of_buyers as
  select buyer, count(*) as n, min(price) as cheapest from raw_products group by buyer;
create view stock_today as select p.name, a.sizes_in_stock from raw_availability a
  join raw_products p on p.brand = a.brand and p.external_id = a.product_id;
insert into raw_products (source, external_id, brand, name, price, sizes, image_urls, image_views, buyer)
  select 'erp', 'p' || i, 'hm', 'thing ' || i, i, '["M"]', '[]', '[]', 'ana' from generate_series(1, 40) i;
insert into raw_stores (brand, store_id, name, mall_name, manager) values ('hm', '1', 'H&M', 'Mall', 'bo');
insert into raw_availability select 'hm', '1', 'p' || i, '["M"]', now() from generate_series(1, 40) i;
insert into sku_image_embeddings (brand, sku_id, image_url, image_rank, embedding, model_version, metadata)
  select 'hm', 'p' || i, 'https://shop.example/' || i, 0, array_fill(i/100.0::real, array[512])::vector,
         'their-clip', '{}'
  from generate_series(1, 40) i;
insert into recognition_requests (user_id, total_time_ms) values ('u1', 3200);
"""
KEPT = {
    'raw_products': 'select buyer, season, name, price, external_id from raw_products order by external_id',
    'raw_stores': 'select manager, name from raw_stores',
    'raw_availability': 'select product_id, fetched_at from raw_availability order by 1',
    'sku_image_embeddings':
        'select sku_id, embedding::text, model_version from sku_image_embeddings order by 1',
    'recognition_requests': 'select user_id, total_time_ms, id from recognition_requests',
    'views': 'select buyer, n, cheapest from products_of_buyers',
    'more views': 'select name, sizes_in_stock from stock_today order by 1',
}


@pytest.fixture
def plan_url(server_url):
    "A database made as in the plan."
    name = f'test_{os.getpid()}_900'
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute(sql.SQL('drop database if exists {} with (force)').format(sql.Identifier(name)))
        conn.execute(sql.SQL('create database {}').format(sql.Identifier(name)))
    url = sibling(server_url, name)
    with psycopg.connect(url, autocommit=True) as conn: conn.execute(PLAN)
    yield url
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute(sql.SQL('drop database if exists {} with (force)').format(sql.Identifier(name)))


def kept(url):
    with psycopg.connect(url) as conn: return {k: conn.execute(q).fetchall() for k, q in KEPT.items()}


def missing(url):
    "What still differs from our own schema."
    with psycopg.connect(url, autocommit=True) as conn:
        found = {}
        for logical in LOGICALS:
            wanted = wanted_tables(conn, [s for _, s in migrations(logical)])
            there = find_tables(conn, wanted)
            for name, table in wanted.items():
                columns = table.columns.keys() - there[name].columns.keys() if name in there else {'*'}
                keys = {i.identity for i in table.indexes if not i.name.endswith('_pkey')}
                keys -= {i.identity for i in there[name].indexes if i.valid} if name in there else set()
                if columns or keys: found[name] = columns, keys
        return found


def adopt_all(url):
    with Databases(dict.fromkeys(LOGICALS, url)) as db: return db.migrate()


def test_a_database_of_the_plan_is_adopted_and_nothing_of_theirs_is_changed(plan_url):
    before = kept(plan_url)
    assert missing(plan_url)
    applied = adopt_all(plan_url)
    assert all(len(names) == len(migrations(logical)) for logical, names in applied.items())
    assert kept(plan_url) == before and missing(plan_url) == {}
    assert not any(adopt_all(plan_url).values())  # and that was all
    with psycopg.connect(plan_url) as conn:  # whoever wrote these tables goes on
        conn.execute(
            "insert into raw_products (source, external_id, brand, buyer) values ('erp', 'new', 'hm', 'ana')"
        )
        row = conn.execute(
            "select index_scope, attributes from raw_products where external_id = 'new'"
        ).fetchone()
        assert row == ('pgvector', {})


def test_a_dry_run_prints_the_sql_and_changes_nothing(plan_url):
    with psycopg.connect(plan_url, autocommit=True) as conn:
        tables = 'select table_name, column_name from information_schema.columns order by 1, 2'
        before = conn.execute(tables).fetchall()
        scripts = {logical: dry_run(conn, logical) for logical in LOGICALS}
        assert conn.execute(tables).fetchall() == before
        assert (
            'add column product_url text' in scripts['catalogue']
            and 'concurrently' in scripts['catalogue']
        )
        assert not re.search(
            '(?i)drop (table|column|index|constraint|view)|rename', ' '.join(scripts.values())
        )
        for script in scripts.values():  # an administrator runs it
            for statement in script.split(';\n'):
                if statement.strip(' ;\n'):
                    conn.execute(statement.replace('begin', '').replace('commit', '') or 'select 1')
    assert missing(plan_url) == {}
    adopt_all(plan_url)
    assert missing(plan_url) == {}


@pytest.mark.parametrize(
    'change, told, mended',
    [
        (
            'alter table raw_availability alter sizes_in_stock type text[] using array[]::text[]',
            'sizes_in_stock is text[], jsonb is needed: alter table',
            None,
        ),
        (
            'alter table raw_stores alter floor type integer using 1',
            'floor is integer, text is needed',
            None,
        ),
        (
            'alter table recognition_requests alter created_at type timestamp',
            "at time zone 'UTC'",
            None,
        ),
        (
            'alter table raw_products add supplier text; update raw_products set supplier = \'x\'; '
            'alter table raw_products alter supplier set not null',
            'supplier must be filled and has no default',
            None,
        ),
        (
            "insert into raw_availability select * from raw_availability where product_id = 'p7'",
            'come more than once in public.raw_availability, as hm, 1, p7',
            "delete from raw_availability a using raw_availability b "
            "where a.ctid < b.ctid and a.product_id = b.product_id",
        ),
    ],
)
def test_what_differs_is_named_with_the_remedy_and_nothing_is_changed(plan_url, change, told, mended):
    with psycopg.connect(plan_url, autocommit=True) as conn:
        conn.execute('drop view stock_today')
        conn.execute(change)
    before = missing(plan_url)
    with pytest.raises(DatabaseError) as e: adopt_all(plan_url)
    assert told in str(e.value)
    logical = 'log' if 'recognition' in change else 'catalogue'
    there = {
        k: v
        for k, v in missing(plan_url).items()
        if k in before and k.startswith('raw_' if logical == 'catalogue' else 'recog')
    }
    assert there == {k: before[k] for k in there}
    remedies = re.findall(r'(alter table [^;]+;)', str(e.value)) if mended is None else [mended]
    assert remedies
    with psycopg.connect(plan_url, autocommit=True) as conn:
        for remedy in remedies: conn.execute(remedy)  # the remedy is right
    adopt_all(plan_url)
    assert missing(plan_url) == {}


def test_rows_that_break_a_check_stay_and_are_named(plan_url):
    with psycopg.connect(plan_url, autocommit=True) as conn:
        conn.execute("update raw_stores set brand = 'H&M'")
        note = dry_run(conn, 'catalogue')
    assert "1 rows of public.raw_stores break CHECK" in note and 'H&M' in note
    adopt_all(plan_url)
    with psycopg.connect(plan_url) as conn:
        assert conn.execute('select brand from raw_stores').fetchall() == [('H&M',)]


def test_vectors_of_another_size_are_left_alone(plan_url):
    with psycopg.connect(plan_url, autocommit=True) as conn:
        conn.execute('update sku_image_embeddings set embedding = null')
        conn.execute('alter table sku_image_embeddings alter embedding type vector(768)')
    with pytest.raises(
        DatabaseError, match=r'embedding is vector\(768\).*left alone: give PRODUCTION_DB_URL'
    ):
        adopt_all(plan_url)
    with psycopg.connect(plan_url) as conn:
        assert 'phash' not in find_tables(conn, ['sku_image_embeddings'])['sku_image_embeddings'].columns


def test_an_adopted_table_takes_a_version_of_another_width(plan_url):
    "Although its own column must be filled, and stays as it is."
    with psycopg.connect(plan_url, autocommit=True) as conn:
        conn.execute('alter table sku_image_embeddings alter embedding set not null')
    adopt_all(plan_url)
    with Databases(dict.fromkeys(LOGICALS, plan_url)) as db, db.connect('vectors') as conn:
        photo = CatalogPhoto(SkuKey('hm', 'p1'), 'a.jpg', 0, {})
        assert copy_vectors(conn, [(photo, 'a'*64, np.ones(768, 'float32'))], 'wide-1') == 1
        build_index(conn, 'wide-1')
        types = conn.execute("""
            select attname, format_type(atttypid, atttypmod), attstorage from pg_attribute
            where attrelid = 'sku_image_embeddings'::regclass and attname like 'embedding%'
            order by 1""").fetchall()
        (theirs,) = conn.execute("""select count(embedding) from sku_image_embeddings
                                    where model_version = 'their-clip'""").fetchone()
    assert [t[:2] for t in types] == [('embedding', 'vector(512)'), ('embedding_other', 'vector')]
    assert types[1][2] == 'p' and theirs == 40


def test_tables_of_another_owner(plan_url, server_url):
    "We may use them; the owner runs the script."
    with psycopg.connect(plan_url, autocommit=True) as conn:
        for role in ('plan_owner', 'plan_guest'):
            if not conn.execute('select 1 from pg_roles where rolname = %s', (role,)).fetchone():
                conn.execute(f'create role {role} login')
        conn.execute('grant create, usage on schema public to plan_owner, plan_guest')
        for table in [*KEPT][:5]: conn.execute(f'alter table {table} owner to plan_owner')
        conn.execute('grant select, insert, update, delete on all tables in schema public to plan_guest')
        conn.execute('revoke delete on raw_stores from plan_guest')
        with pytest.raises(DatabaseError) as e:
            conn.execute('set role plan_guest')
            migrate(conn, 'catalogue')
        assert 'raw_products belongs to plan_owner' in str(e.value)
        assert 'grant select, insert, update, delete on public.raw_stores to plan_guest;' in str(e.value)
        script = dry_run(conn, 'catalogue')
        assert '-- public.raw_products belongs to plan_owner: run this as that role' in script
        conn.execute('reset role')
        conn.execute('grant delete on raw_stores to plan_guest')
        conn.execute('set role plan_owner')
        migrate(conn, 'catalogue')
        conn.execute('reset role')
        conn.execute('grant select, insert, update, delete on all tables in schema public to plan_guest')
        conn.execute('set role plan_guest')
        assert migrate(conn, 'catalogue') == []
    with psycopg.connect(plan_url, autocommit=True) as conn:
        for role in ('plan_owner', 'plan_guest'):
            conn.execute(f'reassign owned by {role} to current_user; drop owned by {role}')
    with psycopg.connect(server_url, autocommit=True) as conn:
        for role in ('plan_owner', 'plan_guest'): conn.execute(f'drop role if exists {role}')


KILLED = '''
import os, sys, psycopg
from unde_recog.db import adoption, migrations
left = int(sys.argv[2])
def build(conn, name, statement):
    global left
    if left == 0: os.kill(os.getpid(), 9)
    left -= 1
    real(conn, name, statement)
real, adoption.build_concurrently = adoption.build_concurrently, build
migrations.migrate_at(sys.argv[1], 'catalogue')
'''


@pytest.mark.parametrize('steps', [0, 2])
def test_killed_half_way_and_run_again(plan_url, steps):
    before = kept(plan_url)
    killed = subprocess.run([sys.executable, '-c', KILLED, plan_url, str(steps)])
    assert killed.returncode == -9 and missing(plan_url)
    adopt_all(plan_url)
    assert kept(plan_url) == before and missing(plan_url) == {}


def test_an_index_that_was_half_built_is_built_anew(plan_url):
    with psycopg.connect(plan_url, autocommit=True) as conn:
        conn.execute(
            "insert into raw_stores (brand, store_id, name) values ('hm', '2', 'a'), ('hm', '3', 'a')"
        )
        twice = 'create unique index concurrently raw_stores_name on raw_stores (name)'
        with pytest.raises(psycopg.errors.UniqueViolation): conn.execute(twice)
        conn.execute("delete from raw_stores where store_id = '3'")
        build_concurrently(conn, 'raw_stores_name', twice)
        assert {i.name: i.valid for i in find_tables(conn, ['raw_stores'])['raw_stores'].indexes}[
            'raw_stores_name'
        ]


def test_others_read_and_write_while_indexes_are_built(plan_url):
    """A writer that holds its transaction open for a moment delays the build, and is not stopped
    by it."""
    writer = '''
import sys, time, psycopg
with psycopg.connect(sys.argv[1]) as conn:
    conn.execute("update raw_products set buyer = 'bo' where external_id = 'p3'")
    print('writing', flush=True)
    time.sleep(3)
'''
    with subprocess.Popen([sys.executable, '-c', writer, plan_url], stdout=subprocess.PIPE, text=True) as p:
        assert p.stdout.readline() == 'writing\n'
        adopt_all(plan_url)
    assert p.returncode == 0 and missing(plan_url) == {}
    with psycopg.connect(plan_url) as conn:
        assert conn.execute("select buyer from raw_products where external_id = 'p3'").fetchone() == ('bo',)


def test_a_table_that_stays_locked_is_named(plan_url, monkeypatch):
    from unde_recog.db import adoption

    with (
        psycopg.connect(plan_url, application_name='a till') as till,
        psycopg.connect(plan_url, autocommit=True) as conn,
    ):
        till.execute('lock table raw_products in share mode')
        plan = migrating.adoption_plan(conn, 'catalogue')
        monkeypatch.setattr(adoption, 'LOCK_TIMEOUT', '300ms')
        with pytest.raises(DatabaseError, match='a till holds raw_products'): adoption.adopt(conn, plan)
        till.rollback()


def test_a_database_of_the_last_release_is_brought_up(server_url, tmp_path):
    "The dump of a database of the release before, with rows."
    dump = os.path.join(os.path.dirname(__file__), 'release_0.sql')
    name = f'test_{os.getpid()}_901'
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute(sql.SQL('drop database if exists {} with (force)').format(sql.Identifier(name)))
        conn.execute(sql.SQL('create database {}').format(sql.Identifier(name)))
    url = sibling(server_url, name)
    with psycopg.connect(url, autocommit=True) as conn: conn.execute(open(dump, encoding='utf-8').read())
    applied = adopt_all(url)
    assert applied == {
        'catalogue': ['0002_shop_data.sql', '0003_words.sql', '0004_variants.sql', '0005_folded.sql'],
        'vectors': ['0002_evidence.sql', '0003_shared.sql', '0004_trials.sql', '0005_widths.sql'],
        'log': ['0004_reasons.sql', '0005_gate_certificates.sql', '0006_forgotten_people.sql'],
    }
    assert missing(url) == {}
    with psycopg.connect(url) as conn:
        assert conn.execute('select count(*), count(distinct brand) from raw_products').fetchone() == (4, 2)
        assert conn.execute(
            'select count(*) from sku_image_embeddings where embedding is not null'
        ).fetchone() == (3,)
        assert conn.execute(
            'select person_index, match_type from recognition_items'
        ).fetchall() == [(0, 'exact')]
        assert conn.execute('select partial, status from embedding_versions').fetchall() == [
            (False, 'complete')
        ]
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute(sql.SQL('drop database if exists {} with (force)').format(sql.Identifier(name)))


@pytest.mark.parametrize('change, told', [
    ('alter table raw_stores rename to st0; create view raw_stores as select * from st0',
     'raw_stores is a view'),
    ('alter table raw_stores rename to st0; create materialized view raw_stores as select * from st0',
     'raw_stores is a materialized view'),
    ('alter table raw_stores drop column floor; '
     'alter table raw_stores add floor text generated always as (lower(address)) stored',
     'alter table public.raw_stores alter column floor drop expression;'),
    ("update raw_products set image_urls = '\"https://a.example/1.jpg\"' where external_id = 'p4'",
     "set image_urls = jsonb_build_array(image_urls) where jsonb_typeof(image_urls) <> 'array';"),
    ("drop view products_of_buyers; alter table raw_products alter price type text; "
     "create view prices as select price from raw_products; "
     "update raw_products set price = '19,95' where external_id = 'p3'",
     "price is used by prices.*1 values of public.raw_products.price are no numbers, as '19,95'"),
    ('drop view stock_today; drop table raw_availability; create table raw_availability (brand text, '
     'store_id text, product_id text, sizes_in_stock jsonb, fetched_at timestamptz not null) '
     'partition by range (fetched_at)',
     'raw_availability is partitioned'),
])
def test_what_cannot_be_a_table_of_ours_is_named_before_anything_is_changed(plan_url, change, told):
    with psycopg.connect(plan_url, autocommit=True) as conn: conn.execute(change)
    with psycopg.connect(plan_url, autocommit=True) as conn:
        assert 'STOPS' in dry_run(conn, 'catalogue')
    told = told.replace('(', r'\(').replace(')', r'\)')
    with pytest.raises(DatabaseError, match='(?s)' + told): adopt_all(plan_url)
    with psycopg.connect(plan_url) as conn:
        assert 'external_id_folded' not in find_tables(conn, ['raw_products'])['raw_products'].columns


def test_a_schema_that_the_address_names_is_used(plan_url):
    with psycopg.connect(plan_url, autocommit=True) as conn:
        conn.execute('create schema shop; drop view products_of_buyers; drop view stock_today')
        for table in ('raw_products', 'raw_stores', 'raw_availability'):
            conn.execute(f'alter table {table} set schema shop')
    url = plan_url + ('&' if '?' in plan_url else '?') + 'options=-csearch_path%3Dshop,public'
    with Databases(dict.fromkeys(LOGICALS, url)) as db:
        db.migrate()
        with db.connect('catalogue') as conn:
            assert conn.execute('select count(*) from raw_products').fetchone() == (40,)
            assert conn.execute('show timezone').fetchone() == ('UTC',)  # our own options stand beside it
    with psycopg.connect(plan_url) as conn:
        assert conn.execute("select to_regclass('public.raw_products')").fetchone() == (None,)
