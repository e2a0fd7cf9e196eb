"""Would the tests notice? Mutants of the rooms that must not err, each against the tests of its room.

    python .ci/mutation.py [--grown] [MUTANTS A ROOM] [ROOM ...]
    python .ci/mutation.py --report

Mutants are made by cosmic-ray in a copy of the checkout, drawn evenly by seed. A run that was stopped goes
on where it stopped; a module or tests that have changed are begun anew. With --grown, for tests to which
some were added and nothing else: what was noticed stays noticed, only survivors are tried again. Figures and
survivors go into reports/mutation; --report writes them from what is known, where a survivor of fewer tests
counts as one."""

import ast
import hashlib
import importlib
import json
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORK, OUT = ROOT / 'bench-out' / 'mutation', ROOT / 'reports' / 'mutation'
TREE, RESULTS = WORK / 'checkout' / 'tree', WORK / 'results.jsonl'
SEED, TIMEOUT = 7, 600
# a report on files that are missing: says nothing of a room, and takes half of the readers' time
QUICK = ['--deselect', 'tests/catalogue/test_cases.py::test_a_report_never_takes_simulated_data_instead']
READERS = [
    'tests/catalogue/test_values.py',
    'tests/catalogue/test_kinds.py',
    'tests/catalogue/test_reading.py',
    'tests/catalogue/test_cases.py',
    'tests/catalogue/test_shops.py',
]
INDEX = ['tests/jobs/test_index.py', 'tests/jobs/test_never_lost.py']
ROOMS = {
    'gating': ['tests/steps/test_gating.py'],
    'search': ['tests/steps/test_search.py'],
    'availability': ['tests/steps/test_availability.py'],
    'jobs/index': INDEX,
    'jobs/vectors': INDEX,
    'request_log': ['tests/steps/test_request_log.py'],
    'text_encoding': READERS,
    'catalogue/reading': READERS,
    'catalogue/values': READERS,
    'catalogue/columns': READERS,
    'catalogue/exports': READERS,
    'catalogue/shops': READERS,
    'catalogue/stock': [*READERS, 'tests/catalogue/test_imports.py', 'tests/catalogue/test_two_at_once.py'],
}
# `|` is mostly a type or a union of dictionaries, and a decorator a cache: both leave the behaviour as it is
LEFT_OUT = ('BitOr', 'RemoveDecorator')


def copy_checkout():
    "A copy to be mutated, with ../shared beside it where the checkout has one."
    shutil.rmtree(TREE, ignore_errors=True)
    TREE.mkdir(parents=True)
    for name in ('unde_recog', 'tests', 'sql', 'eval', 'nbs', 'conftest.py', 'pyproject.toml', 'README.md'):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(
                source, TREE / name, symlinks=True, ignore=shutil.ignore_patterns('__pycache__')
            )
        else:
            shutil.copy(source, TREE / name)
    shared, link = ROOT.parent / 'shared', TREE.parent / 'shared'
    if shared.is_dir() and not link.exists():
        link.symlink_to(shared)


def in_annotation(tree, line, column):
    "Whether a place lies within a type annotation, which nothing evaluates."
    for node in ast.walk(tree):
        for part in (getattr(node, 'annotation', None), getattr(node, 'returns', None)):
            if part is None or not hasattr(part, 'lineno'):
                continue
            if (part.lineno, part.col_offset) <= (line, column) < (part.end_lineno, part.end_col_offset):
                return True
    return False


def all_mutants(path):
    "(operator, its arguments, occurrence, line) of every mutant of a module."
    import cosmic_ray.plugins
    from cosmic_ray.ast import ast_nodes, get_ast_from_path

    parsed, tree = get_ast_from_path(path), ast.parse(path.read_text('utf-8'))
    for name in cosmic_ray.plugins.operator_names():
        kind = cosmic_ray.plugins.get_operator(name)
        if kind.arguments() or any(word in name for word in LEFT_OUT):
            continue
        places = [p for node in ast_nodes(parsed) for p in kind().mutation_positions(node)]
        for n, (start, _) in enumerate(places):
            if not in_annotation(tree, *start):
                yield name, n, start[0]


def run_tests(tests, limit=TIMEOUT):
    "Run tests in a forked child, which has the large libraries already; → killed, hung or survived."
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        os.chdir(TREE)
        sys.path.insert(0, str(TREE))
        null = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(null, stream)
        import pytest

        quick = ['-p', 'no:cacheprovider', '-p', 'no:schemathesis', '-p', 'no:xdist', '-p', 'no:anyio']
        how = [*quick, *QUICK, '--hypothesis-seed=0', f'--timeout={limit:.0f}']
        code = pytest.main(['-x', '-q', *how, *tests])
        os._exit(int(code))
    ends = time.monotonic() + limit
    while time.monotonic() < ends:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return 'survived' if os.waitstatus_to_exitcode(status) == 0 else 'killed'
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return 'hung'


def digests():
    "Room → (digest of the module, digest of module and tests)."
    def of(*names): return hashlib.sha256(b''.join((TREE / n).read_bytes() for n in names)).hexdigest()[:12]
    return {room: (of(f'unde_recog/{room}.py'), of(f'unde_recog/{room}.py', *t)) for room, t in ROOMS.items()}


def known_results(digest, grown=False):
    "What earlier runs found, of modules and tests that are as they were; `grown`: tests may be more."
    if not RESULTS.exists():
        return {}
    rows = map(json.loads, RESULTS.read_text('utf-8').splitlines())
    def holds(r):
        module, both = digest.get(r['room'], ('', ''))
        return r['digest'] == both or grown and r.get('module') == module and r['outcome'] != 'survived'
    return {(r['room'], r['operator'], r['occurrence']): r for r in rows if holds(r)}


def mutate_room(room, wanted, known, digest, limit):
    "Try `wanted` mutants of a room, each at most `limit` seconds; → (their results, mutants in all)."
    import cosmic_ray.plugins
    from cosmic_ray.mutating import mutate_code

    path = TREE / 'unde_recog' / f'{room}.py'
    code, mutants = path.read_text('utf-8'), list(all_mutants(path))
    chosen = random.Random(f'{SEED} {room}').sample(mutants, min(wanted, len(mutants)))
    found = []
    for operator, occurrence, line in chosen:
        row = known.get((room, operator, occurrence))
        if row is None:
            mutated = mutate_code(code, cosmic_ray.plugins.get_operator(operator)(), occurrence)
            if mutated is None or mutated == code:
                continue
            started = time.monotonic()
            path.write_text(mutated, 'utf-8')
            try:
                outcome = run_tests(ROOMS[room], limit)
            finally:
                path.write_text(code, 'utf-8')
            changed = [(a, b) for a, b in zip(code.splitlines(), mutated.splitlines()) if a != b][:1] or [
                ('', '')
            ]
            row = {
                'room': room,
                'operator': operator,
                'occurrence': occurrence,
                'line': line,
                'outcome': outcome,
                'module': digest[room][0],
                'digest': digest[room][1],
                'before': changed[0][0].strip(),
                'after': changed[0][1].strip(),
                'seconds': round(time.monotonic() - started, 1),
            }
            with RESULTS.open('a', encoding='utf-8') as f:
                f.write(json.dumps(row, ensure_ascii=False) + '\n')
            print(f"{room}:{line} {outcome} ({row['seconds']} s)", flush=True)
        found.append(row)
    return found, len(mutants)


def wilson(k, n, z=1.96):
    "95 % interval of a share."
    if not n:
        return 0.0, 1.0
    centre, spread = (k + z * z / 2) / (n + z * z), z * (k * (n - k) / n + z * z / 4) ** 0.5 / (n + z * z)
    return centre - spread, centre + spread


def write_report(rooms, totals):
    "Figures a room, and every survivor with what it was read as (reports/mutation/read.json)."
    notes = json.loads((OUT / 'read.json').read_text('utf-8')) if (OUT / 'read.json').exists() else {}
    lines = [
        '# Would the tests notice?',
        '',
        'Mutants by cosmic-ray, drawn evenly a room by seed, each against the '
        'tests of its room alone. Not made: mutants of annotations, of `|` and of decorators.',
        '',
        '| room | mutants | tried | noticed | share | 95 % |',
        '|---|---|---|---|---|---|',
    ]
    metrics, alive, weighted = {}, [], 0.0
    for room, rows in rooms.items():
        n, survivors = len(rows), [r for r in rows if r['outcome'] == 'survived']
        k = n - len(survivors)
        low, high = wilson(k, n)
        metrics[room] = {
            'mutants': totals[room],
            'tried': n,
            'noticed': k,
            'share': round(k / n, 3) if n else None,
            'low': round(low, 3),
            'high': round(high, 3),
        }
        weighted += totals[room] * (k / n if n else 0)
        alive += survivors
        lines.append(
            f'| {room} | {totals[room]} | {n} | {k} | {k / max(n, 1):.1%} | {low:.1%} to {high:.1%} |'
        )
    tried, noticed = (sum(m[what] for m in metrics.values()) for what in ('tried', 'noticed'))
    low, high = wilson(noticed, tried)
    total = {
        'tried': tried,
        'noticed': noticed,
        'share': round(noticed / max(tried, 1), 3),
        'low': round(low, 3),
        'high': round(high, 3),
        'by_size': round(weighted / max(sum(totals.values()), 1), 3),
        'hung': sum(r['outcome'] == 'hung' for rows in rooms.values() for r in rows),
    }
    lines += [
        '',
        f'{noticed} of {tried} are noticed: {total["share"]:.1%} ({low:.1%} to {high:.1%}); weighted by the '
        f'size of the rooms {total["by_size"]:.1%}. {total["hung"]} of them ran into the time limit.',
        '',
        '## Survivors',
        '',
    ]
    for r in sorted(alive, key=lambda r: (r['room'], r['line'])):
        read = notes.get(f"{r['room']}: {r['after']}", 'not read yet')
        lines.append(f"- `{r['room']}` `{r['before'][:100]}` → `{r['after'][:100]}`: {read}")
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / 'report.md').write_text('\n'.join(lines) + '\n', 'utf-8')
    facts = {'rooms': metrics, 'total': total, 'seed': SEED}
    (OUT / 'metrics.json').write_text(json.dumps(facts, indent=1, sort_keys=True) + '\n', 'utf-8')
    return total


def report_known():
    "The report of all earlier runs on the modules as they are."
    copy_checkout()
    modules, latest = {room: module for room, (module, _) in digests().items()}, {}
    for r in map(json.loads, RESULTS.read_text('utf-8').splitlines()):
        if r.get('module') == modules.get(r['room']): latest[r['room'], r['operator'], r['occurrence']] = r
    rooms = {room: [r for r in latest.values() if r['room'] == room] for room in ROOMS}
    rooms = {room: rows for room, rows in rooms.items() if rows}
    totals = {room: len(list(all_mutants(TREE / 'unde_recog' / f'{room}.py'))) for room in rooms}
    print(json.dumps(write_report(rooms, totals)))
    return 0


def main(wanted=40, names=(), grown=False):
    os.environ |= {'PYTHONDONTWRITEBYTECODE': '1', 'OMP_NUM_THREADS': '1'}
    copy_checkout()
    for name in 'hypothesis numpy openpyxl pandas PIL.Image psycopg_pool pyarrow pytest'.split():
        importlib.import_module(name)

    sys.path.insert(0, str(ROOT))
    from unde_recog.db.embedded import start_embedded
    from unde_recog.settings import load_settings

    data = Path(
        os.environ.setdefault(
            'UNDE_TEST_DIR', '/var/lib/unde-mutation' if os.geteuid() == 0 else str(WORK / 'data')
        )
    )
    data.mkdir(parents=True, exist_ok=True)
    (data / 'postgres.conf').write_text('fsync = off\nsynchronous_commit = off\nfull_page_writes = off\n')
    start_embedded(load_settings(env={}, UNDE_DATA_DIR=data))  # the tests of every mutant find it running
    for name in [m for m in sys.modules if m.split('.')[0] == 'unde_recog']:
        del sys.modules[name]
    sys.path.remove(str(ROOT))
    digest = digests()
    known, rooms, totals = known_results(digest, grown), {}, {}
    for room in ROOMS:
        if names and room not in names:
            continue
        started = time.monotonic()
        if run_tests(ROOMS[room]) != 'survived':
            sys.exit(f'the tests of {room} fail without a mutant: {ROOMS[room]}')
        limit = 60 + 5*(time.monotonic() - started)  # a busy machine lets no mutant hang that would not
        rooms[room], totals[room] = mutate_room(room, wanted, known, digest, limit)
        write_report(rooms, totals)
    total = write_report(rooms, totals)
    print(json.dumps(total), Counter(r['outcome'] for rows in rooms.values() for r in rows))
    return int(total['share'] < 0.85)


if __name__ == '__main__':
    if '--report' in sys.argv: sys.exit(report_known())
    given = [a for a in sys.argv[1:] if a != '--grown']
    sys.exit(main(int(given[0]) if given else 40, given[1:], '--grown' in sys.argv))
