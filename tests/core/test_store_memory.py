"""What is kept between pictures, in memory and then on disk: bounded, least recently used first out."""

import os
import subprocess
import sys
import threading

import pytest
import torch
from stored import KEY, ROW, file_of, row, same

from zvl_ext.store import Disk, Store

# --- memory


def test_what_was_put_comes_out_as_the_same_object():
    store = Store(10_000)
    store.put("a", ROW)
    assert store.get("a") is ROW
    assert store.get("b") is None


def test_a_gibibyte_is_kept_and_no_disk_unless_told_otherwise():
    store = Store()
    assert (store.limit, store.disk, store.size) == (2**30, None, 0)


def test_the_bytes_of_all_tensors_of_a_bundle_count():
    store = Store(10_000)
    store.put(
        "a", {"one": torch.zeros(100), "two": torch.zeros(2, 50, dtype=torch.bfloat16), "none": torch.zeros(0, 5)}
    )
    assert store.size == 400 + 200


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


def test_a_bundle_that_fills_the_limit_exactly_is_kept():
    store = Store(4000)
    store.put("a", ROW)
    assert store.get("a") is ROW


def test_a_bundle_over_the_limit_is_not_kept_and_drives_nothing_out():
    store = Store(4000)
    store.put("a", ROW)
    store.put("b", row(0, 1001))
    assert store.get("a") is ROW
    assert store.get("b") is None


def test_the_last_bundle_put_under_a_key_counts_once():
    store = Store(10_000)
    for _ in range(5):
        store.put("a", ROW)
    other = row(1, 500)
    store.put("a", other)
    assert store.get("a") is other
    assert store.size == 2000


def test_an_old_bundle_does_not_survive_a_new_one_that_is_too_large():
    store = Store(4000)
    store.put("a", ROW)
    store.put("a", row(0, 2000))
    assert store.get("a") is None
    assert store.size == 0


def test_a_lower_limit_drops_the_least_recently_used_and_a_higher_one_nothing():
    store = Store(12_000)
    for key in "abc":
        store.put(key, ROW)
    store.get("a")
    store.resize(8000)
    assert (store.limit, store.size) == (8000, 8000)
    assert [store.get(key) is not None for key in "abc"] == [True, False, True]
    store.resize(12_000)
    store.put("d", ROW)
    assert (store.limit, store.size) == (12_000, 12_000)
    store.resize(0)
    assert store.size == 0
    store.put("a", ROW)
    assert store.get("a") is None


def test_nothing_is_kept_after_clear():
    store = Store(10_000)
    store.put("a", ROW)
    store.clear()
    assert (store.get("a"), store.size) == (None, 0)
    store.put("a", ROW)
    assert store.size == 4000


@pytest.mark.parametrize("with_disk", [False, True])
def test_many_threads_never_exceed_the_limit(with_disk, tmp_path):
    store, over, wrong = Store(20_000, disk=Disk(str(tmp_path), 50_000) if with_disk else None), [], []
    rounds = 30 if with_disk else 300

    def work(seed: int) -> None:
        for i in range(rounds):
            store.put((seed, i % 7), row(10 * seed + i % 7))
            key = (i % 3, i % 7)
            found = store.get(key)
            with store._lock:
                over.append(store.size > store.limit)
                wrong.append(found is not None and not same(found, row(10 * key[0] + key[1])))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(over) == 4 * rounds
    assert not any(over)
    assert not any(wrong)
    assert store.size == sum(size for _, size in store._kept.values())
    if with_disk:
        assert 0 < store.disk.size <= 50_000
        assert all(name.endswith(".zvl.safetensors") for name in os.listdir(tmp_path))


def test_other_things_than_bundles_are_kept_by_a_size_of_their_own():
    pictures = Store(200, size=len)
    for name in ("a", "b", "a", "c"):
        pictures.put(name, name * 100)
    assert [pictures.get(name) for name in ("a", "b", "c")] == ["a" * 100, None, "c" * 100]


def test_the_module_loads_neither_torch_nor_safetensors(root):
    script = "import sys, zvl_ext.store; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run(
        [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"torch", "safetensors", "transformers", "numpy"} & set(loaded)


# --- memory, then disk


def test_a_new_store_finds_on_disk_what_another_put(disk):
    Store(disk=disk).put(KEY, row(1))
    store = Store(disk=Disk(disk.folder, disk.limit))
    found = store.get(KEY)
    assert same(found, row(1))
    assert store.size == 4000


def test_what_came_from_disk_stays_in_memory(disk):
    disk.put(KEY, row(1))
    store = Store(disk=disk)
    found = store.get(KEY)
    file_of(disk).unlink()
    assert store.get(KEY) is found


def test_memory_is_asked_first(disk):
    store = Store(disk=disk)
    store.put(KEY, row(1))
    disk.put(KEY, row(2))
    assert same(store.get(KEY), row(1))
    assert same(disk.get(KEY), row(2))


def test_a_bundle_too_large_for_memory_is_read_from_disk(disk):
    store = Store(3000, disk=disk)
    store.put(KEY, row(1))
    assert store.size == 0
    assert same(store.get(KEY), row(1))
    assert store.size == 0


def test_what_memory_dropped_is_read_from_disk_and_drops_another(disk):
    store = Store(4000, disk=disk)
    store.put("a", row(1))
    store.put("b", row(2))
    assert same(store.get("a"), row(1))
    assert same(store.get("b"), row(2))
    assert store.size == 4000


def test_a_bundle_that_grew_replaces_the_old_one_in_both(disk):
    store = Store(disk=disk)
    store.put(KEY, row(1))
    grown = row(1) | {"deeper": torch.ones(3)}
    store.put(KEY, grown)
    assert store.get(KEY) is grown
    assert same(disk.get(KEY), grown)
    assert len(disk.files()) == 1


def test_the_disk_may_come_and_go(disk):
    store = Store(disk=None)
    store.put("a", row(1))
    store.disk = disk
    store.put("b", row(2))
    store.disk = None
    store.resize(0)
    assert store.get("b") is None
    assert disk.get("a") is None
    assert same(disk.get("b"), row(2))


def test_clear_empties_memory_and_disk(disk):
    store = Store(disk=disk)
    store.put(KEY, row(1))
    store.clear()
    assert (store.get(KEY), store.size, disk.size) == (None, 0, 0)


def test_a_slow_disk_holds_up_nobody_who_finds_it_in_memory(disk):
    entered, go_on = threading.Event(), threading.Event()

    class Slow(Disk):
        def get(self, key):
            entered.set()
            assert go_on.wait(30)
            return super().get(key)

        def put(self, key, bundle):
            self.get(key)

        def clear(self):
            self.get(KEY)

    store = Store(disk=Slow(disk.folder, disk.limit))
    for work in (lambda: store.get("b"), lambda: store.put("b", ROW), store.clear):
        entered.clear()
        go_on.clear()
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        assert entered.wait(30)
        free = store._lock.acquire(timeout=5)
        go_on.set()
        assert free, "the lock is held while the disk works"
        store._lock.release()
        thread.join()


def test_what_was_put_while_an_older_bundle_was_read_from_disk_stays(disk):
    newer = row(2)

    class Overtaken(Disk):
        def get(self, key):
            found = super().get(key)
            store.put(key, newer)
            return found

    disk.put(KEY, row(1))
    store = Store(disk=Overtaken(disk.folder, disk.limit))
    assert store.get(KEY) is newer
    assert store.get(KEY) is newer
    assert store.size == 4000
