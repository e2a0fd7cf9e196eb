"Calls to vendors against a real server on a loopback socket: every fault is named, the pool is idle after."

import asyncio
import gzip
import json
import logging
import pickle
import random
import traceback

import pytest
from hypothesis import given, settings as how, strategies as st

from unde_recog.vendors.calls import (
    MIN_TIMEOUT,
    Breaker,
    Guard,
    Limiter,
    RetryBudget,
    VendorError,
    call,
    kind_of_status,
    pause_before,
    retry_after,
    safe_code,
)
from unde_recog.vendors.http import Http, http_error

TOKEN = 'planted-8a5f7c21-secret'
SLOW = 60.  # longer than anything here waits


class Server:
    """HTTP/1.1 on loopback. `answer(method, path, headers, body)` → (status, object or bytes[, headers]);
    `faults` are used up first, one a request."""

    def __init__(self, answer=None):
        self.answer = answer or (lambda *a: (200, {'well': 1}))
        self.faults, self.always, self.requests, self.tasks = [], None, [], set()

    async def __aenter__(self):
        self.server = await asyncio.start_server(self._serve, '127.0.0.1', 0)
        self.url = f'http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}/'
        return self

    async def __aexit__(self, *exc):
        self.server.close()
        for t in self.tasks: t.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def _serve(self, reader, writer):
        task = asyncio.current_task()
        self.tasks.add(task)
        try:
            while line := await reader.readline():
                method, path, _ = line.decode().split()
                headers = {}
                while h := (await reader.readline()).decode().strip():
                    headers[h.partition(':')[0].lower()] = h.partition(':')[2].strip()
                body = await reader.readexactly(int(headers.get('content-length', 0)))
                self.requests.append((method, path, headers, json.loads(body) if body else None))
                fault = self.faults.pop(0) if self.faults else self.always
                if not await self._reply(writer, fault, self.requests[-1]): break
        except (ConnectionError, asyncio.IncompleteReadError): pass
        except asyncio.CancelledError: pass
        finally:
            self.tasks.discard(task)
            writer.close()

    async def _reply(self, writer, fault, request):
        async def send(data):
            writer.write(data)
            await writer.drain()
        def whole(status, body, headers=()):
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            lines = [
                f'HTTP/1.1 {status} X',
                f'Content-Length: {len(data)}',
                *(f'{k}: {v}' for k, v in headers),
            ]
            return ('\r\n'.join(lines) + '\r\n\r\n').encode() + data
        match fault:
            case None:
                status, body, *more = self.answer(*request)
                await send(whole(status, body, more[0] if more else ()))
            case int(): await send(whole(fault, {'status': {'code': fault, 'text': f'no: {request[2]}'}}))
            case (int() as status, dict() as headers):
                await send(whole(status, {'detail': f'{request[2]}'}, headers.items()))
            case (int() as status, bytes() as raw): await send(whole(status, raw))
            case 'hang': await asyncio.sleep(SLOW)
            case 'slow headers':
                for piece in [b'HTTP/1.1 200 OK\r\n', *[f'X-{i}: y\r\n'.encode() for i in range(2000)]]:
                    await send(piece)
                    await asyncio.sleep(.03)
            case 'slow body':
                await send(b'HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n')
                for _ in range(2000):
                    await send(b' ')
                    await asyncio.sleep(.03)
            case 'reset':
                writer.transport.abort()
                return False
            case 'reset mid-body':
                await send(b'HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n{"well"')
                writer.transport.abort()
                return False
            case 'close':
                return False
            case 'close after':
                await send(whole(200, {'well': 1}))
                return False
            case 'not http':
                await send(b'SSH-2.0-OpenSSH_9.2\r\n\r\n')
                return False
            case 'packed': await send(whole(200, gzip.compress(b'{}'), [('Content-Encoding', 'gzip')]))
            case 'long': await send(whole(200, b'[' + b'1,'*100_000 + b'1]'))
            case _: raise AssertionError(fault)
        return True


async def settled(http):
    "Whether the client comes to rest."
    for _ in range(200):
        if http.idle: return True
        await asyncio.sleep(.01)
    return False


FAULTS = [
    (500, None),
    ('hang', 'timeout'),
    ('slow headers', 'timeout'),
    ('slow body', 'timeout'),
    ('reset', 'unavailable'),
    ('reset mid-body', 'unavailable'),
    ('close', 'unavailable'),
    ('not http', 'bad_answer'),
    ('packed', 'bad_answer'),
    ('long', 'bad_answer'),
    ('close after', None),
]


@pytest.mark.parametrize('fault,kind', FAULTS, ids=[str(f) for f, _ in FAULTS])
def test_every_fault_has_a_name_and_leaves_nothing_behind(fault, kind):
    async def main():
        async with Server() as server:
            http = Http(
                'somebody',
                server.url,
                headers={'Authorization': f'Token {TOKEN}'},
                size=2,
                max_bytes=100_000,
            )
            sent, patience = [], 1 if kind == 'timeout' else 10
            for _ in range(3):
                server.faults = [fault]
                try:
                    got = (
                        await http.request(
                            'POST', 'x', body={'a': 1}, timeout=patience, sent=lambda: sent.append(1)
                        )
                    ).status
                except VendorError as e:
                    got = e.kind
                assert got == (kind or (500 if fault == 500 else 200))
            assert await settled(http)
            assert (await http.request('GET', 'x', timeout=5)).json() == {'well': 1}
            assert len(sent) == 3 and len(server.requests) == 4
            assert await settled(http)
            await http.aclose()
    asyncio.run(main())


@pytest.mark.parametrize('seed', range(4))
def test_the_pool_survives_churn(seed):
    "Pool of 10, 40 callers at once who are cancelled or time out at any moment; then 5 of 5 requests work."
    async def main():
        rng = random.Random(seed)
        async with Server() as server:
            http, sent = Http('somebody', server.url, size=10), []
            for _ in range(4):
                server.always = rng.choice(['hang', 'slow headers', 'slow body', None])
                tasks = [
                    asyncio.create_task(
                        http.request(
                            'POST',
                            'x',
                            body={},
                            timeout=rng.choice([0.02, 0.05, SLOW]),
                            sent=lambda: sent.append(1),
                        )
                    )
                    for _ in range(40)
                ]
                order = rng.sample(tasks, 40)
                for task in order:
                    if rng.random() < .5: await asyncio.sleep(rng.random()*.005)
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            server.always = None
            assert await settled(http)
            assert [(await http.request('GET', 'x', timeout=5)).status for _ in range(5)] == [200]*5
            assert await settled(http)
            assert (
                len(await asyncio.gather(*(http.request('GET', 'x', timeout=5) for _ in range(40))))
                == 40
            )
            assert await settled(http)
            await http.aclose()
    asyncio.run(main())


def test_no_more_connections_than_permits():
    async def main():
        async with Server() as server:
            http = Http('somebody', server.url, size=3)
            server.always = 'hang'
            tasks = [asyncio.create_task(http.request('GET', 'x', timeout=3)) for _ in range(12)]
            while len(server.requests) < 3 and not all(t.done() for t in tasks): await asyncio.sleep(.01)
            assert len(server.requests) == 3
            assert all(
                isinstance(e, VendorError) and e.kind == 'timeout'
                for e in await asyncio.gather(*tasks, return_exceptions=True)
            )
            assert await settled(http) and len(server.requests) == 3
            await http.aclose()
    asyncio.run(main())


def test_one_client_serves_several_event_loops():
    async def main():
        async with Server() as server:
            http = Http('somebody', server.url)
            assert (await http.request('GET', 'x', timeout=5)).status == 200
            inner = await asyncio.to_thread(lambda: asyncio.run(http.request('GET', 'x', timeout=5)))
            assert inner.status == 200 and (await http.request('GET', 'x', timeout=5)).status == 200
            await http.aclose()
            # closed is not dead: it connects anew
            assert (await http.request('GET', 'x', timeout=5)).status == 200
            await http.aclose()
    asyncio.run(main())


def test_the_token_is_shown_nowhere(caplog):
    caplog.set_level(logging.DEBUG)
    seen = []
    async def main():
        async with Server() as server:
            http = Http('somebody', server.url, headers={'Authorization': f'Token {TOKEN}'})
            seen.extend(
                [
                    repr(http),
                    repr(
                        Http(
                            'somebody',
                            server.url.replace('http://', f'http://user:{TOKEN}@')
                            + f'?key={TOKEN}',
                        )
                    ),
                ]
            )
            for fault in [
                401,
                500,
                (403, {'X': 'y'}),
                (200, TOKEN.encode()),
                'hang',
                'reset',
                'not http',
                'slow body',
            ]:
                server.faults = [fault, fault]
                async def attempt(left):
                    reply = await http.request('POST', 'x', body={'_base64': TOKEN}, timeout=left)
                    if kind := kind_of_status(reply.status):
                        raise VendorError('somebody', kind, code=reply.json().get('detail'))
                    return reply.json()
                try:
                    await call('somebody', attempt, timeout=0.3)
                except VendorError as e:
                    seen.extend(
                        [
                            repr(e),
                            str(e),
                            ''.join(traceback.format_exception(e)),
                            repr(vars(e)),
                            repr(e.__cause__),
                        ]
                    )
                else: raise AssertionError(fault)
            await http.aclose()
    asyncio.run(main())
    assert len(seen) > 30
    logged = [r.getMessage() for r in caplog.records]
    # the libraries did log, at their most talkative
    assert any('send_request_headers' in t for t in logged)
    assert not [t for t in seen + logged if TOKEN in t]


def test_only_safe_words_of_a_vendor_get_into_an_error():
    for code in (
        'Token abc',
        TOKEN,
        'a' * 50,
        'A' * 50,
        '<html>',
        '12345678',
        'https://x/?k=v',
        True,
        None,
        {'a': 1},
    ):
        assert safe_code(code) == ''
    assert safe_code(429) == '429' and safe_code('RESOURCE_EXHAUSTED') == 'RESOURCE_EXHAUSTED'
    error = VendorError('somebody', 'refused', 'at https://user:pw@host/?key=1', retry_after=2., code=400)
    again = pickle.loads(pickle.dumps(error))
    assert (
        str(again) == str(error)
        and 'pw' not in str(error)
        and (again.kind, again.retry_after, again.code) == ('refused', 2.0, '400')
    )


# ---- breaker, limiter, retries

@given(st.lists(st.tuples(st.sampled_from(['ok', 'fail', 'gone', 'wait']), st.floats(0, 12))))
@how(max_examples=200, deadline=None)
def test_the_breaker_never_lets_a_second_probe_go_and_never_stays_shut(steps):
    now = [0.]
    breaker, row, last = Breaker(clock=lambda: now[0]), 0, None
    for what, pause in steps:
        now[0] += pause
        allowed = breaker.allow()
        assert allowed == (row < 5 or now[0] - last >= 10)
        if not allowed: continue
        if row >= 5: assert not breaker.allow()  # the probe is out
        if what == 'ok': breaker.succeeded(); row = 0
        elif what == 'fail': breaker.failed(); row += 1; last = now[0]
        else: breaker.abandoned()
    now[0] += 10.001
    assert breaker.allow()


@given(st.floats(.5, 50), st.integers(1, 10), st.lists(st.floats(0, 2), max_size=40))
@how(max_examples=200, deadline=None)
def test_the_limiter_keeps_its_rate(rate, burst, pauses):
    now = [0.]
    async def main():
        limiter, taken = Limiter(rate, burst, clock=lambda: now[0]), 0
        for pause in pauses:
            now[0] += pause
            while await limiter.acquire(0.): taken += 1
            assert taken <= burst + rate*now[0] + 1e-6
    asyncio.run(main())


def test_the_limiter_takes_nothing_from_who_cannot_wait():
    async def main():
        limiter = Limiter(1, 1)
        assert await limiter.acquire(0) and not await limiter.acquire(.01)
        waiting = asyncio.create_task(limiter.acquire(SLOW))
        await asyncio.sleep(.01)
        before = limiter._tokens
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert limiter._tokens == before + 1
    asyncio.run(main())
    with pytest.raises(ValueError, match='positive'): Limiter(0)


def scripted(*outcomes):
    "An attempt that goes through `outcomes`, then succeeds; and how often it was asked."
    left, asked = list(outcomes), []
    async def attempt(seconds):
        asked.append(seconds)
        if left and (o := left.pop(0)): raise o
        return 'well'
    return attempt, asked


@pytest.mark.parametrize(
    'kind,times',
    [
        ('unavailable', 2),
        ('rate_limited', 2),
        ('auth', 1),
        ('no_credit', 1),
        ('bad_answer', 1),
        ('refused', 1),
        ('timeout', 1),
    ],
)
def test_only_what_may_pass_is_tried_again(kind, times):
    attempt, asked = scripted(VendorError('v', kind))
    async def main():
        if times == 2: assert await call('v', attempt, timeout=5) == 'well'
        else:
            with pytest.raises(VendorError) as e: await call('v', attempt, timeout=5)
            assert e.value.kind == kind
    asyncio.run(main())
    assert len(asked) == times


def test_retry_after_is_obeyed_if_it_fits_and_believed_if_not():
    async def main():
        attempt, asked = scripted(VendorError('v', 'rate_limited', retry_after=.05))
        assert (
            await call('v', attempt, timeout=5) == 'well'
            and len(asked) == 2
            and asked[1] <= asked[0] - 0.05
        )
        attempt, asked = scripted(VendorError('v', 'rate_limited', retry_after=30))
        with pytest.raises(VendorError) as e: await call('v', attempt, timeout=5)
        assert e.value.kind == 'rate_limited' and len(asked) == 1
    asyncio.run(main())
    assert (
        pause_before(VendorError('v', 'unavailable'), 1) > 0
        and retry_after('Wed, 21 Oct 2015 07:28:00 GMT') == 0
    )


def test_a_sick_vendor_is_not_asked_twice_as_often():
    asked = []
    async def sick(left):
        asked.append(left)
        raise VendorError('v', 'rate_limited', retry_after=0.)
    async def main():
        guard = Guard(limiter=Limiter(1e6, 1e6))
        for _ in range(100):
            with pytest.raises(VendorError): await call('v', sick, timeout=5, guard=guard)
    asyncio.run(main())
    assert 100 < len(asked) <= 100 + 3 + 10


def test_an_open_breaker_asks_nobody_and_one_probe_opens_the_way():
    async def main():
        now, sick, asked = [0.], [True], []
        guard = Guard(Breaker(clock=lambda: now[0]), retries=RetryBudget(0, 0))
        async def attempt(left):
            asked.append(1)
            await asyncio.sleep(.01)
            if sick[0]: raise VendorError('v', 'unavailable')
        for _ in range(5):
            with pytest.raises(VendorError, match='unavailable'):
                await call('v', attempt, timeout=5, guard=guard)
        with pytest.raises(VendorError, match='circuit_open'):
            await call('v', attempt, timeout=5, guard=guard)
        assert len(asked) == 5
        now[0], sick[0] = 10., False
        done = await asyncio.gather(
            *(call('v', attempt, timeout=5, guard=guard) for _ in range(8)), return_exceptions=True
        )
        assert (
            len(asked) == 6
            and sum(isinstance(d, VendorError) and d.kind == 'circuit_open' for d in done) == 7
        )
        assert guard.breaker.state == 'closed'
    asyncio.run(main())


def test_a_probe_that_is_cancelled_does_not_lock_the_door():
    async def main():
        now = [0.]
        guard = Guard(Breaker(failures=1, clock=lambda: now[0]))
        guard.breaker.failed()
        now[0] = 10.
        async def hang(left): await asyncio.sleep(SLOW)
        probe = asyncio.create_task(call('v', hang, timeout=SLOW, guard=guard))
        await asyncio.sleep(.01)
        assert not guard.breaker.allow()
        probe.cancel()
        await asyncio.gather(probe, return_exceptions=True)
        assert guard.breaker.allow()
        guard.breaker.abandoned()
        # a mistake of ours is not hidden, and not the vendor's fault
        with pytest.raises(ZeroDivisionError):
            async def wrong(left): return 1/0
            await call('v', wrong, timeout=5, guard=guard)
        assert guard.breaker.state == 'half-open' and guard.breaker.allow()
    asyncio.run(main())


def test_a_time_out_too_short_to_be_fair_is_not_held_against_the_vendor():
    async def main():
        async def hang(left): await asyncio.sleep(SLOW)
        guard = Guard()
        for seconds in (.02, .3):
            with pytest.raises(VendorError, match='timeout'):
                await call('v', hang, timeout=seconds, guard=guard)
        assert guard.breaker.count == 1
        with pytest.raises(VendorError, match='no time left'):
            await call('v', hang, timeout=MIN_TIMEOUT / 2, guard=guard)

    asyncio.run(main())


def test_a_burst_of_errors_over_the_wire_is_survived():
    async def main():
        async with Server() as server:
            http, guard = Http('somebody', server.url), Guard()
            async def attempt(left):
                reply = await http.request('GET', 'x', timeout=left)
                if kind := kind_of_status(reply.status):
                    raise VendorError(
                        'somebody', kind, code=reply.status, retry_after=reply.retry_after
                    )
                return reply.json()
            server.faults = [500]
            assert await call('somebody', attempt, timeout=5, guard=guard) == {'well': 1}
            server.faults = [(429, {'Retry-After': '0'})]
            assert await call('somebody', attempt, timeout=5, guard=guard) == {'well': 1}
            server.faults = ['reset']
            assert await call('somebody', attempt, timeout=5, guard=guard) == {'well': 1}
            assert len(server.requests) == 6
            server.faults = [(429, {'Retry-After': '120'})]
            with pytest.raises(VendorError) as e: await call('somebody', attempt, timeout=5, guard=guard)
            assert (e.value.kind, e.value.retry_after, len(server.requests)) == ('rate_limited', 120., 7)
            await http.aclose()
    asyncio.run(main())


@given(st.integers(100, 599))
def test_every_status_has_a_meaning(status):
    assert (kind_of_status(status) is None) == (200 <= status < 300)


def test_an_unknown_error_of_the_http_library_is_named_too():
    assert http_error('v', RuntimeError(TOKEN), 1.0).kind == 'refused' and TOKEN not in str(
        http_error('v', RuntimeError(TOKEN), 1.0)
    )
