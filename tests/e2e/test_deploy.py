"""What stands in deploy/ fits the program: it parses, names only roles, settings and metrics that
there are, and runs as nobody special."""

import json
import re
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from unde_recog.serving import ROLES, make_app
from unde_recog.settings import Settings, load_settings

yaml = pytest.importorskip('yaml')
DEPLOY = Path(__file__).resolve().parents[2]/'deploy'


@pytest.fixture(scope='module')
def families():
    "Names of all metrics of an application, as Prometheus sees their samples."
    # not started: nothing is opened
    text = TestClient(make_app(load_settings(env={}))).get('/metrics').text
    kinds = dict(re.findall(r'^# TYPE (\S+) (\S+)', text, re.M))
    return {
        n + suffix
        for n, kind in kinds.items()
        for suffix in (('_bucket', '_sum', '_count') if kind == 'histogram' else ('',))
    }


def expressions():
    rules = yaml.safe_load((DEPLOY/'prometheus/rules.yml').read_text())
    board = json.loads((DEPLOY/'grafana/dashboards/unde.json').read_text())
    return {
        **{r['alert']: r['expr'] for g in rules['groups'] for r in g['rules']},
        **{
            f"{p['title']} {t['refId']}": t['expr']
            for p in board['panels']
            for t in p.get('targets', [])
        },
    }


def test_every_metric_is_there(families):
    assert len(expressions()) > 30
    for name, expr in expressions().items():
        used = set(re.findall(r'\bunde_\w+', expr))
        assert used <= families, (name, used - families)
        assert used or expr.startswith('up{') and expr.count('(') == expr.count(')')


def test_the_four_alerts_of_the_design():
    alerts = {
        r['alert']: r
        for g in yaml.safe_load((DEPLOY / 'prometheus/rules.yml').read_text())['groups']
        for r in g['rules']
    }
    wanted = {
        'FallbackShareHigh': ('> 0.15', 'red'),
        'PrimaryScoreLow': ('< 0.65', 'yellow'),
        'BoosterShareHigh': ('> 0.7', 'yellow'),
        'CandidatesFew': ('< 3', 'yellow'),
    }
    for name, (limit, severity) in wanted.items():
        assert (
            alerts[name]['expr'].endswith(limit) and alerts[name]['labels']['severity'] == severity
        )
    assert all(
        r['annotations']['summary'] and r['labels']['severity'] in ('red', 'yellow')
        for r in alerts.values()
    )


def test_compose_names_what_there_is():
    services = yaml.safe_load((DEPLOY/'compose.yaml').read_text())['services']
    ours = {n: s for n, s in services.items() if s.get('image') == 'unde_recog'}
    served = {
        s['command'][s['command'].index('--role') + 1]
        for s in ours.values()
        if s.get('command') and '--role' in s['command']
    }
    assert served == set(ROLES) - {'all'} and {'db', 'redis', 'worker'} <= set(services)
    for name, s in ours.items():
        assert (
            s['user'] == '10001:10001'
            and s['read_only']
            and s['cap_drop'] == ['ALL']
            and 'privileged' not in s
        ), name
        assert set(s['environment']) <= set(Settings.model_fields), name
    targets = yaml.safe_load((DEPLOY / 'prometheus/prometheus.yml').read_text())['scrape_configs'][
        0
    ]['static_configs'][0]['targets']
    assert {t.split(':')[0] for t in targets} <= set(ours)
    # else a killed Redis forgets what it had confirmed (test_killed)
    assert services['redis']['command'] == ['redis-server', '--appendonly', 'yes'] and services[
        'redis'
    ]['volumes'] == ['redis:/data']
    for s in services.values(): assert all(p.startswith('127.0.0.1:') for p in s.get('ports', []))


def test_image_runs_as_nobody_special():
    lines = (DEPLOY/'Dockerfile').read_text().splitlines()
    user = max(n for n, line in enumerate(lines) if line.startswith('USER'))
    assert (
        lines[user] == 'USER 10001:10001'
        and user > max(n for n, line in enumerate(lines) if line.startswith('RUN'))
        and any(line.startswith('HEALTHCHECK') for line in lines)
    )


def test_no_secret_is_kept():
    for p in DEPLOY.rglob('*'):
        if p.is_file(): assert not re.search(r'(PASSWORD|TOKEN|API_KEY)=\S', p.read_text()), p.name
