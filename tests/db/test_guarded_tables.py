"Adopted tables that their owner guards: row security, triggers, sequences. Errors say what to do."
import os

import psycopg
import pytest
from psycopg import sql
from typer.testing import CliRunner

from unde_recog.catalogue.imports import import_products
from unde_recog.cli import app
from unde_recog.db.backup import backup
from unde_recog.db.connection import LOGICALS, DatabaseError, naming_errors
from unde_recog.db.database import Databases
from unde_recog.db.journal import Journal
from unde_recog.db.migrations import dry_run, migrate, obstacles
from unde_recog.embedder import load_embedder
from unde_recog.jobs.index import index_catalogue
from unde_recog.request_log import RequestLog

from tests.conftest import sibling
from tests.db.test_adoption import PLAN
from tests.steps.test_request_log import item, request

ROLE = f'guarded_{os.getpid()}'


@pytest.fixture
def shop(server_url):
    "(address of the owner, address of our role) of a shop's own database, adopted by its owner."
    name = f'test_{os.getpid()}_920'
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute(sql.SQL('drop database if exists {} with (force)').format(sql.Identifier(name)))
        conn.execute(sql.SQL('create database {}').format(sql.Identifier(name)))
        conn.execute(f'drop role if exists {ROLE}; create role {ROLE} login')
    url = sibling(server_url, name)
    with psycopg.connect(url, autocommit=True) as conn: conn.execute(PLAN)
    yield url, url.replace('postgres@', f'{ROLE}@')
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute(sql.SQL('drop database if exists {} with (force)').format(sql.Identifier(name)))
        conn.execute(f'drop role {ROLE}')


def owner(shop, *statements):
    with psycopg.connect(shop[0], autocommit=True) as conn:
        for statement in statements: conn.execute(statement)


def adopt(shop, sequences=True):
    with Databases(dict.fromkeys(LOGICALS, shop[0])) as db: db.migrate()
    owner(shop, f'grant select, insert, update, delete on all tables in schema public to {ROLE}')
    if sequences: owner(shop, f'grant usage on all sequences in schema public to {ROLE}')


def remedies(text):
    "The SQL that an error gives."
    return [part for part in text.split('; ') if 'create policy' in part]


def prices(tmp_path, *names):
    (tmp_path/'p.csv').write_text('external_id,brand,price\n' + ''.join(f'{n},hm,9\n' for n in names))
    return tmp_path/'p.csv'


POLICY = 'alter table raw_products enable row level security; create policy a_part on raw_products '


def test_row_security_that_hides_products(shop, tmp_path):
    "Hidden products would seem delisted: nothing is indexed, and the remedy is SQL that works."
    adopt(shop)
    owner(shop, "update raw_products set image_urls = '[\"storage:a.jpg\"]', image_views = '[\"front\"]'",
          POLICY + f"to {ROLE} using (external_id < 'p2')")
    with Databases(dict.fromkeys(LOGICALS, shop[1])) as db:
        with pytest.raises(DatabaseError, match='may hide rows.*a_part.*create policy unde_all') as e:
            index_catalogue(db, load_embedder('classical-colour-shape'))
        with pytest.raises(DatabaseError, match='raw_products may hide rows'): backup(db, tmp_path/'copy')
        with pytest.raises(DatabaseError, match='row-level security.*unde-recog check'):
            with naming_errors('import'): import_products(db, prices(tmp_path, 'x1'))
        env = {'DATABASE_URL': shop[1], 'UNDE_DATA_DIR': str(tmp_path)}
        found = CliRunner().invoke(app, ['check'], env=env)
        text = ' '.join(found.output.split())
        assert 'FAILED database catalogue' in text and 'create policy unde_all on public.raw_products' in text
        (remedy,) = remedies(text.split('FAILED database catalogue')[1].split(', or: alter')[0])
        owner(shop, remedy[remedy.index('create policy'):].split(';')[0])
        with db.connect('catalogue') as conn: assert obstacles(conn, 'catalogue') == []
        assert import_products(db, prices(tmp_path, 'x1', 'p30')).inserted == 1
    assert 'unde_all' in str(e.value)


@pytest.mark.parametrize('clause, hides', [
    ('using (true)', False), ('for select using (true)', True), ('using (true) with check (false)', True),
    ('as restrictive using (price > 0)', True),
])
def test_which_policies_hide(shop, clause, hides):
    adopt(shop)
    owner(shop, POLICY + clause)
    with psycopg.connect(shop[1]) as conn: assert bool(obstacles(conn, 'catalogue')) is hides
    with psycopg.connect(shop[0]) as conn: assert obstacles(conn, 'catalogue') == []  # not from its owner


def test_adoption_stops_before_anything_is_changed(shop):
    with psycopg.connect(shop[0], autocommit=True) as conn:
        conn.execute(f'grant create, usage on schema public to {ROLE}; grant select on all tables in schema '
                     f'public to {ROLE}; grant insert, update, delete on raw_products to {ROLE}')
        conn.execute(POLICY + "using (external_id < 'p2')")
        conn.execute(f'set role {ROLE}')
        with pytest.raises(DatabaseError) as e: migrate(conn, 'catalogue')
        said = str(e.value)
        assert 'public.raw_products may hide rows' in said and 'grant insert' not in said
        assert f'grant usage on sequence public.raw_products_id_seq to {ROLE};' in said
        assert conn.execute("select to_regclass('unde_migrations')").fetchone() == (None,)
        assert 'STOPS: public.raw_products may hide rows' in dry_run(conn, 'catalogue')


FROZEN = '''create function frozen_prices() returns trigger language plpgsql as $$
    begin raise exception 'prices are frozen until Monday' using hint = 'ask the office'; end $$'''


def test_a_trigger_that_raises_is_named(shop, tmp_path):
    owner(shop, FROZEN, 'create trigger frozen before insert or update on raw_products '
                        "for each row when (new.brand = 'hm') execute function frozen_prices()")
    with psycopg.connect(shop[0]) as conn: assert 'has triggers (frozen)' in dry_run(conn, 'catalogue')
    adopt(shop)
    run = CliRunner().invoke(app, ['import', 'products', str(prices(tmp_path, 'x1'))],
                             env={'DATABASE_URL': shop[1], 'UNDE_DATA_DIR': str(tmp_path)})
    text = ' '.join(run.output.split())
    assert run.exit_code == 2 and 'a trigger of the database has refused it: prices are frozen' in text
    assert 'ask the office (function frozen_prices())' in text and 'nothing of this step was written' in text
    with psycopg.connect(shop[0]) as conn:
        assert conn.execute("select from raw_products where external_id = 'x1'").rowcount == 0


def test_a_sequence_that_was_not_granted(shop, tmp_path):
    adopt(shop, sequences=False)
    with psycopg.connect(shop[1]) as conn: (said, *_) = obstacles(conn, 'catalogue')
    with Databases(dict.fromkeys(LOGICALS, shop[1])) as db:
        with pytest.raises(psycopg.errors.InsufficientPrivilege): import_products(db, prices(tmp_path, 'x1'))
        owner(shop, said[said.index('grant usage'):])
        assert import_products(db, prices(tmp_path, 'x1')).inserted == 1


def test_log_rows_wait_for_rights_that_were_taken_away(shop, tmp_path):
    "By a revoke or by row security; they are written once that is mended, and none is lost."
    adopt(shop)
    owner(shop, 'alter table recognition_requests enable row level security')  # and no policy: nobody may
    rows = [request(item(0)) for _ in range(3)]
    with Databases(dict.fromkeys(LOGICALS, shop[1])) as db:
        with RequestLog(db, journal=Journal(tmp_path)) as log:
            for row in rows[:2]: log.put(row)
        assert (log.kept, log.lost, log.written) == (2, 0, 0)
        with RequestLog(db, journal=Journal(tmp_path)) as log: log.put(rows[2])  # still so
        assert (log.kept, log.lost) == (1, 0)
        owner(shop, 'alter table recognition_requests disable row level security')
        with RequestLog(db, journal=Journal(tmp_path)) as log: pass
        assert (log.written, log.lost) == (3, 0)
    with psycopg.connect(shop[0]) as conn:
        found = {x for (x,) in conn.execute('select id from recognition_requests')}
    assert {row.id for row in rows} <= found
