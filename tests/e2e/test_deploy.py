"""What stands in deploy/ fits the program: it parses, names only roles, settings and metrics that
there are, fires where it should, and runs as nobody special."""
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from unde_recog.serving import ROLES, make_app
from unde_recog.jobs.job import job_readings
from unde_recog.settings import Settings, load_settings
from unde_recog.web.health import ALERT_SHARE

yaml = pytest.importorskip('yaml')
DEPLOY = Path(__file__).resolve().parents[2]/'deploy'
VENDOR_KEYS = {
    'XIMILAR_API_TOKEN', 'XIMILAR_COLLECTION_ID', 'GEMINI_API_KEY', 'ANTHROPIC_API_KEY', 'OPENAI_API_KEY',
}


def rules():
    groups = yaml.safe_load((DEPLOY/'prometheus/rules.yml').read_text())['groups']
    return {r['alert']: r for group in groups for r in group['rules']}


def compose(): return yaml.safe_load((DEPLOY/'compose.yaml').read_text())


def ours():
    return {n: s for n, s in compose()['services'].items() if s.get('image') == 'unde_recog'}


@pytest.fixture(scope='module')
def families():
    "Names of all metrics of an application, as Prometheus sees their samples."
    # not started: nothing is opened
    text = TestClient(make_app(load_settings(env={}))).get('/metrics').text
    kinds = dict(re.findall(r'^# TYPE (\S+) (\S+)', text, re.M))
    suffixes = lambda kind: ('_bucket', '_sum', '_count') if kind == 'histogram' else ('',)
    of_jobs = set(job_readings({}))  # read from the catalogue, once there is one
    return of_jobs | {name + suffix for name, kind in kinds.items() for suffix in suffixes(kind)}


def expressions():
    board = json.loads((DEPLOY/'grafana/dashboards/unde.json').read_text())
    panels = {f"{p['title']} {t['refId']}": t['expr'] for p in board['panels'] for t in p.get('targets', [])}
    return {**{name: rule['expr'] for name, rule in rules().items()}, **panels}


def test_every_metric_is_there(families):
    assert len(expressions()) > 30
    for name, expr in expressions().items():
        used = set(re.findall(r'\bunde_\w+', expr))
        assert used <= families, (name, used - families)
        assert used or expr.startswith('up{') and expr.count('(') == expr.count(')')


def test_labels_are_those_of_the_metrics():
    "No rule and no panel groups by a label that its metric does not have."
    from unde_recog.web.metrics import Metrics
    metrics = Metrics()
    labels = {v._name: set(v._labelnames) for v in vars(metrics).values() if hasattr(v, '_labelnames')}
    scraped = {'instance', 'job', 'exported_job', 'le', 'queue', 'pool'}
    for name, expr in expressions().items():
        for metric in set(re.findall(r'\bunde_\w+', expr)):
            base = re.sub('_(total|bucket|sum|count)$', '', metric)
            if base not in labels: continue
            selected = set(re.findall(metric + r'\{(\w+)', expr))
            assert selected <= labels[base] | scraped, (name, metric, selected)
        used = set().union(*(labels.get(re.sub('_(total|bucket|sum|count)$', '', m), scraped)
                             for m in re.findall(r'\bunde_\w+', expr)))
        for by in re.findall(r'by \(([^)]*)\)', expr):
            assert {b.strip() for b in by.split(',')} <= used | scraped, (name, by)


def test_the_four_alerts_of_the_design():
    wanted = {
        'FallbackShareHigh': ('> 0.15', 'red'),
        'PrimaryScoreLow': ('< min(unde_primary_score_limit > 0)', 'yellow'),
        'BoosterShareHigh': ('> 0.7', 'yellow'),
        'CandidatesFew': ('< 3', 'yellow'),
    }
    for name, (limit, severity) in wanted.items():
        assert rules()[name]['expr'].endswith(limit) and rules()[name]['labels']['severity'] == severity
    assert round(.80*ALERT_SHARE, 6) == .65  # the plan's limit for the plan's threshold
    for rule in rules().values():
        assert rule['annotations']['summary'] and rule['annotations']['remedy']
        assert rule['labels']['severity'] in ('red', 'yellow')


def promtool(*args):
    if shutil.which('promtool') is None:
        missing = 'promtool is not here: the rules are tried with it (apt-get install prometheus)'
        return pytest.fail(missing) if os.environ.get('CI') == 'true' else pytest.skip(missing)
    return subprocess.run(['promtool', *args], cwd=DEPLOY/'prometheus', capture_output=True, text=True)


def test_every_rule_fires_and_stays_silent():
    result = promtool('test', 'rules', 'tests.yml')
    assert result.returncode == 0, result.stdout + result.stderr
    tests = yaml.safe_load((DEPLOY/'prometheus/tests.yml').read_text())['tests']
    checked = [(a['alertname'], bool(a['exp_alerts'])) for t in tests for a in t['alert_rule_test']]
    assert {(name, fires) for name in rules() for fires in (True, False)} == set(checked)


def test_prometheus_takes_its_files():
    for args in (('check', 'rules', 'rules.yml'), ('check', 'config', '--syntax-only', 'prometheus.yml')):
        result = promtool(*args)
        assert result.returncode == 0, result.stdout + result.stderr


def test_the_image_and_compose_files_are_well_kept():
    "hadolint has nothing to say of the image; the compose file is what its specification allows."
    for command in (['hadolint', 'Dockerfile'],
                    ['check-jsonschema', '--builtin-schema', 'vendor.compose-spec', 'compose.yaml']):
        program = shutil.which(command[0]) or Path(sys.executable).with_name(command[0])
        result = subprocess.run([program, *command[1:]], cwd=DEPLOY, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr


def test_alerts_reach_somebody():
    "Prometheus names the Alertmanager of the compose file, and that one a receiver with a secret address."
    prometheus = yaml.safe_load((DEPLOY/'prometheus/prometheus.yml').read_text())
    (target,) = prometheus['alerting']['alertmanagers'][0]['static_configs'][0]['targets']
    assert target.split(':')[0] in compose()['services']
    manager = yaml.safe_load((DEPLOY/'alertmanager/alertmanager.yml').read_text())
    receivers = {r['name']: r for r in manager['receivers']}
    routes = [manager['route'], *manager['route']['routes']]
    assert all(r['receiver'] in receivers for r in routes)
    (webhook,) = receivers['webhook']['webhook_configs']
    secret = Path(webhook['url_file']).name
    assert secret in compose()['secrets'] and secret in compose()['services']['alertmanager']['secrets']
    silenced = re.findall(r'\w+', manager['inhibit_rules'][0]['target_matchers'][0].split('=~')[1])
    assert set(silenced) <= set(rules())


def test_compose_names_what_there_is():
    services = compose()['services']
    commands = [s['command'] for s in ours().values() if '--role' in (s.get('command') or [])]
    assert {c[c.index('--role') + 1] for c in commands} == set(ROLES) - {'all'}
    assert {'db', 'redis', 'worker'} <= set(services)
    for name, s in ours().items():
        assert s['user'] == '10001:10001' and s['read_only'] and s['cap_drop'] == ['ALL'], name
        known = {*Settings.model_fields, 'FORWARDED_ALLOW_IPS'}  # the last one is uvicorn's own
        assert 'privileged' not in s and set(s['environment']) <= known, name
    prometheus = yaml.safe_load((DEPLOY/'prometheus/prometheus.yml').read_text())
    jobs = {job['job_name']: job for job in prometheus['scrape_configs']}
    targets = [t for job in jobs.values() for c in job.get('static_configs', []) for t in c['targets']]
    assert {t.split(':')[0] for t in targets} <= set(ours())
    assert jobs['batch']['dns_sd_configs'][0]['names'] == ['embed-batch']
    assert f"worker:{ours()['worker']['environment']['METRICS_PORT']}" in targets
    # else a killed Redis forgets what it had confirmed (test_killed)
    assert services['redis']['command'][:3] == ['redis-server', '--appendonly', 'yes']
    assert services['redis']['volumes'] == ['redis:/data']
    for s in services.values(): assert all(p.startswith('127.0.0.1:') for p in s.get('ports', []))


def test_nothing_grows_without_a_limit():
    "Memory, logs and a worker's tasks have limits; a process that is told to stop hears it."
    memory = {'app': '1g', 'gateway': '1g', 'reranker': '2g'}  # as planned
    for name, s in compose()['services'].items():
        assert re.fullmatch(r'\d+[mg]', s['mem_limit']), name
        assert set(s['logging']['options']) == {'max-size', 'max-file'}, name
    for name, s in ours().items():
        assert s['init'] is True and s['cpus'] and s['mem_limit'] == memory.get(name, s['mem_limit']), name
    assert any(word.startswith('--max-tasks-per-child=') for word in ours()['worker']['entrypoint'])


def test_who_holds_which_secret():
    "A vendor's key lies where the vendor is called, Redis has a password, and the page has no lab."
    for name, s in ours().items():
        held = VENDOR_KEYS & set(s['environment'])
        assert not held or name in ('gateway', 'reranker'), (name, held)
    worker = ours()['worker']['environment']
    assert {'XIMILAR_GW_URL', 'LLM_RERANKER_URL', 'EMBEDDER_URL'} <= set(worker)
    assert '--requirepass' in compose()['services']['redis']['command']
    assert all('REDIS_PASSWORD' in worker[name] for name in ('CELERY_BROKER_URL', 'CELERY_RESULT_BACKEND'))
    text = (DEPLOY/'compose.yaml').read_text()
    made = dict(re.findall(r'keys add (\w+)((?: --right \w+)+)', text))
    assert 'lab' not in made['page'].split() and made['lab'].split() == ['--right', 'lab']


def test_keys_are_read_from_a_folder():
    "A file that is replaced on the host stays the old one in a container; a folder does not."
    for name, s in ours().items():
        if 'API_KEYS_FILE' not in s['environment']: continue
        folder = str(Path(s['environment']['API_KEYS_FILE']).parent)
        mounts = [v.split(':') for v in s['volumes']]
        (mount,) = [m for m in mounts if m[1] == folder]
        assert mount[0] in compose()['volumes'] and (mount[2:] == ['ro']) == (name != 'keys'), name


def test_image_runs_as_nobody_special():
    lines = (DEPLOY/'Dockerfile').read_text().splitlines()
    user = max(n for n, line in enumerate(lines) if line.startswith('USER'))
    last_run = max(n for n, line in enumerate(lines) if line.startswith('RUN'))
    assert lines[user] == 'USER 10001:10001' and user > last_run
    assert any(line.startswith('HEALTHCHECK') for line in lines)


def test_nothing_of_this_machine_goes_into_the_image():
    ignored = (DEPLOY.parent/'.dockerignore').read_text().splitlines()
    assert {'.git', '.venv', '**/.env', '**/api_keys.json'} <= set(ignored)
    needed = {'unde_recog', 'sql', 'eval', 'pyproject.toml', 'constraints.txt', 'README.md', 'LICENSE'}
    assert not needed & set(ignored)


def test_no_secret_is_kept():
    for p in DEPLOY.rglob('*'):
        if p.is_file(): assert not re.search(r'(PASSWORD|TOKEN|API_KEY|WEBHOOK)=\S', p.read_text()), p.name
