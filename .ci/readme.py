"""README.md from nbs/index.ipynb, without hidden cells, by nbconvert. `--check` only compares."""
import re
import sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parents[1]


def answer_only(cell):
    "A cell flagged `#| answer` shows what it found (its Markdown), not how."
    shown = [o.data['text/markdown'] for o in cell.outputs if 'text/markdown' in o.get('data', {})]
    return nbformat.v4.new_markdown_cell('\n\n'.join(shown))


def render() -> str:
    nb = nbformat.read(ROOT/'nbs/index.ipynb', as_version=4)
    nb.cells = [c for c in nb.cells if not re.search(r'^#\|\s*hide', c.source, re.M)]
    nb.cells = [answer_only(c) if re.search(r'^#\|\s*answer', c.source, re.M) else c for c in nb.cells]
    for c in nb.cells: c.source = re.sub(r'^#\|.*\n', '', c.source, flags=re.M)
    nb.metadata['language_info'] = {'name': 'python'}  # or the code fences carry no language
    body, resources = MarkdownExporter().from_notebook_node(nb)
    if resources.get('outputs'):
        raise SystemExit('index.ipynb shows pictures inline: link a committed file instead')
    note = '<!-- Made from nbs/index.ipynb by .ci/readme.py: edit the notebook. -->\n\n'
    return note + re.sub(r'\n{3,}', '\n\n', body).strip() + '\n'


if __name__ == '__main__':
    text, path = render(), ROOT/'README.md'
    if '--check' in sys.argv:
        same = path.exists() and path.read_text('utf-8') == text
        sys.exit(0 if same else 'README.md differs from nbs/index.ipynb: make prepare')
    path.write_text(text, 'utf-8')
