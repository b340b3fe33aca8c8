"""The list of words: what it finds in a line, what it lets pass, and that its counts can neither grow nor shrink."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.words import LIST, complaints, find_words, main, read_rules

RULES = read_rules(
    """
["zorb zorbs"]
say = "ball"
within = [["zorb_key", "a key"]]
[plim]
say = "path"
only = ["here/"]
[quax]
say = "duck"
allowed = [["a.py", 2, "not mended yet"], ["b/", 1, "likewise"]]
"""
)
FORMS = [
    "zorb",
    "Zorbs",
    "ZORB",
    "_zorb",
    "make_zorb_now",
    "makeZorbNow",
    "ZorbOfA",
    "HTTPZorb",
    "zorb2",
    "x.zorb(",
    "'zorb'",
]
OTHERS = ["zorba", "azorb", "zorb_key", "sorb", "zor_b", "MakeZorba", "plim", "ball"]


def lines_of(path: str, text: str) -> list[str]:
    return [line for line in complaints(RULES, find_words(RULES, path, text)) if line.startswith(f"{path}:")]


@given(st.lists(st.tuples(st.sampled_from(FORMS + OTHERS), st.sampled_from([" ", "\n"])), max_size=12))
def test_whole_words_and_parts_of_names_are_found_where_they_stand(pieces):
    """Fails if a form is missed or counted twice, another word is taken for it, or a line's number is wrong."""
    text, wanted = "", []
    for piece, end in pieces:
        if piece in FORMS:
            wanted.append(text.count("\n") + 1)
        text += piece + end
    found = lines_of("other/x.py", text)
    assert [int(line.split(":")[1]) for line in found] == wanted
    assert all(line.endswith("-> say ball") for line in found)


def test_a_word_may_be_listed_for_some_places_alone():
    assert lines_of("here/x.py", "a plim") == ["here/x.py:1: plim -> say path"]
    assert not lines_of("there/x.py", "a plim")


@pytest.mark.parametrize(("first", "second", "wrong"), [(2, 1, []), (3, 1, ["a.py"]), (1, 1, ["a.py"]), (2, 0, ["b/"])])
def test_a_count_is_a_ratchet(first, second, wrong):
    """Fails if a counted exception may grow, or be higher than what is left."""
    found = [*find_words(RULES, "a.py", "quax\n" * first), *find_words(RULES, "b/c.py", "quax " * second)]
    assert [line.partition(":")[0] for line in complaints(RULES, found)] == wrong


def test_the_list_says_why_and_the_project_keeps_to_it(capsys):
    for rule in (rules := read_rules(Path(LIST).read_text(encoding="utf-8"))):
        assert rule.say
        assert rule.forms
    assert len({form for rule in rules for form in rule.forms}) == sum(len(rule.forms) for rule in rules)
    assert main() == 0, capsys.readouterr().out
