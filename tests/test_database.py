import pytest
@pytest.mark.parametrize('i', range(5))
def test_fresh(db, i):
    with db.connect('catalogue') as c:
        assert c.execute('select count(*) from raw_stores').fetchone() == (0,)
        c.execute("insert into raw_stores (brand, store_id, name) values ('hm','1','x')")
