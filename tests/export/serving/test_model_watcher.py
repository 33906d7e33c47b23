import asyncio
import contextlib
import pathlib
from types import SimpleNamespace

from export.serving import model_watcher
from export.serving.metrics import Metrics
from export.serving.model_watcher import ModelWatcher


def watch(monkeypatch, looks, error=None):
    """Watches until all looks at the disk are used; returns what was loaded."""
    loaded = []
    looks = iter(looks)

    def look_at(path):
        loaded.append(next(looks, None))
        if loaded[-1] is None:
            raise asyncio.CancelledError
        return loaded[-1]

    def load(path, version):
        loaded.append(version)
        if error and version == error[0]:
            raise error[1]
        return SimpleNamespace(version=version)

    monkeypatch.setattr(model_watcher, "_look_at", look_at)
    watcher = ModelWatcher(pathlib.Path("model"), load, Metrics())

    async def run():
        with contextlib.suppress(asyncio.CancelledError):
            await watcher.watch(0)

    asyncio.run(run())
    return watcher, loaded[:-1]


def test_what_is_still_written_is_not_loaded(monkeypatch):
    # Nothing is there while it is moved.
    looks = ["A", "A", [], "B", "BC", "BCD", "BCD", "BCD", "BCD"]
    watcher, loaded = watch(monkeypatch, looks)
    assert loaded == ["A", 1, *looks[1:7], 2, *looks[7:]]
    assert watcher.current.version == 2


def test_whatever_is_wrong_with_a_new_model_the_old_one_goes_on(monkeypatch):
    looks = ["A", "B", "B", "B", "C", "C", "C"]
    error = MemoryError("It is\nlarge")
    watcher, loaded = watch(monkeypatch, looks[:4], (2, error))
    assert loaded == ["A", 1, "B", "B", 2, "B"]
    assert watcher.current.version == 1
    assert watcher.failed == (2, "It is\\nlarge")

    watcher, loaded = watch(monkeypatch, looks, (2, error))
    # It is tried once, and what comes after it has the next number.
    assert loaded == ["A", 1, "B", "B", 2, "B", "C", "C", 3, "C"]
    assert watcher.current.version == 3
    assert watcher.failed is None
