"The embedded PostgreSQL with real processes: shared, killed, left, broken."
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import psycopg
import pytest

from unde_recog.embedded import EmbeddedError, is_alive, start_embedded
from unde_recog.settings import SettingsError, load_settings

USER = '''
import sys, psycopg
from unde_recog.embedded import start_embedded
from unde_recog.settings import load_settings
handle = start_embedded(load_settings(env={}, UNDE_DATA_DIR=sys.argv[1]))
with psycopg.connect(handle.url, autocommit=True) as conn: conn.execute('create table if not exists seen (pid int); insert into seen select pg_backend_pid()')
print('ready', flush=True)
sys.stdin.readline()
'''


@pytest.fixture
def folder(settings):
    "A data folder of this test's own, beside the tests' one."
    import shutil
    import uuid
    place = Path(settings.UNDE_DATA_DIR).with_name(f'unde-e-{uuid.uuid4().hex[:8]}')
    place.mkdir(mode=0o755)
    yield place
    for p in psutil.process_iter(['cmdline']):
        if f'{place}/postgres' in (p.info['cmdline'] or []): p.kill()
    shutil.rmtree(place, ignore_errors=True)


def user(folder):
    p = subprocess.Popen([sys.executable, '-c', USER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    line = p.stdout.readline()
    assert line == 'ready\n', p.stderr.read()
    return p


def leave(p):
    p.stdin.write('\n')
    p.stdin.flush()
    assert p.wait(30) == 0


def postmaster(folder): return int((folder/'postgres'/'postmaster.pid').read_text().split()[0])


def stopped(folder, patience=30):
    end = time.monotonic() + patience
    while time.monotonic() < end:
        if not (folder/'postgres'/'postmaster.pid').exists(): return True
        time.sleep(.1)
    return False


def test_two_processes_share_one_server_and_the_last_one_stops_it(folder):
    a, b = user(folder), user(folder)
    first = postmaster(folder)
    leave(a)
    assert psutil.pid_exists(first) and postmaster(folder) == first
    leave(b)
    assert stopped(folder)


def test_a_killed_user_does_not_keep_the_server_alive(folder):
    a, b = user(folder), user(folder)
    a.send_signal(signal.SIGKILL)
    a.wait()
    leave(b)
    assert stopped(folder)


def test_after_all_users_were_killed_the_next_one_joins_and_stops_it(folder):
    a, b = user(folder), user(folder)
    for p in (a, b): p.kill(); p.wait()
    server = postmaster(folder)
    c = user(folder)
    assert postmaster(folder) == server  # joined, not started anew
    leave(c)
    assert stopped(folder)


def test_a_killed_server_comes_back_with_its_data(folder):
    a = user(folder)
    settings = load_settings(env={}, UNDE_DATA_DIR=folder)
    with start_embedded(settings) as handle:
        os.kill(postmaster(folder), signal.SIGKILL)
        end = time.monotonic() + 30
        while is_alive(postmaster(folder)) and time.monotonic() < end: time.sleep(.1)
        with start_embedded(settings) as again, psycopg.connect(again.url) as conn:
            assert conn.execute('select count(*) from seen').fetchone() == (1,)
        with psycopg.connect(handle.url) as conn: assert conn.execute('select 1').fetchone() == (1,)  # the older handle follows
    a.kill(); a.wait()


def test_half_written_list_and_foreign_pid_file(folder):
    leave(user(folder))
    (folder/'postgres'/'.handle_pids.json').write_text('[1')
    (folder/'postgres'/'postmaster.pid').write_text(f'{os.getpid()}\n{folder}/postgres\n1\n5432\n{folder}/postgres\n\n  1 1\nready\n')
    leave(user(folder))
    assert stopped(folder)


def test_handles_of_one_process_are_counted(folder):
    settings = load_settings(env={}, UNDE_DATA_DIR=folder)
    one, two = start_embedded(settings), start_embedded(settings)
    one.release(); one.release()
    with psycopg.connect(two.url) as conn: conn.execute('select 1')
    two.release()
    assert stopped(folder)
    with pytest.raises(EmbeddedError, match='released'): _ = two.url


def test_users_options_are_read_last(folder):
    (folder/'postgres.conf').write_text("work_mem = '7MB'\nmax_connections = 33\n")
    with start_embedded(load_settings(env={}, UNDE_DATA_DIR=folder)) as handle, psycopg.connect(handle.url) as conn:
        assert conn.execute("select current_setting('work_mem'), current_setting('max_connections'), current_setting('jit')").fetchone() == ('7MB', '33', 'off')


def test_another_major_version_is_refused(folder):
    (folder/'postgres').mkdir()
    (folder/'postgres'/'PG_VERSION').write_text('16\n')
    with pytest.raises(EmbeddedError, match='PostgreSQL 16'): start_embedded(load_settings(env={}, UNDE_DATA_DIR=folder))


@pytest.mark.skipif(not hasattr(os, 'geteuid') or os.geteuid() != 0, reason='only root could widen the permissions of others')
def test_root_never_opens_a_home(tmp_path):
    home = tmp_path/'home'
    home.mkdir(mode=0o700)
    with pytest.raises(SettingsError, match='/var/lib'): start_embedded(load_settings(env={}, UNDE_DATA_DIR=home/'data'))
    assert home.stat().st_mode & 0o777 == 0o700 and not (home/'data'/'postgres').exists()
