"Leases between real processes: held, named, taken over from the dead, lost by the stopped."

import os
import signal
import subprocess
import sys
import time

import pytest

from unde_recog.db.leases import Lease, LeaseHeld, LeaseLost, hold, holder_name, is_gone, take

HOLD = '''
import sys, time
from unde_recog.db.connection import LOGICALS
from unde_recog.db.database import Databases
from unde_recog.db.leases import hold
with Databases(dict.fromkeys(LOGICALS, sys.argv[1])) as db, hold(db, 'log', 'work', job='a holder', ttl=3):
    print('held', flush=True)
    time.sleep(600)
'''


@pytest.fixture
def holder(fresh_url):
    process = subprocess.Popen([sys.executable, '-c', HOLD, fresh_url], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == 'held\n'
    yield process
    if process.poll() is None: os.kill(process.pid, signal.SIGCONT)
    process.kill()
    process.wait()


def test_the_holder_is_named_and_a_killed_one_is_succeeded_at_once(db, holder):
    with db.connect('log') as conn:
        with pytest.raises(LeaseHeld, match=f'work is held by a holder .*process {holder.pid} since'):
            take(conn, 'work', holder_name('me'))
        holder.kill()
        holder.wait()
        take(conn, 'work', holder_name('me'))


def test_a_stopped_holder_is_succeeded_after_a_while_and_finds_out(db, holder):
    os.kill(holder.pid, signal.SIGSTOP)
    with db.connect('log') as conn:
        (old,) = conn.execute("select holder from unde_leases where name = 'work'").fetchone()
        with pytest.raises(LeaseHeld): take(conn, 'work', holder_name('me'), ttl=600)
        ends = time.monotonic() + 60
        while time.monotonic() < ends:
            try: take(conn, 'work', holder_name('me'), ttl=1)
            except LeaseHeld: time.sleep(.1)
            else: break
        stopped = Lease(db.urls['log'], 'work', old, 600)
        with pytest.raises(LeaseLost, match='taken over by me'): stopped.check(conn)
        stopped.stop()


def test_a_lease_is_renewed_and_given_back(db):
    beat = "select beat_at > taken_at from unde_leases where name = 'work'"
    with hold(db, 'log', 'work', job='me', ttl=1) as lease, db.connect('log') as conn:
        while conn.execute(beat).fetchone() != (True,): time.sleep(.05)
        with pytest.raises(LeaseHeld): take(conn, 'work', holder_name('another'), ttl=5)
        with conn.transaction(): lease.check(conn)
    with db.connect('log') as conn: take(conn, 'work', holder_name('another'))


def test_nobody_takes_it_while_its_holder_writes(db):
    "The row is locked until the writer's transaction ends, however long ago the last beat was."
    import psycopg
    with hold(db, 'log', 'work', job='me', ttl=600) as lease, db.connect('log') as conn, conn.transaction():
        lease.check(conn)
        with psycopg.connect(db.urls['log'], autocommit=True, options='-c lock_timeout=200') as other:
            with pytest.raises(psycopg.errors.LockNotAvailable):
                take(other, 'work', holder_name('another'), ttl=-1)


def test_a_process_number_used_again_is_another_process():
    mine = holder_name('me')
    assert not is_gone(mine) and is_gone(
        mine.replace(f'process {os.getpid()}.', f'process {os.getpid()}.9')
    )
    assert not is_gone('somebody wrote this by hand')
