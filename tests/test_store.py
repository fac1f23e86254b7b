"""What is kept between pictures: bounded, least recently used first out."""

import threading

import torch

from zvl_ext.store import Store

ROW = torch.zeros(1000)  # 4000 bytes


def test_what_was_put_comes_out_as_the_same_tensor():
    store = Store(10_000)
    store.put("a", ROW)
    assert store.get("a") is ROW
    assert store.get("b") is None


def test_the_limit_holds_and_the_least_recently_used_goes_first():
    store = Store(10_000)
    store.put("a", ROW)
    store.put("b", ROW)
    store.get("a")
    store.put("c", ROW)
    assert store.size == 8000
    assert store.get("b") is None
    assert store.get("a") is not None
    assert store.get("c") is not None


def test_a_tensor_that_fills_the_limit_exactly_is_kept():
    store = Store(4000)
    store.put("a", ROW)
    assert store.get("a") is ROW


def test_a_tensor_over_the_limit_is_not_kept_and_drives_nothing_out():
    store = Store(4000)
    store.put("a", ROW)
    store.put("b", torch.zeros(1001))
    assert store.get("a") is ROW
    assert store.get("b") is None


def test_the_last_tensor_put_under_a_key_counts_once():
    store = Store(10_000)
    for _ in range(5):
        store.put("a", ROW)
    other = torch.ones(500)
    store.put("a", other)
    assert store.get("a") is other
    assert store.size == 2000


def test_an_old_tensor_does_not_survive_a_new_one_that_is_too_large():
    store = Store(4000)
    store.put("a", ROW)
    store.put("a", torch.zeros(2000))
    assert store.get("a") is None


def test_nothing_is_kept_after_clear():
    store = Store(10_000)
    store.put("a", ROW)
    store.clear()
    assert (store.get("a"), store.size) == (None, 0)


def test_many_threads_never_exceed_the_limit():
    store, over = Store(20_000), []

    def work(seed: int) -> None:
        for i in range(300):
            store.put((seed, i % 7), ROW)
            store.get((i % 3, i % 7))
            with store._lock:
                over.append(store.size > store.limit)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not any(over)
    assert len(over) == 1200


def test_other_things_than_tensors_are_kept_by_a_size_of_their_own():
    pictures = Store(200, size=len)
    for name in ("a", "b", "a", "c"):
        pictures.put(name, name * 100)
    assert [pictures.get(name) for name in ("a", "b", "c")] == ["a" * 100, None, "c" * 100]
