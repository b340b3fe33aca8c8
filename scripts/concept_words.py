"""Which concepts there are, and the phrases that mean each of them."""

from __future__ import annotations

import collections
import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from concept_definitions import Sense, WordNet

Code = tuple[str, ...]
"""A sequence of Unicode code points in hexadecimal, without variation selectors."""
Option = tuple[str, str, np.ndarray]
"""A phrase: its text, its kind, its unit vector [100]."""

FEWEST, MOST, NEAR, SAME, FITS = 4, 6, 0.2, 0.98, 0.1
"""Phrases of a concept: at least, at most; cosine with the name that one beyond the fewest must reach; cosine with a
phrase already taken above which it says nothing new; cosine with the keywords that a meaning must exceed."""
RAREST, RELATIVES = 14, 12
"""How many shared texts of a concept are combined, and how many relatives of a meaning are taken."""
FUNCTION_WORDS = frozenset(["of", "the", "with", "and", "in", "on", "a", "to", "at", "for", "over", "out", "up"])
SHORTCODES = ("cldr", "emojibase", "emojibase-legacy", "github", "iamcal", "joypixels")


@dataclass
class Concept:
    """A concept that is still a candidate; `version` is Unicode's, `phrases` come later."""

    code: Code
    version: float
    name: str
    group: str
    subgroup: str
    phrases: list[Option] = field(default_factory=list)


def code_of(text: str) -> Code:
    """A code from hexadecimal numbers joined by hyphens."""
    return tuple(part for part in text.lower().split("-") if part != "fe0f")


def left_out(code: Code, entry: dict[str, Any], subgroup: str) -> str | None:
    """The rule by which a concept is left out, or None: what stays differs by picture and by name."""
    label = entry["label"]
    if code == ("1f4dc",):
        # Its name in the package of OpenMoji, "scroll", is also that of a mouse's wheel, and that is what it draws.
        return "a drawing of something else in one of the packages"
    if "gender" in entry or (len(code) > 1 and code[0] in ("1f468", "1f469")):
        return "a gendered form of a concept that has a neutral one"
    if "27a1" in code:
        return "a mirrored form"
    if subgroup in ("country-flag", "subdivision-flag"):
        return "a flag of a country or region"
    if subgroup == "keycap":
        return "a keycap"
    if subgroup == "time" and ("o’clock" in label or "thirty" in label):
        return "a clock face"
    return None


def candidates(emojibase: Path, drawn: list[set[Code]]) -> tuple[list[Concept], dict[str, int]]:
    """Concepts that all artists drew and no rule leaves out, in Unicode's order; and how many each rule left out."""
    groups = json.loads((emojibase / "meta" / "groups.json").read_text())
    entries = json.loads((emojibase / "en" / "data.json").read_text())
    kept: list[Concept] = []
    counts: collections.Counter[str] = collections.Counter()
    for entry in sorted(entries, key=lambda e: e.get("order", math.inf)):
        code = code_of(entry["hexcode"])
        if "group" not in entry or not all(code in artist for artist in drawn):
            counts["not drawn by all four artists"] += 1
            continue
        subgroup = groups["subgroups"][str(entry["subgroup"])]
        rule = left_out(code, entry, subgroup)
        if rule:
            counts[rule] += 1
            continue
        name = entry["label"].replace("’", "'").replace("“", '"').replace("”", '"')
        kept.append(Concept(code, entry["version"], name, groups["groups"][str(entry["group"])], subgroup))
    return kept, dict(counts)


def words_of(text: str) -> tuple[str, ...]:
    """Lower-case words of a name, keyword or short code."""
    return tuple(word for word in re.split(r"[\s_\-:’'“”\"(),.!/&]+", text.lower()) if word)


class Vectors:
    """Static word vectors; a phrase is the mean of its words' directions, the rarer word weighing more.

    Weights are a / (a + p) with a = 0.001 (Arora, Liang and Ma 2017, "A simple but tough-to-beat baseline for sentence
    embeddings"), p estimated from the word's rank by Zipf's law. The mean of all phrases is then taken away.
    """

    def __init__(self, path: Path):
        content = json.loads(path.read_text())
        self.rank = {word: i for i, word in enumerate(content["words"])}
        self.table: dict[str, list[float]] = content["vectors"]
        self.centre = np.zeros(100)

    def known(self, words: tuple[str, ...]) -> bool:
        """Whether every word has a vector."""
        return all(word in self.rank for word in words)

    def raw(self, words: tuple[str, ...]) -> np.ndarray:
        """Direction of a phrase before centring."""
        total = np.zeros(100)
        for word in words:
            vector = np.array(self.table[word][:100])
            probability = 0.1 / (self.rank[word] + 3)
            total += vector / math.sqrt(math.fsum(vector**2)) * (0.001 / (0.001 + probability))
        return total / math.sqrt(math.fsum(total**2))

    def phrase(self, words: tuple[str, ...]) -> np.ndarray:
        """Unit vector of a phrase."""
        vector = self.raw(words) - self.centre
        return vector / math.sqrt(math.fsum(vector**2))


def content_words(words: tuple[str, ...]) -> frozenset[str]:
    """The words of a phrase without function words, unless there are no others."""
    return frozenset(word for word in words if word not in FUNCTION_WORDS) or frozenset(words)


def _sources(emojibase: Path, emojilib: Path) -> list[dict[Code, list[str]]]:
    tables = []
    for name in SHORTCODES:
        content = json.loads((emojibase / "en" / "shortcodes" / f"{name}.json").read_text())
        tables.append({code_of(k): [v] if isinstance(v, str) else v for k, v in content.items()})
    entries = json.loads((emojibase / "en" / "data.json").read_text())
    tables.append({code_of(e["hexcode"]): e.get("tags", []) for e in entries})
    content = json.loads((emojilib / "dist" / "emoji-en-US.json").read_text())
    tables.append({code_of("-".join(f"{ord(c):x}" for c in k)): v for k, v in content.items()})
    return tables


def _together(
    shared: list[frozenset[str]], owners: dict[frozenset[str], set[Code]]
) -> Iterator[tuple[frozenset[str], ...]]:
    """Pairs, or else triples, of keywords that only one concept has together; each keyword is used once."""
    free = shared[:RAREST]
    while free:
        first = free.pop(0)
        groups = itertools.chain(((k,) for k in free), itertools.combinations(free, 2))
        partners = next((g for g in groups if len(set.intersection(owners[first], *(owners[k] for k in g))) == 1), None)
        if partners is not None:
            free = [k for k in free if k not in partners]
            yield first, *partners


def _dictionary_forms(name: str) -> list[str]:
    """A name, its singular, and the same of its last word unless a function word makes that another thing's."""
    words = words_of(name)
    forms = [name] if FUNCTION_WORDS & set(words) else [name, *words[-1:]]
    singular = [re.sub(r"ies$", "y", form) if form.endswith("ies") else form.removesuffix("s") for form in forms]
    return [form for pair in zip(forms, singular, strict=True) for form in pair]


def _meaning(
    name: str, keywords: list[np.ndarray], vectors: Vectors, wordnet: WordNet
) -> tuple[Sense, np.ndarray] | None:
    """The meaning of a name that is nearest to the mean of its keywords, with its definition's vector; None if no
    cosine with that mean exceeds 0.1. A meaning is compared by the words of its definition and relatives together."""
    mean = sum(keywords, np.zeros(100))
    mean /= max(math.sqrt(math.fsum(mean**2)), 1e-9)
    best, nearest = None, FITS
    senses = next((found for found in map(wordnet.senses, _dictionary_forms(name)) if found), [])
    for sense in senses:
        defined, whole = (
            tuple(word for word in words_of(re.sub(r"[^A-Za-z' -]", " ", text)) if word in vectors.rank)
            for text in (sense.definition, " ".join((sense.definition, *sense.lemmas, *sense.relatives)))
        )
        if len(content_words(defined)) >= 2:
            near = round(float(vectors.phrase(whole) @ mean), 9)
            if near > nearest:
                best, nearest = (sense, vectors.phrase(defined)), near
    return best


Texts = dict[frozenset[str], tuple[str, tuple[str, ...]]]
"""Names and keywords of a concept by their words: the text and its words in order."""


def _add(found: Texts, texts: Iterable[str], vectors: Vectors) -> None:
    for text in texts:
        words = words_of(text)
        if words and vectors.known(words):
            found.setdefault(content_words(words), (" ".join(text.replace("_", " ").split()), words))


@dataclass
class Material:
    """What phrases of a concept can be made of: words of its name that are known, its texts, its definition."""

    named: tuple[str, ...]
    texts: Texts
    definition: list[Option]

    @property
    def others(self) -> Texts:
        """The texts other than the name."""
        return {key: text for key, text in self.texts.items() if not self.named or key != content_words(self.named)}


def materials(
    concepts: list[Concept], emojibase: Path, emojilib: Path, vectors: Vectors, wordnet: WordNet
) -> dict[Code, Material]:
    """Material of each concept: short codes, keywords, and the words that WordNet gives to the name's meaning and to
    the next wider and narrower ones. Sets the centre of the vectors."""
    tables = _sources(emojibase, emojilib)
    found: dict[Code, Material] = {}
    for concept in concepts:
        named = tuple(word for word in words_of(concept.name) if word in vectors.rank)
        texts: Texts = {content_words(named): (concept.name, named)} if named else {}
        _add(texts, (t for table in tables for t in table.get(concept.code, [])), vectors)
        found[concept.code] = Material(named, texts, [])
    everything = [vectors.raw(words) for material in found.values() for _, words in material.texts.values()]
    vectors.centre = np.array([math.fsum(column) for column in np.stack(everything).T]) / len(everything)
    for concept in concepts:
        material = found[concept.code]
        keywords = [vectors.phrase(words) for _, words in material.others.values()]
        meaning = _meaning(concept.name, keywords, vectors, wordnet)
        if meaning:
            material.definition = [(meaning[0].definition, "definition", meaning[1])]
            _add(material.texts, [*meaning[0].lemmas, *meaning[0].relatives[:RELATIVES]], vectors)
    return found


def add_phrases(concepts: list[Concept], found: dict[Code, Material], vectors: Vectors) -> list[Concept]:
    """The concepts that have at least four phrases, with these.

    The first is the name. Then come, nearest to the name first: synonyms (texts that belong to this concept alone),
    combinations (two texts, or three, that other concepts have too, but none has all of them; the rarest first, each
    used once), and the definition of the name. Three always, up to five while the cosine with the name reaches 0.2. No
    two concepts share a phrase; of names with the same known words the first stays. Concepts that cannot have two
    phrases are taken away first, then those that cannot have three, then four: what they shared with others is these
    others' own from then on.
    """
    kept = [concept for concept in concepts if set(found[concept.code].named) - FUNCTION_WORDS]
    for fewest in range(2, FEWEST + 1):
        owners: dict[frozenset[str], set[Code]] = collections.defaultdict(set)
        for concept in kept:
            for key in found[concept.code].texts:
                owners[key].add(concept.code)
        taken: set[bytes] = set()
        for concept in kept:
            concept.phrases = _phrases(concept.name, found[concept.code], owners, taken, vectors)
            if _stored(concept.phrases[0][2]) in taken:
                # The same known words as an earlier name, such as "1st place medal" and "2nd place medal".
                concept.phrases = []
            taken |= {_stored(vector) for _, _, vector in concept.phrases}
        kept = [concept for concept in kept if len(concept.phrases) >= fewest]
    return kept


def _phrases(
    name: str,
    material: Material,
    owners: dict[frozenset[str], set[Code]],
    taken: set[bytes],
    vectors: Vectors,
) -> list[Option]:
    others = material.others
    options = [(text, "synonym", vectors.phrase(words)) for k, (text, words) in others.items() if len(owners[k]) == 1]
    options += material.definition
    shared = sorted((k for k in others if len(owners[k]) > 1), key=lambda k: len(owners[k]))
    for group in _together(shared, owners):
        words = tuple(sorted(frozenset().union(*group)))
        options.append((" + ".join(others[k][0] for k in group), "combination", vectors.phrase(words)))
    return _choose(name, vectors.phrase(material.named), options, taken)


def _stored(vector: np.ndarray) -> bytes:
    return vector.astype(np.float16).tobytes()


def _choose(text: str, name: np.ndarray, options: list[Option], taken: set[bytes]) -> list[Option]:
    """The name and what is chosen beside it; `taken` are the vectors of other concepts."""
    phrases: list[Option] = [(text, "name", name)]
    for option in sorted(options, key=lambda o: -round(float(o[2] @ name), 9)):
        enough = len(phrases) >= MOST or (len(phrases) >= FEWEST and float(option[2] @ name) < NEAR)
        new = all(float(option[2] @ other[2]) < SAME for other in phrases) and _stored(option[2]) not in taken
        if not enough and new:
            phrases.append(option)
    return phrases
