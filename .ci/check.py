"""What nbdev does not notice, and the usual checks. `make check`; CI runs it before `make test`.

`--quick` leaves out the wheel. CONTRIBUTING.md has the rules, docs/architecture.md the table of rooms.
"""
import ast
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import tokenize
import venv
from collections import Counter
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
PKG = ROOT/'unde_recog'
BIN = Path(sys.executable).parent
LINE = 110        # characters; docstrings 100
CELL = 40         # exported lines of one cell
MEDIAN = 15       # exported lines of half the cells, at most
NOTEBOOK = 400    # exported lines of one notebook
POSITIONAL = 4    # parameters of a function that may be given by position
FIELDS = 6        # of a dataclass that may be given by position
COINED = {'House', 'Door', 'Lane', 'Walk', 'Purse', 'Wishes', 'Usual', 'Together', 'Sought', 'Offered'}
# Signatures that somebody else's interface prescribes.
PRESCRIBED = {('sandbox', 'respond'), ('vendors', 'connect_tcp')}
# Rooms that need an extra: not imported from the wheel alone, but from the wheel with its extras
# (except `train`: torch is too large for a look).
EXTRAS = {
    'research': 'eval',
    'bench': 'eval',
    'web': 'serving',
    'serving': 'serving',
    'queue': 'queue',
    'training': 'train',
}
# Folders of tests named after no room: ground and steps for the modules at the top, e2e for whole journeys.
TOP_TESTS = {'ground', 'steps', 'e2e'}
failures: list[str] = []


def sh(*args, **kw):
    return subprocess.run([str(a) for a in args], cwd=ROOT, **kw)


def fail(text):
    failures.append(text)
    print('FAIL', text, flush=True)


def tracked(*globs):
    names = sh('git', 'ls-files', *globs, capture_output=True, text=True).stdout.splitlines()
    return [ROOT/p for p in names if (ROOT/p).is_file()]


def modules():
    "Exported modules (assets, and the folders that are carried into the package by a link, are none)."
    return [
        p
        for p in sorted(PKG.rglob('*.py'))
        if not {'eval', 'sql', 'assets'} & set(p.relative_to(PKG).parts)
    ]


def notebook_paths():
    return sorted((ROOT/'nbs').glob('*.ipynb'))


def sources(path):
    return [
        ''.join(c['source'])
        for c in json.loads(path.read_text('utf-8'))['cells']
        if c['cell_type'] == 'code'
    ]


def exported(source):
    return re.search(r'^#\|\s*exports?i?\b', source, re.M) is not None


def code_lines(source):
    "The lines of a cell without its directives."
    return re.sub(r'^#\|.*\n?', '', source, flags=re.M).strip().splitlines()


def only_imports(source):
    "Whether a cell holds nothing but imports, or nothing at all."
    flags = ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    tree = compile('\n'.join(code_lines(source)), 'cell', 'exec', flags)
    return all(isinstance(n, (ast.Import, ast.ImportFrom)) for n in tree.body)


def state():
    paths = [*notebook_paths(), *sorted((ROOT/'eval').glob('*.ipynb')), *modules()]
    return {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}


def in_sync():
    "Notebooks are clean, and the modules are what they export."
    before = state()
    project, was = ROOT/'pyproject.toml', (ROOT/'pyproject.toml').stat()
    for tool in (['nbdev-clean'], ['nbdev-clean', '--fname', 'eval'], ['nbdev-export']):
        sh(BIN/tool[0], *tool[1:], check=True)
    # nbdev-export writes the file anew, unchanged; make would install everything again
    os.utime(project, ns=(was.st_atime_ns, was.st_mtime_ns))
    after = state()
    for p in sorted({p for p in before.keys() | after.keys() if before.get(p) != after.get(p)}):
        fail(
            f'{p.relative_to(ROOT)} was not clean, or not in sync with its notebook (mended now: commit it)'
        )


def notebooks():
    "One notebook a module, one number a notebook, cells of a readable size, an example a cell."
    made, numbers, sizes = Counter(), {}, []
    for p in notebook_paths():
        cells = sources(p)
        names = (re.search(r'^#\|\s*default_exp\s+(\S+)', s, re.M) for s in cells)
        name = next((m[1] for m in names if m), None)
        if name is None:
            if p.stem != 'index': fail(f'{p.name} exports nothing')
            continue
        made[name] += 1
        number, _, rest = p.stem.partition('_')
        if rest != name: fail(f'{p.name} exports {name}: name the notebook after its module')
        if not re.fullmatch(r'\d{3}', number): fail(f'{p.name}: a notebook begins with three digits')
        if number in numbers: fail(f'{p.name} and {numbers[number]} have the same number')
        numbers[number] = p.name
        total = 0
        for s in filter(exported, cells):
            lines = len(code_lines(s))
            sizes.append(lines)
            total += lines
            if lines > CELL:
                fail(
                    f'{p.name}: an exported cell of {lines} lines (at most {CELL}): {s.splitlines()[1][:60]}'
                )
            if re.search(r'^(<{7}|>{7}|={7})', s, re.M):
                fail(f'{p.name}: conflict marker in an exported cell')
            if re.search(r'^\s*from \S+ import \*', s, re.M): fail(f'{p.name}: an exported cell imports *')
        if total > NOTEBOOK: fail(f'{p.name}: {total} exported lines (at most {NOTEBOOK}): halve it')
        counts = Counter(exported(s) for s in cells if not only_imports(s))
        if counts[False] < counts[True]:
            fail(f'{p.name}: {counts[True]} exported cells, {counts[False]} examples: show what each does')
    if sizes and (half := median(sizes)) > MEDIAN:
        fail(f'half of the exported cells have over {half - 1:g} lines (aim at {MEDIAN}): split some')
    for name, n in made.items():
        if n > 1: fail(f'{n} notebooks export {name}: the later one would win in silence')
    for p in modules():
        name = '.'.join(p.relative_to(PKG).with_suffix('').parts)
        if p.name not in ('__init__.py', '_modidx.py') and name not in made:
            fail(f'{p.relative_to(ROOT)} has no notebook: stale, or written by hand')


def room_table():
    "room → rooms that it may import, from the table in docs/architecture.md."
    text = (ROOT/'docs'/'architecture.md').read_text('utf-8')
    rows = re.findall(r'^\| `(\w+)` \| ([^|]*) \|', text, re.M)
    return {room: set(re.findall(r'`(\w+)`', allowed)) for room, allowed in rows}


def imported(path, statements=None):
    "Rooms and modules of ours that a module imports, wherever in it or in the given statements."
    parts = path.relative_to(PKG).with_suffix('').parts
    for n in ast.walk(ast.parse(path.read_text('utf-8'))) if statements is None else statements:
        if not isinstance(n, ast.ImportFrom): continue
        if n.level:
            base = parts[:len(parts) - n.level]
            inner = (n.module or '').split('.') if n.module else []
            for name in ([a.name for a in n.names] if not inner else ['']):
                yield '.'.join(filter(None, (*base, *inner, name)))
        elif (n.module or '').startswith('unde_recog.'): yield n.module.removeprefix('unde_recog.')
        elif n.module == 'unde_recog': yield from (a.name for a in n.names)


def arrows():
    "Every import goes where the table of docs/architecture.md allows it."
    table = room_table()
    rooms = {p.relative_to(PKG).with_suffix('').parts[0] for p in modules()} - {'__init__', '_modidx'}
    for room in sorted(rooms - table.keys()): fail(f'docs/architecture.md: the table lacks the room {room}')
    for room in sorted(table.keys() - rooms): fail(f'docs/architecture.md: there is no room {room}')
    for p in modules():
        room = p.relative_to(PKG).with_suffix('').parts[0]
        if room in ('__init__', '_modidx'): continue
        for name in imported(p):
            other = name.split('.')[0]
            if other in rooms and other != room and other not in table.get(room, ()):
                fail(f'{room} imports {name}: docs/architecture.md does not allow it')
        if re.search(r'^\s*(from|import) (nbdev|fastcore|execnb)\b', p.read_text('utf-8'), re.M):
            fail(f'{p.relative_to(ROOT)} needs nbdev or fastcore at run time')


def reading_order():
    "A module imports, as it is loaded, only modules of a lower notebook number."
    numbers = {p.stem[4:]: p.stem[:3] for p in notebook_paths() if p.stem != 'index'}
    for p in modules():
        name = '.'.join(p.relative_to(PKG).with_suffix('').parts)
        loaded = [n for n in ast.parse(p.read_text('utf-8')).body if isinstance(n, ast.ImportFrom)]
        for other in imported(p, loaded):
            if name in numbers and numbers.get(other, '') > numbers[name]:
                fail(f'{name} ({numbers[name]}) imports {other} ({numbers[other]}): number it lower')


def docstring_lines(tree):
    holders = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for n in ast.walk(tree):
        if isinstance(n, holders) and ast.get_docstring(n, clean=False) is not None:
            yield from range(n.body[0].lineno, n.body[0].end_lineno + 1)


def statements(path, source, tree):
    "Parameters and fields by position, `;`, chained assignments, coined words."
    where, room = path.relative_to(ROOT), path.relative_to(ROOT).parts[1]
    for n in ast.walk(tree):
        if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef)):
            names = [a.arg for a in (*n.args.posonlyargs, *n.args.args)]
            names = names[1:] if names[:1] in (['self'], ['cls']) else names
            if len(names) > POSITIONAL and (room, n.name) not in PRESCRIBED:
                fail(f'{where}:{n.lineno} {n.name} takes {len(names)} positional parameters')
        if isinstance(n, ast.ClassDef):
            marks = ''.join(ast.unparse(d) for d in n.decorator_list)
            fields = [x for x in n.body if isinstance(x, ast.AnnAssign)]
            fields = [x for x in fields if 'kw_only=True' not in ast.unparse(x)]
            if 'dataclass' in marks and len(fields) > FIELDS and 'kw_only=True' not in marks:
                fail(f'{where}:{n.lineno} dataclass {n.name} has {len(fields)} fields: make it kw_only')
        if (
            isinstance(n, ast.Assign)
            and isinstance(n.targets[0], ast.Tuple)
            and isinstance(n.value, ast.Tuple)
        ):
            if len(n.targets[0].elts) > 3:
                fail(f'{where}:{n.lineno} assigns {len(n.targets[0].elts)} names in one line')
    for t in tokenize.generate_tokens(io.StringIO(source).readline):
        if t.type == tokenize.NAME and t.string in COINED:
            fail(f'{where}:{t.start[0]} {t.string} is a coined word')
        if t.type == tokenize.OP and t.string == ';':
            fail(f'{where}:{t.start[0]} two statements in one line')


def lines():
    "Line lengths of modules, tests and scripts; the rules of single statements for modules."
    total = long = 0
    for p in [*modules(), *tracked('tests/**.py', 'tests/*.py', '.ci/*.py', 'conftest.py')]:
        if p.name == '_modidx.py': continue
        source = p.read_text('utf-8')
        tree = ast.parse(source)
        documented = set(docstring_lines(tree))
        listed = {
            n
            for x in tree.body
            if isinstance(x, ast.Assign) and getattr(x.targets[0], 'id', '') == '__all__'
            for n in range(x.lineno, x.end_lineno + 1)
        }  # written by nbdev
        for n, line in enumerate(source.splitlines(), 1):
            if n in listed or line.startswith('# %% '): continue
            total, long = total + 1, long + (len(line) > 100)
            limit = 100 if n in documented and p.is_relative_to(PKG) else LINE
            if len(line) > limit:
                fail(f'{p.relative_to(ROOT)}:{n} has {len(line)} characters (at most {limit})')
        if p.is_relative_to(PKG): statements(p, source, tree)
    if long > .05*total: fail(f'{long} of {total} lines have over 100 characters (at most 5 %)')


def tests_beside():
    "A test file lies in the folder of its module's room."
    names = {p.relative_to(PKG).with_suffix('').parts for p in modules()}
    rooms = {n[0] for n in names if len(n) > 1}
    for p in tracked('tests/**/test_*.py', 'tests/test_*.py'):
        parts = p.relative_to(ROOT/'tests').parts
        if len(parts) == 1: fail(f'tests/{p.name} lies in no room')
        elif parts[0] not in rooms | TOP_TESTS: fail(f'tests/{parts[0]} is named after no room')


def links():
    "Links of the documentation to files of this repository exist."
    for p in tracked('*.md', 'docs/*.md', 'deploy/*.md', 'reports/*/*.md'):
        for target in re.findall(r'\]\(([^)#\s]+)[^)]*\)', p.read_text('utf-8')):
            if re.match(r'\w+:', target): continue
            if not (p.parent/target).exists(): fail(f'{p.relative_to(ROOT)} links to {target}: no such file')


def untrue_reports():
    "No committed report tells of a model or a table that is another now (a notebook alone may be)."
    sys.path.insert(0, str(ROOT))
    from unde_recog.research.report import reports, stale, untrue

    for name, notebook in reports().items():
        if changed := untrue(stale(ROOT/'reports'/name, notebook)):
            since = f"another {' and '.join(changed)} since"
            fail(f'reports/{name}: {since}: run `unde-recog report {name}`')


def leaks():
    bad = re.compile(rb'/root/|/work/|/home/\w+/|/opt/(pypi|wheels)|-----BEGIN [A-Z ]*PRIVATE KEY')
    for p in tracked():
        if p.suffix in {'.png', '.jpg', '.onnx', '.npz'} or p == Path(__file__).resolve(): continue
        if m := bad.search(p.read_bytes()):
            fail(f'{p.relative_to(ROOT)} holds {m[0].decode()!r}: a path of this machine')


def wheel():
    "The wheel alone imports its core and runs; with its extras it imports the rest."
    with tempfile.TemporaryDirectory() as d:
        build = (sys.executable, '-m', 'build', '-q', '--wheel', '--outdir', d)
        sh(*build, check=True, stdout=subprocess.DEVNULL)
        venv.create(f'{d}/venv', with_pip=True)
        python = f'{d}/venv/bin/python'
        (built,) = Path(d).glob('*.whl')
        sh(python, '-m', 'pip', 'install', '-q', '-c', 'constraints.txt', built, check=True)
        paths = [p.relative_to(PKG).with_suffix('').parts for p in modules() if p.name != '_modidx.py']
        names = sorted('.'.join(('unde_recog', *parts)).removesuffix('.__init__') for parts in paths)
        room = lambda name: (name.split('.') + [''])[1]
        core = [n for n in names if room(n) not in EXTRAS]
        load = lambda those: f'import importlib\nfor n in {those!r}: importlib.import_module(n)\n'
        code = load(core) + 'from unde_recog.db.migrations import migrations\nassert migrations("vectors")'
        if subprocess.run([python, '-c', code], cwd=d).returncode:
            fail('the wheel, installed alone, does not import')
        settings = [f'{d}/venv/bin/unde-recog', 'settings']
        if subprocess.run(settings, cwd=d, stdout=subprocess.DEVNULL).returncode:
            fail('the wheel, installed alone, does not run')
        extras = ','.join(sorted({e for e in EXTRAS.values() if e != 'train'}))
        sh(python, '-m', 'pip', 'install', '-q', '-c', 'constraints.txt', f'{built}[{extras}]', check=True)
        rest = [n for n in names if EXTRAS.get(room(n)) != 'train']
        if subprocess.run([python, '-c', load(rest)], cwd=d).returncode:
            fail(f'the wheel with its extras {extras} does not import')


def main():
    in_sync()
    checks = notebooks, arrows, reading_order, lines, tests_beside, links, leaks, untrue_reports
    for check in checks: check()
    if sh(BIN/'ruff', 'check', '-q', '.').returncode: fail('ruff')
    if sh(BIN/'mypy').returncode: fail('mypy')
    if sh(sys.executable, '.ci/readme.py', '--check').returncode: fail('README.md')
    if '--quick' not in sys.argv: wheel()
    if os.environ.get('CI') == 'true':
        dirty = sh('git', 'status', '--porcelain', capture_output=True, text=True).stdout
        if dirty: fail(f'git status is not clean:\n{dirty}')
    sys.exit(f'{len(failures)} failed' if failures else print('checks passed'))


if __name__ == '__main__': main()
