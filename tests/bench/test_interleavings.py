"Ten interleavings of imports, index runs and polls, with kills; `make bench` runs two hundred."

from unde_recog.bench.interleavings import run_rounds


def test_ten_interleavings_end_where_an_undisturbed_run_ends(server_url):
    rounds = list(run_rounds(server_url, 10, seed=40))
    assert all(r.good for r in rounds), [r for r in rounds if not r.good]
    assert sum(r.outcomes['killed'] for r in rounds) > 0 and all(r.looks for r in rounds)
