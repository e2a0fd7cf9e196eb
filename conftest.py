"""Notebook examples as pytest items: an example cell is a test, with the cells before it as its set-up.

`pytest nbs/044_search.ipynb -k cell_7`, `-n2` and the count at the end work as for any other test.
Cells flagged `gpu` or `notest` are left out; `db` and `slow` ones run here (plain nbdev-test skips them).
Notebooks are found in nbs/, flat.
"""
import hashlib
import logging
import os
import tempfile
from functools import lru_cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent
_SKIP = ['notest', 'gpu']


def tests_folder() -> Path:
    "A data folder of the tests' own, one a checkout; as root where the server's user can read it."
    base = Path('/var/lib') if hasattr(os, 'geteuid') and os.geteuid() == 0 else Path(tempfile.gettempdir())
    return base/('unde-test-' + hashlib.sha256(str(ROOT).encode()).hexdigest()[:12])


def pytest_configure(config):
    os.environ['UNDE_DATA_DIR'] = os.environ.get('UNDE_TEST_DIR') or str(tests_folder())
    from unde_recog.settings import Settings
    # a developer's own keys and servers are never used
    for name in {*Settings.model_fields, 'UNDE_SETTINGS'} - {'UNDE_DATA_DIR'}: os.environ.pop(name, None)
    # on a busy machine nothing may be left out for want of time; a test about the deadline sets its own
    Settings.model_fields['REQUEST_DEADLINE'].default = '60s'
    Settings.model_rebuild(force=True)


@lru_cache
def keep_server():
    """Start the notebooks' PostgreSQL and keep it until this process ends, else every cell that opens
    the databases starts it. Its data need not survive a power cut."""
    from unde_recog.db.embedded import start_embedded
    from unde_recog.settings import load_settings
    folder = Path(os.environ['UNDE_DATA_DIR'])
    folder.mkdir(parents=True, exist_ok=True)
    (folder/'postgres.conf').write_text('fsync = off\nsynchronous_commit = off\nfull_page_writes = off\n')
    return start_embedded(load_settings())


def pytest_collect_file(file_path, parent):
    if file_path.suffix == '.ipynb' and file_path.parent == ROOT/'nbs':
        return Notebook.from_parent(parent, path=file_path)


class Notebook(pytest.File):
    def collect(self):
        from nbdev.test import nb_test_cells
        self.cells, self.done, self.shell, self.failed = nb_test_cells(self.path, _SKIP), 0, None, None
        self.levels: dict[str, int] = {}
        exported = {'export', 'exporti', 'exports', 'default_exp'}
        flags = [(getattr(c, 'directives_', None) or {}).keys() for c in self.cells]
        self.needs_server = any('db' in flag for flag in flags)
        examples = [i for i, flag in enumerate(flags) if not exported & flag]
        for i in examples: yield Example.from_parent(self, name=f'cell_{self.cells[i].idx_}', index=i)

    def run_to(self, index):
        from execnb.shell import CaptureShell
        here = Path.cwd()
        os.chdir(self.path.parent)
        try:
            if self.shell is None:
                if self.needs_server: keep_server()
                self.shell = CaptureShell(self.path, mpl_format='png', timeout=280)
                self.levels = {
                    name: logging.getLogger(name).level
                    for name in ('', *logging.root.manager.loggerDict)
                }
            while self.done <= index and self.failed is None:
                cell, self.done = self.cells[self.done], self.done + 1
                self.shell.run(cell.source)
                if self.shell.exc: self.failed = CellError(cell.source, self.shell.prettytb())
        finally: os.chdir(here)
        if self.failed: raise self.failed

    def teardown(self):
        if self.shell is None: return
        self.shell.close()
        # a page that hushes warnings hushes them for itself
        for name in ('', *logging.root.manager.loggerDict):
            logging.getLogger(name).setLevel(self.levels.get(name, logging.NOTSET))


class CellError(Exception): pass


class Example(pytest.Item):
    def __init__(self, *, index, **kw):
        super().__init__(**kw)
        self.index = index

    def runtest(self): self.parent.run_to(self.index)
    def repr_failure(self, excinfo):
        if isinstance(excinfo.value, CellError): return '\n'.join(map(str, excinfo.value.args))
        return super().repr_failure(excinfo)

    def reportinfo(self): return self.path, None, f'{self.path.name}::{self.name}'
