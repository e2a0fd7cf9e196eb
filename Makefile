# Two commands for a newcomer: `make demo`, `make test`. The rest is for those who work here.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt

.PHONY: demo test lab bench reports check prepare export readme clean

demo: $(VENV)/.demo
	$(BIN)/unde-recog demo --out demo-out

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n3 --dist loadfile

lab: $(VENV)/.dev
	$(BIN)/jupyter lab --LabApp.default_url=/lab/tree/nbs

check: $(VENV)/.dev
	$(BIN)/python .ci/check.py

bench: $(VENV)/.dev
	for name in latency batch capacity service_load failures catalogue_retrieval fault_matrix calibration_promise promise_table ab_test; do $(BIN)/unde-recog report $$name || exit 1; done
	$(BIN)/unde-recog report biased_logs -p runs 1000
	$(BIN)/python -c 'import sys; from unde_recog.bench.interleavings import main; sys.exit(main(200) > 0)'
	UNDE_POOLED_RECOGNITIONS=1000 UNDE_POOLED_REPORT=reports/two_at_once $(BIN)/python -m pytest -q --timeout=0 tests/db/test_pgbouncer.py
	$(BIN)/python .ci/mutation.py 40

# Which committed reports are stale; then every report of the research loop on simulated data, anew. On the real log:
# unde-recog report NAME -p log database -p labels FILE.
reports: $(VENV)/.dev
	$(BIN)/unde-recog report --stale
	for name in ab_test threshold_calibration biased_logs credit_cost daily_quality model_comparison; do $(BIN)/unde-recog report $$name || exit 1; done

# After editing notebooks: clean, export, README. Commit notebook and module together.
prepare: $(VENV)/.dev
	$(BIN)/nbdev-clean && $(BIN)/nbdev-export && $(BIN)/python .ci/readme.py

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e '.[demo]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e '.[dev,export]'
	@touch $@ $(VENV)/.demo

clean:
	rm -rf $(VENV) .ci-venv demo-out bench-out build dist *.egg-info
