from redisai_py.bounded import BoundedCache


def test_a_full_cache_is_emptied_for_the_next_entry():
    cache = BoundedCache[int, str](3)
    for number in range(3):
        assert cache.keep(number, str(number)) == str(number)
    assert list(cache) == [0, 1, 2]
    cache.keep(3, "3")
    assert dict(cache) == {3: "3"}


def test_look_ups_are_those_of_a_dict():
    cache = BoundedCache[int, str](3)
    cache.keep(1, "one")
    assert cache.get(1) == "one"
    assert cache.get(2) is None
    assert 1 in cache
    assert not hasattr(cache, "__dict__")
