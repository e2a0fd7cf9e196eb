"""What several tests of research start from: labelled items, a certificate, a log that asked both."""

import pytest

from unde_recog.research.calibration import calibrate, declare_path
from unde_recog.research.records import outcomes
from unde_recog.research.simulate import draw, simulate_items


@pytest.fixture(scope='session')
def labelled():
    "Simulated items of 300 photos with what both retrievers found."
    items, labels = simulate_items(300, 4, icc=.2, seed=0, backend='dual')
    return outcomes(items, labels)


@pytest.fixture(scope='session')
def certified(labelled):
    "The certificate of a path over those."
    log = draw(1500, 4, .2, 1)
    path = declare_path(log['top1'], log['margin'], photo=log['photo'], labelled=len(labelled))
    return calibrate(labelled, path, date='2026-10-31', data='simulated', simulated=True).certificate


@pytest.fixture(scope='session')
def judged_log():
    "Items, labels and outcomes of 60 photos of two to five garments."
    items, labels = simulate_items(60, (2, 5), icc=.3, seed=4, backend='dual')
    return items, labels, outcomes(items, labels)
