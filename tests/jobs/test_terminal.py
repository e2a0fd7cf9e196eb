"A run as a person sees it: a real terminal (a pty), rate, time left, failures, Ctrl+C."
import contextlib
import itertools
import os
import pty
import re
import select
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image
from psycopg.types.json import Jsonb

from unde_recog.media.images import to_jpeg

PRODUCTS = 60


@pytest.fixture
def photos():
    """(address, ready, stopped) of a server of photos, a tenth missing; half of them wait for the event
    `ready`, and then take their time until the event `stopped`."""
    body, ready, stopped = to_jpeg(Image.new('RGB', (60, 90), 'navy')), threading.Event(), threading.Event()
    asked = itertools.count()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if next(asked) >= PRODUCTS/2:
                ready.wait(60)
                stopped.wait(2)  # Ctrl+C may reach the run late
            self.send_response(404 if self.path.endswith('0.jpg') else 200)
            self.send_header('Content-Length', str(len(body)))
            self.end_headers()
            with contextlib.suppress(OSError): self.wfile.write(body)
        def log_message(self, *args): pass
    server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}', ready, stopped
    ready.set()
    stopped.set()
    server.shutdown()
    server.server_close()


def in_terminal(words, env, stop_at=None, then=lambda: None):
    """(screens, exit code) of a command in a terminal; Ctrl+C is pressed once `stop_at` was seen, and
    `then` called."""
    pid, fd = pty.fork()
    if pid == 0:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # as in a shell; background jobs ignore it
        os.execvpe(words[0], words, env)
    said, pressed, ends = '', False, time.monotonic() + 90
    while time.monotonic() < ends:
        if not select.select([fd], [], [], .2)[0]: continue
        try: got = os.read(fd, 65536)
        except OSError: break
        if not got: break
        said += re.sub(r'\x1b\[[0-9;?]*[A-Za-z]', '', got.decode(errors='replace'))
        if stop_at and not pressed and re.search(stop_at, said):
            os.write(fd, b'\x03')
            pressed = True
            then()
    else: os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    os.close(fd)
    return [line for line in re.split(r'[\r\n]+', said) if line.strip()], os.waitstatus_to_exitcode(status)


def test_a_run_in_a_terminal(db, fresh_url, tmp_path, photos):
    address, ready, stopped = photos
    with db.connect('catalogue') as conn, conn.cursor() as cursor:
        cursor.executemany(
            'insert into raw_products (source, brand, external_id, image_urls, image_views) '
            "values ('s', 'hm', %s, %s, '[\"front\"]')",
            [(f'p{n}', Jsonb([f'{address}/{n}.jpg'])) for n in range(PRODUCTS)],
        )
    kept = {k: v for k, v in os.environ.items() if k not in ('COLUMNS', 'LINES', 'NO_COLOR')}
    env = kept | {'DATABASE_URL': fresh_url, 'UNDE_DATA_DIR': str(tmp_path), 'ALLOW_PRIVATE_URLS': 'true',
                  'TERM': 'xterm', 'COLUMNS': '110'}
    program = [sys.executable, '-c', 'from unde_recog.cli import app; app()']
    words = [*program, 'photos', 'run', '--rate', '40']
    # what is under way is waited for
    lines, code = in_terminal(words, env, stop_at=r'[23]\d/60', then=ready.set)
    stopped.set()
    done = re.search(r'photos: stopped at (\d+) of 60; the next run goes on', '\n'.join(lines))
    assert code == 130 and int(done[1]) < 60
    lines, code = in_terminal(words, env)
    bars = [line for line in lines if '━' in line]
    assert any(re.search(r' \d+(\.\d)?/s, \d+ s left, \d failed', line) for line in bars)
    assert {line.split('━')[0].split('╸')[0].strip() for line in bars} == {'photos', 'photos: collages'}
    assert not any('e+' in line for line in bars) and 'collages made' in '\n'.join(lines)
    rows = [line for line in lines if 'photos: collages' in line][-1]
    assert '54/54' in rows and code == 3  # a tenth was not there
    lines, code = in_terminal([*program, 'jobs', '--metrics'], env)
    assert {'unde_job_state{job="photos",state="failed"} 1',
            'unde_job_done{job="photos",what="collages made"} 54'} <= set(lines)
    assert any(line.startswith('unde_job_started_timestamp_seconds{job="photos"} ') for line in lines)
    assert any(line.startswith('unde_job_failed{job="photos",kind="not_found"} ') for line in lines)
