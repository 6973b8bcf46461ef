"""Topic filters: the trie against paho's matcher, and what is no filter."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.client import topic_matches_sub

from edgebus.bus import SubscribeRefusedError, TopicTrie, check_filter

LEVEL = st.sampled_from(["a", "b", "", "$x", "c d"])
TOPICS = st.lists(LEVEL, min_size=1, max_size=5).map("/".join).filter(bool)
FILTERS = (
    st.tuples(st.lists(st.one_of(LEVEL, st.just("+")), max_size=4), st.sampled_from([[], ["#"]]))
    .map(lambda parts: "/".join(parts[0] + parts[1]))
    .filter(bool)
)


@given(st.lists(FILTERS, max_size=8), st.lists(TOPICS, min_size=1, max_size=4))
def test_matches_what_the_specification_says(filters: list[str], topics: list[str]) -> None:
    trie: TopicTrie[int] = TopicTrie()
    for number, text in enumerate(filters):
        trie.add(text, number)
    for topic in topics * 2:  # the second time from the cache
        expected = [n for n, text in enumerate(filters) if topic_matches_sub(text, topic)]
        assert sorted(trie.match(topic)) == expected


@given(st.lists(FILTERS, min_size=1, max_size=8), st.data())
def test_removing_leaves_the_others(filters: list[str], data: st.DataObject) -> None:
    trie: TopicTrie[int] = TopicTrie()
    for number, text in enumerate(filters):
        trie.add(text, number)
    gone = data.draw(st.sets(st.sampled_from(range(len(filters)))))
    for number in gone:
        trie.remove(filters[number], number)
    topic = data.draw(TOPICS)
    left = [n for n, text in enumerate(filters) if n not in gone and topic_matches_sub(text, topic)]
    assert sorted(trie.match(topic)) == left


def test_removed_branches_are_freed() -> None:
    trie: TopicTrie[int] = TopicTrie()
    trie.add("a/+/c", 1)
    trie.add("a/b", 2)
    trie.remove("a/+/c", 1)
    trie.remove("a/b", 2)
    assert trie._root.children == {}
    with pytest.raises(KeyError):
        trie.remove("a/b", 2)


def test_the_cache_is_bounded() -> None:
    trie: TopicTrie[int] = TopicTrie()
    trie.add("#", 1)
    for number in range(10_000):
        assert trie.match(f"a/{number}") == (1,)
    assert len(trie._cache) <= 4096


@pytest.mark.parametrize("text", ["#", "+", "a/#", "+/+/#", "/", "a//b", "$SYS/#", "ä/é"])
def test_filters(text: str) -> None:
    assert check_filter(text) == text


@pytest.mark.parametrize("text", ["", "a/#/b", "#/a", "a#", "+a", "a/b+", "a\0b", "$share/g/a"])
def test_no_filters(text: str) -> None:
    with pytest.raises(SubscribeRefusedError, match="cannot subscribe"):
        check_filter(text)
