"""Photos from real servers on loopback: every fault that a host can show, the S3 protocol, and
folders that nobody climbs out of.
"""

import io
import logging
import os
import socket
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from unde_recog.media.images import ImageError
from unde_recog.settings import SettingsError, load_settings
from unde_recog.media.storage import (
    FolderStorage,
    S3Storage,
    Storage,
    check_key,
    check_url,
    collage_key,
    fetch,
    is_public,
    load_image,
    make_collage,
    open_storage,
    original_key,
    read_bytes,
)

PHOTO = io.BytesIO()
Image.new('RGB', (30, 20), 'teal').save(PHOTO, 'PNG')
PHOTO = PHOTO.getvalue()


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address): pass  # it breaks connections on purpose


class Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def log_message(self, *args): pass

    def reply(self, status, body=b'', **headers):
        self.send_response(status)
        for name, value in {'Content_Length': len(body), **headers}.items():
            self.send_header(name.replace('_', '-'), str(value))
        self.end_headers()
        self.wfile.write(body)

    def chunks(self, parts):
        self.send_response(200)
        self.send_header('Transfer-Encoding', 'chunked')
        self.end_headers()
        for part in parts: self.wfile.write(b'%x\r\n%s\r\n' % (len(part), part))
        self.wfile.write(b'0\r\n\r\n')

    def do_GET(self):
        self.server.seen.append((self.path, dict(self.headers)))
        try: self.answer(*self.path.strip('/').split('?')[0].split('/', 1))
        except (BrokenPipeError, ConnectionResetError): pass

    def answer(self, what, rest=''):
        if what == 'photo': self.reply(200, PHOTO)
        elif what == 'status': self.reply(int(rest), b'sorry')
        elif what == 'hops': self.reply(302, Location=f'/hops/{int(rest) - 1}' if int(rest) else '/photo')
        elif what == 'to': self.reply(307, Location=self.path.split('/', 2)[2])
        elif what == 'nowhere': self.reply(302)
        elif what == 'loop': self.reply(301, Location='/loop')
        elif what == 'promised': self.reply(200, b'', Content_Length=10**12)
        elif what == 'endless': self.chunks(bytes(5000) for _ in range(10_000))
        elif what == 'drip':
            self.chunks(b'x' if not self.server.released.wait(0.05) else b'' for _ in range(200))
        elif what == 'slow-headers':
            self.wfile.write(b'HTTP/1.1 200 OK\r\n')
            for i in range(200):
                if self.server.released.wait(.05): break
                self.wfile.write(b'X-%d: y\r\n' % i)
        elif what == 'open-ended':
            self.wfile.write(b'HTTP/1.1 200 OK\r\n\r\nhalf a photo')
            self.wfile.flush()
            self.server.released.wait(20)
        elif what == 'slow-hops':
            self.server.released.wait(.3)
            self.reply(302, Location='/slow-hops')
        elif what == 'silent': self.server.released.wait(20)
        elif what == 'cut':
            self.send_response(200)
            self.send_header('Content-Length', '5000')
            self.end_headers()
            self.wfile.write(bytes(100))
            self.close_connection = True
        elif what == 'reset':
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
            socket.close(self.connection.detach())
        elif what == 'garbage':
            self.wfile.write(b'\0\1\2 this is no HTTP\r\n\r\n')
            self.close_connection = True
        elif what == 'odd-length': self.reply(200, PHOTO, Content_Length='many')


@pytest.fixture(scope='module')
def server():
    with Server(('127.0.0.1', 0), Handler) as httpd:
        httpd.seen, httpd.released = [], threading.Event()
        thread = threading.Thread(target=httpd.serve_forever, args=(.05,), daemon=True)
        thread.start()
        yield httpd
        httpd.released.set()
        httpd.shutdown()


@pytest.fixture
def base(server): return f'http://127.0.0.1:{server.server_port}'


def get(url, **options): return fetch(url, **{'allow_private': True, 'timeout': 5, **options})


def kind_of(call, *args, **options):
    with pytest.raises(ImageError) as e: call(*args, **options)
    return e.value.kind


def closed_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def test_a_photo_comes_whole(base): assert get(f'{base}/photo') == PHOTO


def test_the_host_gets_its_own_name_and_no_more(base, server):
    get(base.replace('127.0.0.1', '127.1') + '/photo?size=2')
    path, headers = server.seen[-1]
    assert (
        path == '/photo?size=2'
        and headers['Host'] == f'127.1:{server.server_port}'
        and headers['User-Agent'] == 'unde-recog'
    )
    assert not {'Cookie', 'Authorization', 'Referer'} & headers.keys()


@pytest.mark.parametrize(
    ('hops', 'limit', 'arrives'),
    [(0, 1, True), (3, 4, True), (4, 4, False), (3, 5, True), (0, 0, False)],
)
def test_redirects_are_counted(base, server, hops, limit, arrives):
    before = len(server.seen)
    if arrives: assert get(f'{base}/hops/{hops}', redirects=limit) == PHOTO
    else: assert kind_of(get, f'{base}/hops/{hops}', redirects=limit) == 'refused_url'
    assert len(server.seen) - before == min(hops + 2, limit + 1)


def test_a_circle_of_redirects_ends(base): assert kind_of(get, f'{base}/loop') == 'refused_url'


def test_a_redirect_to_nowhere_is_an_error(base): assert kind_of(get, f'{base}/nowhere') == 'http_error'


@pytest.mark.parametrize(
    'target',
    [
        'file:///etc/passwd',
        'ftp://127.0.0.1/x',
        'gopher://127.0.0.1/',
        'http://user:pw@127.0.0.1/x',
        'data:image/png;base64,AAAA',
        'http://[broken/',
    ],
)
def test_a_redirect_cannot_leave_http(base, target):
    assert kind_of(get, f'{base}/to/{target}') in ('refused_url', 'http_error')


def test_a_private_address_is_refused_unless_allowed(base, server):
    before = len(server.seen)
    assert (
        kind_of(fetch, f'{base}/photo')
        == kind_of(fetch, f'{base.replace("127.0.0.1", "localhost")}/photo')
        == 'refused_url'
    )
    assert len(server.seen) == before, 'it was asked all the same'
    assert fetch(f'{base}/photo', allow_private=True) == PHOTO


def test_every_hop_is_checked_and_not_the_first_alone(base, server, monkeypatch):
    """A public host that redirects into the private network: `shop.example` is taken for public,
    through the real resolver's answer being loopback.
    """
    import unde_recog.media.storage as storage
    public = storage.is_public
    monkeypatch.setattr(storage, 'is_public', lambda ip: ip == '127.0.0.1' or public(ip))
    before = len(server.seen)
    for target in (
        f'http://127.0.0.2:{server.server_port}/photo',
        'http://169.254.169.254/latest/meta-data/',
        f'http://[::1]:{server.server_port}/photo',
        'http://10.0.0.1/',
    ):
        assert kind_of(fetch, f'{base}/to/{target}') == 'refused_url'
    assert len(server.seen) == before + 4


@pytest.mark.parametrize(
    ('path', 'kind'),
    [
        ('status/404', 'not_found'),
        ('status/410', 'not_found'),
        ('status/500', 'http_error'),
        ('status/403', 'http_error'),
        ('status/429', 'http_error'),
        ('status/304', 'http_error'),
        ('reset', 'http_error'),
        ('cut', 'truncated'),
        ('garbage', 'http_error'),
        ('odd-length', 'http_error'),
    ],
)
def test_faults_have_their_class(base, path, kind): assert kind_of(get, f'{base}/{path}') == kind


def test_a_host_that_is_away():
    assert kind_of(get, f'http://127.0.0.1:{closed_port()}/photo') == 'http_error'
    assert kind_of(get, 'http://no-such-host.invalid/x.jpg') == 'not_found'


def test_a_silent_host_and_a_dripping_one_are_timeouts(base):
    """The time is that of the whole fetch: of every hop, and of headers and bodies that come
    byte by byte.
    """
    for path in ('silent', 'drip', 'slow-headers', 'open-ended', 'slow-hops'):
        assert kind_of(get, f'{base}/{path}', timeout=0.5, redirects=50) == 'timeout'


def test_too_many_bytes_promised_or_sent(base):
    assert kind_of(get, f'{base}/promised') == 'too_large'
    assert kind_of(get, f'{base}/endless', max_bytes=100_000) == 'too_large'
    assert kind_of(get, f'{base}/photo', max_bytes=len(PHOTO) - 1) == 'too_large'
    assert get(f'{base}/photo', max_bytes=len(PHOTO)) == PHOTO


def test_many_at_once(base):
    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(lambda i: get(f'{base}/hops/{i % 3}'), range(48))) == {PHOTO}


def test_errors_of_fetch_do_not_repeat_what_stands_in_the_url(base):
    for path in ('status/404', 'status/500', 'cut', 'promised', 'loop'):
        with pytest.raises(ImageError) as e: get(f'{base}/{path}?X-Amz-Signature=pl4nted')
        assert 'pl4nted' not in str(e.value)
    with pytest.raises(ImageError) as e: get('http://me:pl4nted@127.0.0.1/x')
    assert 'pl4nted' not in str(e.value)


DISGUISES = [
    'http://2130706433/',
    'http://0x7f000001/',
    'http://0x7f.1/',
    'http://0177.0.0.1/',
    'http://127.1/',
    'http://0/',
    'http://0.0.0.0/',
    'http://127.0.0.1.:80/',
    'http://[::1]/',
    'http://[::]/',
    'http://[::ffff:127.0.0.1]/',
    'http://[::ffff:7f00:1]/',
    'http://[::ffff:10.0.0.1]/',
    'http://[0:0:0:0:0:ffff:a9fe:a9fe]/',
    'http://169.254.169.254/latest/meta-data/',
    'http://2852039166/',
    'http://0xa9fea9fe/',
    'http://[fd00:ec2::254]/',
    'http://100.64.0.1/',
    'http://100.127.255.254/',
    'http://100.100.100.200/',
    'http://10.1.2.3/',
    'http://172.16.0.1/',
    'http://172.31.255.255/',
    'http://192.168.1.1/',
    'http://192.0.0.192/',
    'http://198.18.0.1/',
    'http://224.0.0.1/',
    'http://240.0.0.1/',
    'http://255.255.255.255/',
    'http://[fe80::1]/',
    'http://[fc00::1]/',
    'http://[ff02::1]/',
    'http://[2002:7f00:1::]/',
    'http://[2002:a00:1::]/',
    'http://[64:ff9b::7f00:1]/',
    'http://[64:ff9b::a9fe:a9fe]/',
    'http://[64:ff9b:1::a00:1]/',
    'http://[::127.0.0.1]/',
    'http://localhost/',
    'http://LOCALHOST:8080/',
    'https://127.0.0.1/',
    'http://①②⑦.⓪.⓪.①/',
    'http://[fec0::1]/',
    'http://[::ffff:0:127.0.0.1]/',
    'http://[2001:0:0:0:0:0:80ff:fffe]/',
]


@pytest.mark.parametrize('url', DISGUISES)
def test_no_disguise_reaches_the_private_network(url):
    assert kind_of(check_url, url) in ('refused_url', 'not_found')


@pytest.mark.parametrize(
    'url',
    [
        '',
        'x',
        '/etc/passwd',
        'file:///etc/passwd',
        'http://',
        'http:///x',
        'https:x',
        'javascript:alert(1)',
        'http://a:b@8.8.8.8/',
        'http://u@8.8.8.8/',
        'http://8.8.8.8:99999/',
        'http://8.8.8.8:x/',
        'http://[8.8.8.8/',
        'http://exa mple\0/',
        'http://' + 'a' * 300 + '.com/',
        'http://-.invalid/',
    ],
)
def test_malformed_urls(url): assert kind_of(check_url, url) in ('refused_url', 'not_found')


@pytest.mark.parametrize(
    ('url', 'address'),
    [
        ('http://8.8.8.8/a.jpg', '8.8.8.8'),
        ('https://[2606:4700:4700::1111]/', '2606:4700:4700::1111'),
        ('http://134744072/', '8.8.8.8'),
    ],
)
def test_public_addresses_pass(url, address): assert check_url(url)[0] == address


@given(st.ip_addresses(v=4))
def test_a_mapped_address_is_judged_as_the_one_inside(ip):
    "By RFC 4291 (mapped), 3056 (6to4) and 6052 (NAT64)."
    assert is_public(f'::ffff:{ip}') == is_public(str(ip))
    n = int(ip)
    if not is_public(str(ip)):
        assert not is_public(f'2002:{n >> 16:x}:{n & 0xFFFF:x}::1') and not is_public(
            f'64:ff9b::{n >> 16:x}:{n & 0xFFFF:x}'
        )


BAD_KEYS = [
    '',
    '/etc/passwd',
    '..',
    '../x',
    'a/../../x',
    'a//b',
    'a/./b',
    './a',
    'a/',
    'a\\..\\b',
    'a\0b',
    'a\nb',
    '../' * 9 + 'etc/passwd',
]


@pytest.mark.parametrize('key', BAD_KEYS)
def test_keys_that_climb_are_refused(tmp_path, key):
    (tmp_path/'x').write_bytes(b'outside')
    storage = FolderStorage(tmp_path/'inside')
    for call in (check_key, storage.get, storage.exists, lambda k: storage.put(k, b'')):
        with pytest.raises(ValueError, match='storage key'): call(key)
    assert sorted(p.name for p in tmp_path.rglob('*')) == ['x']


@given(st.text(max_size=30), st.text(max_size=30), st.integers(0, 6))
def test_any_product_has_a_key_that_stays_inside(brand, external_id, n):
    for key in (original_key(brand, external_id, n), collage_key(brand, external_id)):
        assert check_key(key) == key and len(key.split('/')) in (3, 4)


@given(
    st.tuples(st.text(min_size=1, max_size=8), st.text(min_size=1, max_size=8)),
    st.tuples(st.text(min_size=1, max_size=8), st.text(min_size=1, max_size=8)),
)
def test_two_products_never_share_a_key(a, b):
    if a != b: assert original_key(*a, 0) != original_key(*b, 0)


def storage_contract(storage, prefix=''):
    "What every storage does, whatever it is made of."
    assert isinstance(storage, Storage)
    key = f'{prefix}originals/zara/a b%/0.jpg'
    assert not storage.exists(key) and kind_of(storage.get, key) == 'not_found'
    storage.put(key, PHOTO)
    assert storage.exists(key) and storage.get(key) == PHOTO
    storage.put(key, b'newer')
    storage.put(f'{prefix}originals/zara/ä/0.jpg', b'')
    storage.put(f'{prefix}collages/zara/1.jpg', b'c')
    assert storage.get(key) == b'newer' and storage.get(f'{prefix}originals/zara/ä/0.jpg') == b''
    assert (
        list(storage.list(f'{prefix}originals/'))
        == sorted([key, f'{prefix}originals/zara/ä/0.jpg'])
        and len(list(storage.list(prefix))) == 3
    )
    assert list(storage.list(f'{prefix}orig')) == list(
        storage.list(f'{prefix}originals/')
    ) and not list(storage.list('none/'))
    assert not storage.exists(f'{prefix}originals/zara')


def test_a_folder_keeps_the_contract(tmp_path):
    assert not list(FolderStorage(tmp_path/'absent').list())
    storage_contract(FolderStorage(tmp_path/'s'))
    assert (
        kind_of(FolderStorage(tmp_path / 's').get, 'originals/zara')
        == kind_of(FolderStorage(tmp_path / 's').get, 'collages/zara/1.jpg/0.jpg')
        == 'not_found'
    )


def test_a_reader_never_sees_half_a_photo(tmp_path):
    storage, key, sizes = FolderStorage(tmp_path), 'originals/zara/1/0.jpg', set()
    bodies = [bytes([i]) * 300_000 for i in range(4)]
    storage.put(key, bodies[0])
    stop = threading.Event()
    def read():
        while not stop.is_set(): sizes.add((lambda d: (len(d), len(set(d))))(storage.get(key)))
    reader = threading.Thread(target=read)
    reader.start()
    with ThreadPoolExecutor(4) as pool: list(pool.map(lambda i: storage.put(key, bodies[i % 4]), range(80)))
    stop.set()
    reader.join()
    assert sizes == {(300_000, 1)} and list(storage.list()) == [key]


def test_a_write_that_fails_leaves_nothing_behind(tmp_path):
    storage, key = FolderStorage(tmp_path), 'originals/zara/1/0.jpg'
    storage.put(key, PHOTO)
    with pytest.raises(TypeError): storage.put(key, 'text, not bytes')
    assert storage.get(key) == PHOTO and [p.name for p in tmp_path.rglob('*') if p.is_file()] == ['0.jpg']


def test_stored_photos_can_be_read_by_other_users(tmp_path):
    storage = FolderStorage(tmp_path)
    storage.put('a/0.jpg', PHOTO)
    mask = os.umask(0)
    os.umask(mask)
    assert (tmp_path/'a'/'0.jpg').stat().st_mode & 0o777 == 0o666 & ~mask


KEYS = {
    'aws_access_key_id': 'pl4nted-id',
    'aws_secret_access_key': 'pl4nted-secret',
    'region_name': 'us-east-1',
}


@pytest.fixture(scope='module')
def endpoint():
    from moto.server import ThreadedMotoServer
    logging.getLogger('werkzeug').setLevel(logging.ERROR)
    server = ThreadedMotoServer('127.0.0.1', 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f'http://{host}:{port}'
    server.stop()


@pytest.fixture
def bucket(endpoint):
    storage = S3Storage('unde-test', endpoint, **KEYS)
    storage.client.create_bucket(Bucket='unde-test')
    yield storage
    keys = list(storage.list())
    for i in range(0, len(keys), 1000):
        storage.client.delete_objects(
            Bucket='unde-test', Delete={'Objects': [{'Key': k} for k in keys[i : i + 1000]]}
        )
    storage.client.delete_bucket(Bucket='unde-test')


@pytest.mark.filterwarnings('ignore::Warning')
def test_a_bucket_keeps_the_contract(bucket): storage_contract(bucket)


def test_more_keys_than_one_page(bucket):
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda i: bucket.put(f'originals/zara/{i}/0.jpg', b'x'), range(1002)))
    assert len(set(bucket.list('originals/'))) == 1002


def no_secret(error): assert 'pl4nted' not in str(error) and 'pl4nted' not in repr(error)


def test_a_missing_bucket_is_told_from_a_missing_key(endpoint, bucket):
    with pytest.raises(ImageError, match='originals/zara/9/0.jpg') as e:
        bucket.get('originals/zara/9/0.jpg')
    assert e.value.kind == 'not_found'
    absent = S3Storage('unde-absent', endpoint, **KEYS)
    with pytest.raises(ImageError, match='unde-absent') as e: absent.get('a.jpg')
    assert e.value.kind == 'http_error' and 'NoSuchBucket' in str(e.value)
    no_secret(e.value)
    for call in (lambda: absent.put('a.jpg', PHOTO), lambda: list(absent.list())):
        with pytest.raises(ImageError, match='unde-absent') as e: call()
        no_secret(e.value)


def test_a_dead_endpoint_says_so():
    dead = S3Storage('unde-test', f'http://127.0.0.1:{closed_port()}', **KEYS)
    for call in (
        lambda: dead.get('a.jpg'),
        lambda: dead.put('a.jpg', PHOTO),
        lambda: dead.exists('a.jpg'),
        lambda: list(dead.list()),
    ):
        with pytest.raises(ImageError, match='S3_ENDPOINT_URL') as e: call()
        assert e.value.kind == 'http_error'
        no_secret(e.value)


def test_refused_credentials_say_so_without_showing_them():
    "A real server that answers as S3 does to a wrong key."
    class Refusing(BaseHTTPRequestHandler):
        def log_message(self, *args): pass
        def do_GET(self):
            code = b'<Code>InvalidAccessKeyId</Code><Message>no such key</Message>'
            body = b'<?xml version="1.0"?><Error>' + code + b'</Error>'
            self.send_response(403)
            self.send_header('Content-Length', str(len(body)))
            self.end_headers()
            if self.command != 'HEAD': self.wfile.write(body)
        do_HEAD = do_PUT = do_GET
    with running(Refusing) as port:
        storage = S3Storage('unde-test', f'http://127.0.0.1:{port}', **KEYS)
        for call in (
            lambda: storage.get('a.jpg'),
            lambda: storage.put('a.jpg', b''),
            lambda: storage.exists('a.jpg'),
            lambda: list(storage.list()),
        ):
            with pytest.raises(ImageError, match='unde-test') as e: call()
            assert e.value.kind == 'http_error'
            no_secret(e.value)


@contextmanager
def running(handler):
    with ThreadingHTTPServer(('127.0.0.1', 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, args=(.05,), daemon=True).start()
        yield httpd.server_port
        httpd.shutdown()


def test_no_credentials_at_all(endpoint, monkeypatch, tmp_path):
    for name in ('AWS_ACCESS_KEY_ID', 'AWS_SECRET_ACCESS_KEY', 'AWS_PROFILE'):
        monkeypatch.delenv(name, raising=False)
    for name in ('AWS_SHARED_CREDENTIALS_FILE', 'AWS_CONFIG_FILE'):
        monkeypatch.setenv(name, str(tmp_path / 'none'))
    monkeypatch.setenv('AWS_EC2_METADATA_DISABLED', 'true')
    storage = S3Storage('unde-test', endpoint, region_name='us-east-1')
    with pytest.raises(ImageError, match='credentials'): storage.get('a.jpg')


def test_the_settings_choose_the_storage(tmp_path, endpoint, monkeypatch):
    for name, value in (
        ('AWS_ACCESS_KEY_ID', 'x'),
        ('AWS_SECRET_ACCESS_KEY', 'y'),
        ('AWS_DEFAULT_REGION', 'us-east-1'),
    ):
        monkeypatch.setenv(name, value)
    assert isinstance(open_storage(load_settings(env={}, UNDE_DATA_DIR=tmp_path)), FolderStorage)
    with pytest.raises(SettingsError, match='S3_BUCKET'):
        open_storage(load_settings(env={'S3_ENDPOINT_URL': endpoint}))
    assert (
        open_storage(
            load_settings(env={'S3_ENDPOINT_URL': endpoint, 'S3_BUCKET': 'unde-test'})
        ).bucket
        == 'unde-test'
    )


def test_one_photo_by_every_road(tmp_path, base, bucket):
    (tmp_path/'p.png').write_bytes(PHOTO)
    bucket.put('originals/zara/1/0.jpg', PHOTO)
    with open(tmp_path/'p.png', 'rb') as handle:
        for source in (
            tmp_path / 'p.png',
            str(tmp_path / 'p.png'),
            PHOTO,
            bytearray(PHOTO),
            io.BytesIO(PHOTO),
            handle,
            f'{base}/photo',
            'storage:originals/zara/1/0.jpg',
            's3://unde-test/originals/zara/1/0.jpg',
        ):
            assert load_image(source, storage=bucket, allow_private=True).getpixel((3, 3)) == (0, 128, 128)


@pytest.mark.parametrize(
    ('source', 'kind'),
    [
        ('absent.jpg', 'not_found'),
        ('.', 'not_found'),
        ('a\0b', 'not_found'),
        ('ftp://x/y.jpg', 'refused_url'),
        ('file:///etc/passwd', 'refused_url'),
        ('storage:x/0.jpg', 'not_found'),
        (b'', 'not_an_image'),
        (io.BytesIO(b'<html>'), 'not_an_image'),
        (b'x' * 101, 'too_large'),
        (io.BytesIO(bytes(101)), 'too_large'),
    ],
)
def test_bad_sources(source, kind): assert kind_of(load_image, source, max_bytes=100) == kind


def test_a_file_larger_than_the_limit(tmp_path):
    (tmp_path/'big.jpg').write_bytes(bytes(101))
    assert (
        kind_of(read_bytes, tmp_path / 'big.jpg', max_bytes=100) == 'too_large'
        and len(read_bytes(tmp_path / 'big.jpg', max_bytes=101)) == 101
    )


def test_a_stored_key_cannot_climb(tmp_path):
    with pytest.raises(ValueError, match='storage key'):
        read_bytes('storage:../../etc/passwd', storage=FolderStorage(tmp_path))


def test_an_s3_address_of_another_bucket_is_not_read_from_ours(bucket):
    bucket.put('a/0.jpg', PHOTO)
    assert kind_of(read_bytes, 's3://another-bucket/a/0.jpg', storage=bucket) == 'refused_url'


@given(st.lists(st.tuples(st.integers(1, 90), st.integers(1, 90)), min_size=1, max_size=6))
def test_collages_hold_every_photo_at_one_height(sizes):
    page = make_collage([Image.new('RGB', s) for s in sizes], height=40)
    assert page.height == 40 and page.width == sum(max(1, round(w * 40 / h)) for w, h in sizes)
