import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebus.artifacts.index import block_digests
from edgebus.contracts import BlockRange
from edgebus.transfer._receiver import BlockReceiver, Patience, ranges
from edgebus.transfer._sender import BlockSender, Pace

BLOCK = 16
DATA = random.Random(0).randbytes(BLOCK * 40 + 5)
COUNT = 41


class Buffer:
    def __init__(self, size: int = len(DATA)) -> None:
        self.data = bytearray(size)

    def write(self, offset: int, data: bytes) -> None:
        self.data[offset : offset + len(data)] = data


def receiver(sink: Buffer, **options) -> BlockReceiver:
    options = {"window": 8, "blocks": block_digests(DATA, block_size=BLOCK)} | options
    return BlockReceiver(size=len(DATA), sink=sink, block_size=BLOCK, **options)


def block(index: int) -> bytes:
    return DATA[index * BLOCK : (index + 1) * BLOCK]


def numbers(wanted) -> list[int]:
    return [i for item in wanted for i in range(item.first, item.first + item.count)]


def test_blocks_of_any_size():
    assert block_digests(b"") == ()
    assert len(block_digests(DATA, block_size=BLOCK)) == COUNT
    empty = BlockReceiver(size=0, blocks=(), sink=Buffer(0))
    assert empty.done
    assert empty.next_request(now=0.0) == ()


@given(st.sets(st.integers(0, 200)))
def test_ranges_are_the_same_numbers(indices):
    found = ranges(indices)
    assert numbers(found) == sorted(indices)
    ends = [(item.first, item.first + item.count) for item in found]
    assert all(end < start for (_, end), (start, _) in pairwise(ends))


def test_a_window_at_a_time():
    sink = Buffer()
    r = receiver(sink)
    assert r.next_request(now=0.0) == (BlockRange(first=0, count=8),)
    assert r.next_request(now=0.1) == ()
    for i in range(3):
        r.take(i, block(i), now=0.1)
    assert r.next_request(now=0.2) == ()  # five are on their way: enough
    r.take(3, block(3), now=0.2)
    assert numbers(r.next_request(now=0.2)) == [8, 9, 10, 11]


def test_silence_asks_again_ever_more_slowly():
    r = receiver(Buffer(), patience=Patience(first=1, longest=10))
    assert numbers(r.next_request(now=100.0)) == list(range(8))
    at, gaps = 100.0, []
    for _ in range(6):
        deadline = r.deadline()
        assert r.next_request(now=deadline - 0.01) == ()
        assert numbers(r.next_request(now=deadline)) == list(range(8))
        gaps.append(deadline - at)
        at = deadline
    assert gaps == [1, 2, 4, 8, 10, 10]
    r.take(0, block(0), now=at)
    assert r.silences == 0


def test_a_slow_link_is_not_a_silent_one():
    r = receiver(Buffer(), patience=Patience(first=1, longest=30))
    r.next_request(now=0.0)
    r.take(0, block(0), now=5.0)
    assert r.patience == 20.0
    assert r.next_request(now=8.0) == ()


def test_a_corrupt_block_is_counted_and_asked_for_again():
    sink = Buffer()
    r = receiver(sink)
    r.next_request(now=0.0)
    for wrong in (b"", block(0)[:-1], block(0) + b"x", block(1)):
        assert r.take(0, wrong, now=0.1) == "corrupt"
    assert r.corrupt == 4
    assert r.received_bytes == 0
    assert bytes(sink.data[:BLOCK]) == bytes(BLOCK)
    for i in range(1, 8):
        r.take(i, block(i), now=0.2)
    assert 0 in numbers(r.next_request(now=0.2))
    assert r.take(0, block(0), now=0.3) == "new"


def test_blocks_that_nobody_asked_for_are_welcome_or_ignored():
    r = receiver(Buffer())
    assert r.take(40, block(40), now=0.0) == "new"  # another edge's
    assert r.take(40, block(40), now=0.0) == "duplicate"
    assert r.take(41, b"", now=0.0) == "duplicate"
    assert r.take(-1, b"", now=0.0) == "duplicate"
    assert r.received_bytes == 5


def test_what_is_on_disk_or_in_the_last_version_is_not_fetched():
    sink = Buffer()
    old = bytearray(DATA)
    old[BLOCK * 7] ^= 1
    r = receiver(sink)
    assert r.prime(lambda offset, count: bytes(old[offset : offset + count])) == len(DATA) - BLOCK
    assert numbers(r.next_request(now=0.0)) == [7]
    r.take(7, block(7), now=0.0)
    assert r.done
    assert bytes(sink.data) == DATA
    assert receiver(Buffer()).prime(lambda offset, count: b"") == 0


def test_an_index_without_block_digests_is_checked_as_a_whole():
    r = receiver(Buffer(), blocks=None)
    r.next_request(now=0.0)
    assert r.take(0, b"x" * BLOCK, now=0.0) == "new"
    assert r.take(1, b"short", now=0.0) == "corrupt"
    r.restart()
    assert not r.done
    assert r.missing == (BlockRange(first=0, count=COUNT),)
    assert r.missing_bytes == len(DATA)


def test_many_edges_get_each_block_once():
    sender = BlockSender(settle=0.5)
    edges = [receiver(Buffer()) for _ in range(5)]
    now, sent = 0.0, 0
    while not all(edge.done for edge in edges):
        for edge in edges:
            wanted = edge.next_request(now=now)
            sender.want("d", wanted, size=len(DATA), now=now, block_size=BLOCK)
        chosen = sender.next()
        if chosen is not None:
            for edge in edges:
                edge.take(chosen.index, block(chosen.index), now=now)
            sender.sent(chosen, size=BLOCK, now=now)
            sent += 1
        now += 0.01
    assert sent == COUNT
    assert sender.stats.sent == COUNT
    assert sender.stats.coalesced > 0


def test_a_late_edge_gets_what_it_missed():
    sender = BlockSender(settle=0.5)
    whole = [BlockRange(first=0, count=COUNT)]
    assert sender.want("d", whole, size=len(DATA), now=0.0, block_size=BLOCK) == COUNT
    while (chosen := sender.next()) is not None:
        sender.sent(chosen, size=BLOCK, now=0.0)
    assert sender.want("d", whole, size=len(DATA), now=0.4, block_size=BLOCK) == 0
    assert sender.want("d", whole, size=len(DATA), now=0.6, block_size=BLOCK) == COUNT


def test_a_newcomer_does_not_wait_for_what_passed_before_it_listened():
    sender = BlockSender(settle=0.5)
    one = [BlockRange(first=0, count=1)]

    def want(who: str, now: float) -> int:
        return sender.want("d", one, size=16, now=now, who=who, block_size=BLOCK)

    assert want("a", 0.0) == 1
    assert want("b", 0.01) == 0  # it waits in the queue, for both
    first = sender.next()
    assert want("c", 0.02) == 0  # being sent: c may have begun to listen just after
    sender.sent(first, size=16, now=0.03)
    again = sender.next()
    assert again == first
    sender.sent(again, size=16, now=0.04)
    assert sender.next() is None
    # All three listened: their requests crossed the block.
    assert [want(who, 0.1) for who in "abc"] == [0, 0, 0]
    assert want("d", 0.1) == 1
    sender.sent(sender.next(), size=16, now=0.11)
    assert want("d", 0.2) == 0
    assert sender.stats.sent == 3


def test_a_newcomer_adds_nothing_where_sending_fails():
    sender = BlockSender()
    one = [BlockRange(first=0, count=1)]
    sender.want("d", one, size=16, now=0.0, who="a", block_size=BLOCK)
    leaving = sender.next()
    sender.want("d", one, size=16, now=0.0, who="b", block_size=BLOCK)
    sender.failed(leaving)
    assert sender.next() is None


def test_blobs_take_turns():
    sender = BlockSender()
    sender.want("weights", [BlockRange(first=0, count=3)], size=48, now=0.0, block_size=BLOCK)
    sender.want("manifest", [BlockRange(first=0, count=1)], size=16, now=0.0, block_size=BLOCK)
    order = []
    while (chosen := sender.next()) is not None:
        order.append((chosen.digest, chosen.index))
    assert order == [("weights", 0), ("manifest", 0), ("weights", 1), ("weights", 2)]


def test_blocks_that_do_not_exist_are_refused_and_counted():
    sender = BlockSender()
    wanted = [BlockRange(first=40, count=65536), BlockRange(first=10**9, count=5)]
    assert sender.want("d", wanted, size=len(DATA), now=0.0, block_size=BLOCK) == 1
    assert sender.stats.refused == 65540


def test_a_block_that_could_not_be_sent_can_be_asked_for_at_once():
    sender = BlockSender()
    one = [BlockRange(first=0, count=1)]
    sender.want("d", one, size=16, now=0.0, block_size=BLOCK)
    chosen = sender.next()
    assert sender.want("d", one, size=16, now=0.0, block_size=BLOCK) == 0  # being sent
    sender.failed(chosen)
    assert sender.want("d", one, size=16, now=0.0, block_size=BLOCK) == 1


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), loss=st.floats(0, 0.6), corrupt=st.floats(0, 0.3))
def test_any_network_delivers_in_the_end(seed, loss, corrupt):
    """Blocks and requests are lost, doubled, reordered and damaged; edges restart."""
    rng = random.Random(seed)
    sender = BlockSender(settle=0.5)
    sinks = [Buffer() for _ in range(3)]
    edges = [receiver(sink) for sink in sinks]
    now = 0.0
    flying: list[tuple[int, int, bytes]] = []
    for _ in range(200_000):
        if all(edge.done for edge in edges):
            break
        now += 0.05
        for number, sink in enumerate(sinks):
            if rng.random() < 0.002:  # kill -9: only the disk stays
                edges[number] = receiver(sink)
                disk = bytes(sink.data)
                edges[number].prime(lambda offset, count, disk=disk: disk[offset:][:count])
            wanted = edges[number].next_request(now=now)
            if wanted and rng.random() > loss:
                sender.want("d", wanted, size=len(DATA), now=now, block_size=BLOCK)
        chosen = sender.next()
        if chosen is not None:
            sender.sent(chosen, size=BLOCK, now=now)
            for number in range(len(edges)):
                data = bytearray(block(chosen.index))
                if rng.random() < corrupt:
                    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
                if rng.random() > loss:
                    flying += [(number, chosen.index, bytes(data))] * rng.choice([1, 1, 2])
        rng.shuffle(flying)
        while flying and rng.random() < 0.8:
            number, index, data = flying.pop()
            edges[number].take(index, data, now=now)
    assert [bytes(sink.data) == DATA for sink in sinks] == [True] * 3


@pytest.mark.parametrize("window", [1, 2, 64])
def test_every_window_makes_progress(window):
    r = receiver(Buffer(), window=window)
    asked = 0
    while not r.done:
        for i in numbers(r.next_request(now=0.0)):
            r.take(i, block(i), now=0.0)
            asked += 1
    assert asked == COUNT


def test_blocks_leave_no_faster_than_the_rate():
    pace, now, sent = Pace(bytes_per_s=1000, burst=200), 50.0, 0
    rests = []
    for _ in range(30):
        rests.append(pace.rest(100, now=now))
        now += rests[-1]
        sent += 100
    assert rests[:3] == [0.0, 0.0, 0.0]  # after a rest: a burst, and the one that is due
    assert rests[3:] == pytest.approx([0.1] * 27)
    # However long it was silent, it makes up for no more than a burst.
    assert [pace.rest(100, now=now + 3600) for _ in range(4)] == pytest.approx([0, 0, 0, 0.1])
