"""The cache of results: bounded in bytes, least recently used goes first, releases kept apart."""

from __future__ import annotations

import threading

import pytest

from encoder_svc.cache import CacheKey, ResultCache


def key(name: str, *, release: str = "r1") -> CacheKey:
    return CacheKey(release, name.encode())


def test_a_kept_result_is_found_again() -> None:
    cache: ResultCache[str] = ResultCache(max_bytes=100)
    cache.put(key("a"), "A", num_bytes=10)
    assert cache.get(key("a")) == "A"
    assert cache.get(key("b")) is None


def test_releases_do_not_share_results() -> None:
    cache: ResultCache[str] = ResultCache(max_bytes=100)
    cache.put(key("a", release="r1"), "A", num_bytes=10)
    assert cache.get(key("a", release="r2")) is None


def test_the_least_recently_used_goes_first() -> None:
    cache: ResultCache[str] = ResultCache(max_bytes=30)
    for name in "abc":
        cache.put(key(name), name, num_bytes=10)
    cache.get(key("a"))
    cache.put(key("d"), "d", num_bytes=10)
    assert [name for name in "abcd" if cache.get(key(name))] == ["a", "c", "d"]


@pytest.mark.parametrize(("num_bytes", "is_kept"), [(30, True), (31, False)])
def test_a_result_larger_than_the_cache_is_not_kept(num_bytes: int, is_kept: bool) -> None:
    cache: ResultCache[str] = ResultCache(max_bytes=30)
    cache.put(key("a"), "A", num_bytes=num_bytes)
    assert (cache.get(key("a")) is not None) is is_kept


def test_a_result_put_twice_counts_once() -> None:
    cache: ResultCache[str] = ResultCache(max_bytes=30)
    cache.put(key("a"), "old", num_bytes=20)
    cache.put(key("a"), "new", num_bytes=10)
    assert cache.get(key("a")) == "new"
    assert cache.num_bytes == 10


def test_a_cache_of_no_bytes_keeps_nothing() -> None:
    cache: ResultCache[str] = ResultCache(max_bytes=0)
    cache.put(key("a"), "A", num_bytes=1)
    assert cache.get(key("a")) is None


def test_many_threads_never_exceed_the_bound() -> None:
    cache: ResultCache[int] = ResultCache(max_bytes=50)

    def work(start: int) -> None:
        for number in range(start, start + 300):
            cache.put(key(str(number % 17)), number, num_bytes=7)
            cache.get(key(str(number % 5)))

    threads = [threading.Thread(target=work, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cache.num_bytes <= 50
