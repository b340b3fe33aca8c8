"""The list of words and the length of sentences: what is found, what may pass, and that counts cannot change."""

import textwrap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.sentences import LONGEST, too_long
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


WORDS = st.sampled_from(["one", "two-fold", "it's", "3.5", "`some code here`", "[0.1, 0.25]", "[a-link](x.md)", "e.g."])


@given(
    st.lists(st.lists(WORDS, min_size=1, max_size=40), min_size=1, max_size=6), st.sampled_from(["page", "docstring"])
)
def test_sentences_are_parted_at_their_ends_and_counted_by_words(parts, kind):
    """Fails if a sentence is missed, joined to the next, cut in two, or one of its pieces counts as several words."""
    text = textwrap.fill(" ".join(f"A {' '.join(words)} b." for words in parts), 80, break_on_hyphens=False)
    wanted = [len(words) + 2 for words in parts if len(words) + 2 > LONGEST]
    if kind == "page":
        found = list(too_long("docs/page.md", f"# A heading\n\n{text}\n"))
    else:
        found = list(too_long("miclab/x.py", f'def f():\n    """{textwrap.indent(text, "    ").strip()}\n    """\n'))
    assert [int(line.split()[1]) for line in found] == wanted


@pytest.mark.parametrize(
    "text", ["```\n{}\n```", "| {} |", "> {}", "$$\n{}\n$$", "# {}", "Code:\n\n    {}\n    {}", "a   {}"]
)
def test_what_is_no_sentence_is_not_counted(text):
    long = " ".join(["word"] * (LONGEST + 1))
    assert not list(too_long("docs/page.md", text.replace("{}", long)))
    assert list(too_long("docs/page.md", f"{text.replace('{}', long)}\n\n- {long}"))


def test_private_docstrings_and_other_texts_of_code_are_not_sentences():
    long = " ".join(["word"] * (LONGEST + 1))
    head = 'class _A:\n    """{0}"""\n\nB = "{0}"\n\nclass C:\n    d: int\n    """{0}"""\n'
    code = head + '    def _e(self):\n        """{0}"""\n'
    assert [line.split(": ")[0] for line in too_long("miclab/x.py", code.format(long))] == ["miclab/x.py:8"]
