"""What nbdev does not notice, and the usual checks. `make check`; CI runs it before `make test`."""
import ast
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import venv
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PKG = ROOT/'unde_recog'
BIN = Path(sys.executable).parent
# room → rooms that it must never import (SPEC: vendors and steps know nothing of serving, serving nothing of research)
FACES = {'cli', 'commands', 'serving', 'web', 'queue', 'demo', 'bench'}
FORBIDDEN = {'vendors': FACES | {'research', 'jobs', 'pipeline', 'sandbox'}, 'research': FACES, 'wardrobe': FACES | {'research', 'vendors', 'pipeline'},
             'serving': {'research', 'sandbox', 'wardrobe'}, 'web': {'research', 'sandbox', 'wardrobe'}, 'queue': {'research', 'sandbox', 'wardrobe'}, 'context': FACES | {'research', 'vendors', 'sandbox', 'wardrobe'},
             'pipeline': FACES | {'research', 'vendors', 'sandbox', 'wardrobe'}}
# rooms that need an extra: the wheel alone must not import them, the wheel with the extras must (torch is too large to fetch for a look)
EXTRAS = {'research': 'eval', 'bench': 'eval', 'web': 'serving', 'serving': 'serving', 'queue': 'queue', 'training': 'train'}
GROUND = {'contracts', 'settings', 'resilience', 'db', 'media'}
failures: list[str] = []


def sh(*args, **kw): return subprocess.run([str(a) for a in args], cwd=ROOT, **kw)
def fail(text): failures.append(text); print('FAIL', text, flush=True)
def tracked(*globs): return [ROOT/p for p in sh('git', 'ls-files', *globs, capture_output=True, text=True).stdout.splitlines() if (ROOT/p).is_file()]
def modules(): return [p for p in sorted(PKG.rglob('*.py')) if not {'eval', 'sql', 'assets'} & set(p.relative_to(PKG).parts)]
def state(): return {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in [*sorted((ROOT/'nbs').glob('*.ipynb')), *sorted((ROOT/'eval').glob('*.ipynb')), *modules()]}


def notebooks():
    before = state()
    project, was = ROOT/'pyproject.toml', (ROOT/'pyproject.toml').stat()
    for tool in (['nbdev-clean'], ['nbdev-clean', '--fname', 'eval'], ['nbdev-export']): sh(BIN/tool[0], *tool[1:], check=True)
    os.utime(project, ns=(was.st_atime_ns, was.st_mtime_ns))  # nbdev-export writes it anew, unchanged; make would install everything again
    after = state()
    for p in sorted({p for p in before.keys() | after.keys() if before.get(p) != after.get(p)}): fail(f'{p.relative_to(ROOT)} was not clean, or not in sync with its notebook (mended now: commit it)')
    exported = Counter()
    for p in sorted((ROOT/'nbs').glob('*.ipynb')):
        source = [''.join(c['source']) for c in json.loads(p.read_text('utf-8'))['cells']]
        name = next((m[1] for s in source if (m := re.search(r'^#\|\s*default_exp\s+(\S+)', s, re.M))), None)
        if name: exported[name] += 1
        if name and p.stem.split('_', 1)[1] != name: fail(f'{p.name} exports {name}: name the notebook after its module')
        if name is None and p.stem != 'index': fail(f'{p.name} exports nothing')
        for s in source:
            if '#| export' in s and re.search(r'^(<{7}|>{7}|={7})', s, re.M): fail(f'{p.name}: conflict marker in an exported cell')
            if '#| export' in s and re.search(r'^\s*from \S+ import \*', s, re.M): fail(f'{p.name}: an exported cell imports *')
    for name, n in exported.items():
        if n > 1: fail(f'{n} notebooks export {name}: the later one would win in silence')
    for p in modules():
        name = '.'.join(p.relative_to(PKG).with_suffix('').parts)
        if p.name not in ('__init__.py', '_modidx.py') and name not in exported: fail(f'{p.relative_to(ROOT)} has no notebook: stale, or written by hand')


def arrows():
    for p in modules():
        parts = p.relative_to(PKG).with_suffix('').parts
        room = parts[0]
        names = []
        for n in ast.walk(ast.parse(p.read_text('utf-8'))):
            if isinstance(n, ast.ImportFrom) and n.level: names.append('.'.join(('unde_recog', *parts[:len(parts) - n.level], n.module or '')))
            elif isinstance(n, ast.ImportFrom) and (n.module or '').startswith('unde_recog.'): names.append(n.module)
        for name in names:
            other = name.split('.')[1]
            if other in FORBIDDEN.get(room, ()) and other != room: fail(f'{room} imports {name}: the arrow points the wrong way')
            if room in GROUND and other not in GROUND: fail(f'{room} imports {name}: the ground knows nobody above it')
            if room in FACES | {'_modidx'}: continue
            if other in FACES: fail(f'{room} imports {name}: nobody calls a face')
        source = p.read_text('utf-8')
        if re.search(r'^\s*(from|import) (nbdev|fastcore|execnb)\b', source, re.M): fail(f'{p.relative_to(ROOT)} needs nbdev or fastcore at run time')


def leaks():
    bad = re.compile(rb'/root/|/work/|/home/\w+/|/opt/(pypi|wheels)|-----BEGIN [A-Z ]*PRIVATE KEY')
    for p in tracked():
        if p.suffix not in {'.png', '.jpg', '.onnx', '.npz'} and p != Path(__file__).resolve() and (m := bad.search(p.read_bytes())): fail(f'{p.relative_to(ROOT)} holds {m[0].decode()!r}: a path of this machine')


def wheel():
    with tempfile.TemporaryDirectory() as d:
        sh(sys.executable, '-m', 'build', '-q', '--wheel', '--outdir', d, check=True, stdout=subprocess.DEVNULL)
        venv.create(f'{d}/venv', with_pip=True)
        python = f'{d}/venv/bin/python'
        (built,) = Path(d).glob('*.whl')
        sh(python, '-m', 'pip', 'install', '-q', '-c', 'constraints.txt', built, check=True)
        names = sorted('.'.join(('unde_recog', *p.relative_to(PKG).with_suffix('').parts)).removesuffix('.__init__') for p in modules() if p.name != '_modidx.py')
        core = [n for n in names if n.split('.')[1:2] not in [[room] for room in EXTRAS]]
        load = lambda those: f'import importlib\nfor n in {those!r}: importlib.import_module(n)\n'
        code = load(core) + 'from unde_recog.db.database import migrations\nassert migrations("vectors")'
        if subprocess.run([python, '-c', code], cwd=d).returncode: fail('the wheel, installed alone, does not import')
        if subprocess.run([f'{d}/venv/bin/unde-recog', 'settings'], cwd=d, stdout=subprocess.DEVNULL).returncode: fail('the wheel, installed alone, does not run')
        extras = ','.join(sorted({e for e in EXTRAS.values() if e != 'train'}))
        sh(python, '-m', 'pip', 'install', '-q', '-c', 'constraints.txt', f'{built}[{extras}]', check=True)
        if subprocess.run([python, '-c', load([n for n in names if EXTRAS.get((n.split('.') + [''])[1]) != 'train'])], cwd=d).returncode: fail(f'the wheel with its extras {extras} does not import')


if __name__ == '__main__':
    notebooks(); arrows(); leaks()
    if sh(BIN/'ruff', 'check', '-q', '.').returncode: fail('ruff')
    if sh(BIN/'mypy').returncode: fail('mypy')
    if sh(sys.executable, '.ci/readme.py', '--check').returncode: fail('README.md')
    if '--quick' not in sys.argv: wheel()
    if os.environ.get('CI') == 'true' and (dirty := sh('git', 'status', '--porcelain', capture_output=True, text=True).stdout): fail(f'git status is not clean:\n{dirty}')
    sys.exit(f'{len(failures)} failed' if failures else print('checks passed'))
