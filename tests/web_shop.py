"A drawn shop behind a real server, for the tests of the service."
import contextlib
import os
import zlib
from datetime import date

import httpx
import psycopg

from unde_recog.catalogue.imports import import_products, import_stores
from unde_recog.catalogue.stock import import_availability
from unde_recog.db.database import LOGICALS, Databases
from unde_recog.embedder import load_embedder
from unde_recog.media.images import to_jpeg
from unde_recog.jobs.index import index_catalogue
from unde_recog.recognizer import Recognizer
from unde_recog.request_log import RequestLog
from unde_recog.serving import Running, make_app
from unde_recog.session import Session, own_parts
from unde_recog.settings import load_settings
from unde_recog.media.storage import FolderStorage
from unde_recog.wardrobe.world import World

from tests.conftest import sibling


class Shop:
    "A world, imported and indexed in a database of its own."

    def __init__(self, server_url, template, folder, name, skus=24):
        # two runs at once do not meet; conftest clears away what a killed one leaves
        name = f'test_{os.getpid()}_{zlib.crc32(name.encode())}'
        self.server_url, self.name, self.folder = server_url, name, folder
        with psycopg.connect(server_url, autocommit=True) as conn:
            conn.execute(f'drop database if exists {name} with (force)')
            conn.execute(f'create database {name} template {template}')
        self.url, self.world = sibling(server_url, name), World(seed=5, skus=skus)
        self.world.write(folder, views=('front', 'on_model'), day=date.today())
        self.data = folder/'data'
        self.storage = FolderStorage(self.data/'storage')
        with self.db() as db:
            import_products(db, folder/'products.csv', images=folder/'images', storage=self.storage)
            import_stores(db, folder/'stores.csv')
            import_availability(db, folder/'availability.csv')
            index_catalogue(db, load_embedder(preset='batch'), storage=self.storage)
        self.mall = self.world.mall_names[0]

    def db(self): return Databases(dict.fromkeys(LOGICALS, self.url))

    def settings(self, **values):
        return load_settings(
            env={}, **({'DATABASE_URL': self.url, 'UNDE_DATA_DIR': self.data} | values)
        )

    def photo(self, n=0, view='front'): return to_jpeg(self.world.photo(self.world.keys[n], view))

    @contextlib.contextmanager
    def session(self, plug=None, **values):
        "A session whose parts may be replaced."
        settings, db = self.settings(**values), self.db()
        parts = own_parts(settings, db)
        session = Session(
            Recognizer(
                settings,
                db,
                plug(parts) if plug else parts,
                log=RequestLog(db),
                storage=self.storage,
            )
        )
        try: yield session
        finally: session.close()

    @contextlib.contextmanager
    def running(self, role='app', session=None, heartbeat=5., **values):
        "(client, server) of a running application that is ready."
        with Running(
            make_app(self.settings(**values), role=role, session=session, heartbeat=heartbeat)
        ) as server:
            server.wait_ready(30)
            with httpx.Client(base_url=server.url, timeout=30) as client: yield client, server

    def log(self, query, *args):
        with psycopg.connect(self.url, autocommit=True) as conn: return conn.execute(query, args).fetchall()

    def drop(self):
        with psycopg.connect(self.server_url, autocommit=True) as conn:
            conn.execute(f'drop database if exists {self.name} with (force)')


def events(response, on_comment=lambda: None):
    "[(event, data)] of a stream that is read to its end; `on_comment` is called at each heartbeat."
    import json
    found, kind = [], None
    for line in response.iter_lines():
        if line.startswith('event: '): kind = line[7:]
        elif line.startswith('data: '): found.append((kind, json.loads(line[6:])))
        elif line.startswith(':'):
            found.append(('comment', line))
            on_comment()
    return found
