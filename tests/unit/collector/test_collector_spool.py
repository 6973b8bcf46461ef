import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edgebus.contracts import new_id
from edgebus_collector.spool import Spool, SpoolFullError, SpoolSettings


def spool(folder, *, max_samples=100, max_bytes=10**6, overflow="drop_oldest"):
    return Spool(
        folder, SpoolSettings(max_samples=max_samples, max_bytes=max_bytes, overflow=overflow)
    )


def test_the_oldest_goes_first_and_leaves_when_removed(tmp_path):
    s = spool(tmp_path)
    ids = [new_id() for _ in range(5)]
    for i in ids:
        assert s.put(i, i.encode()) == []
    gone = []
    while (item := s.oldest()) is not None:
        assert item.path.read_bytes() == item.id.encode()
        gone.append(item.id)
        s.remove(item.id)
    assert gone == ids
    assert (len(s), s.size, list(tmp_path.iterdir())) == (0, 0, [])
    s.remove(ids[0])


def test_a_new_process_finds_what_the_old_one_left(tmp_path):
    ids = [new_id() for _ in range(3)]
    first = spool(tmp_path)
    for i in ids:
        first.put(i, b"x" * 10)
    (tmp_path / ".half.part").write_bytes(b"cut")
    second = spool(tmp_path)
    assert (len(second), second.size) == (3, 30)
    assert second.oldest().id == ids[0]
    assert not (tmp_path / ".half.part").exists()


def test_overflow_drops_the_oldest_and_says_which(tmp_path):
    s = spool(tmp_path, max_samples=2)
    assert s.put("a", b"1") == []
    assert s.put("b", b"1") == []
    assert s.put("c", b"1") == ["a"]
    assert s.oldest().id == "b"
    small = spool(tmp_path / "bytes", max_bytes=10)
    small.put("a", b"x" * 4)
    small.put("b", b"x" * 4)
    assert small.put("c", b"x" * 9) == ["a", "b"]


def test_overflow_may_keep_the_old(tmp_path):
    s = spool(tmp_path, max_samples=1, overflow="drop_newest")
    s.put("a", b"1")
    with pytest.raises(SpoolFullError, match="sample b of 1 bytes does not fit: 1 of"):
        s.put("b", b"1")
    assert s.oldest().id == "a"


def test_a_sample_larger_than_the_spool_is_refused_and_said(tmp_path):
    s = spool(tmp_path, max_bytes=10)
    with pytest.raises(SpoolFullError) as caught:
        s.put("big", b"x" * 11)
    assert (caught.value.size, caught.value.limit) == (11, 10)


def test_putting_a_sample_again_replaces_it(tmp_path):
    s = spool(tmp_path)
    s.put("a", b"1")
    s.put("a", b"22")
    assert (len(s), s.size) == (1, 2)


def test_kill_minus_nine_leaves_whole_files_only(tmp_path):
    script = (
        "import sys, itertools, pathlib\n"
        "from edgebus_collector.spool import Spool, SpoolSettings\n"
        "s = Spool(pathlib.Path(sys.argv[1]), SpoolSettings(max_samples=10**6))\n"
        "for i in itertools.count():\n"
        "    s.put(f'{i:09}', b'%09d' % i * 5000)\n"
        "    print(i, flush=True)\n"
    )
    root = Path(__file__).parents[3]
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdout=subprocess.PIPE,
        env={"PYTHONPATH": f"{root}:{root / 'services'}"},
    )
    for _ in range(25):
        last = int(child.stdout.readline())
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    s = spool(tmp_path, max_bytes=10**9, max_samples=10**6)
    assert len(s) > last
    while (item := s.oldest()) is not None:
        assert item.path.read_bytes() == item.id.encode() * 5000
        s.remove(item.id)
