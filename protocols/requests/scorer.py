"""The learned part of the router: multinomial naive Bayes over a text, and the examples it is trained from.

The examples are package data (`examples.jsonl`), written by hand; a scorer is trained from them once per process.
Nothing is kept elsewhere: a scorer of one's own is trained from one's own examples and stored as JSON by its owner.
A feature counts once per text; one that no example has counts nothing, nor do two words that only one example joins.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files
from itertools import pairwise
from typing import Annotated, Final, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..errors import InvalidInput
from .complexity import WORK_VERBS, complexity_of, signs_of, word_set
from .request import REQUEST_TYPES, Request, RequestType

EXAMPLES_VERSION = 1
SCORER_VERSION: Final = 1
SMOOTHING, TEMPERATURE = 0.3, 3.5
"""Chosen by cross-validation on the train split: the temperature for the log loss, for accuracy it plays no part."""

HEAD_CHARS, TAIL_CHARS = 3_000, 1_000
"""Characters at the beginning and the end of a longer text that are looked at: people say there what they want."""

_SENTENCES = re.compile(r"[.!?](?:\s|$)")
_TOKENS = re.compile(
    r"""(?P<url>https?://\S+)
      | (?P<path>~?/?(?:[\w.-]{1,64}/){1,64}[\w.*-]{0,64}|/[\w.-]+
             |[\w*-]{0,64}\.[a-z]{1,5}\b(?!\.)|\b\w+\(\)|\b\w+_\w+\b)
      | (?P<flag>(?<!\S)--?[a-z][\w-]*)
      | (?P<number>\d+(?:[.,:]\d+)*)
      | (?P<word>[^\W\d_]+(?:['-][^\W\d_]+)*)""",
    re.VERBOSE,
)
_OPENERS = word_set(
    """hey hi hello thanks please pls kindly now ok so could can would you will mind i want need i'd like love to just
    quickly help me let us let's bitte kannst könntest du s'il te vous plaît por favor puedes"""
)
_ASKING = word_set(
    """what what's whats which who who's whose whom when where why how is are was were do does did has have should am
    if in was wer wie wo wann warum wofür welche welcher welches quel quelle que qui comment pourquoi combien où
    qué cuál cuántos cuántas quién cómo dónde"""
)
_LEXICONS: Mapping[str, frozenset[str]] = {
    "ours": word_set(
        """our ours we us my mine this these above below attached attachment uploaded pasted enclosed here unser
        unsere unserem unseren unserer mein meine meinem dieser dieses diesem diese dies notre nos mon ma mes ce
        cette ces ci-joint nuestro nuestra mi mis este esta estos adjunto adjunta"""
    ),
    "past": word_set(
        """earlier previously previous before last yesterday already said say says mentioned mention told asked
        suggested recommended described decided agreed according based other another second option it that vorhin
        gestern steht laut gesagt hier dit selon dice según"""
    ),
    "material": word_set(
        """file files folder document documents doc docs report contract agreement repo repository project code
        codebase base branch module class function method package variable regex script notebook config settings
        readme changelog schema column table spreadsheet sheet invoice minutes transcript memo mail thread
        conversation draft pdf section paragraph ticket log trace handbook manual policy notes slides diagram
        dashboard roadmap team client customer supplier abschnitt datei dokument projekt vertrag vertrags bericht
        rechnung skript fichier document rapport projet contrat archivo documento informe proyecto contrato"""
    ),
    "general": word_set(
        """mean means meaning define definition difference between word synonym opposite plural spell called capital
        country general terms formula example acronym stand purpose usual typical famous history year century
        language bedeutet unterschied heißt signifie capitale différence dit-on significa diferencia capital"""
    ),
    "lengthy": word_set(
        """longer lengthy full full-length long-form extensive extended detailed in-depth thorough depth length
        multi-page pages chapters verses langen lange langes ausführlich ausführliche ausführlichen longue largo
        larga extenso"""
    ),
    "brief": word_set(
        """short brief briefly quick one-line two-line tiny simple sentence joke fact tip greeting note gist kurz
        kurzer bref courte breve corto"""
    ),
    "writing": word_set(
        """essay story tale fable novel chapter saga speech sermon lecture article monologue poem epic ballad
        biography memoir screenplay dialogue letter guide introduction post book text song aufsatz geschichte text
        gedicht texte essai histoire roman conte ensayo historia cuento texto"""
    ),
    "live": word_set(
        """live stream streaming streams follow following tail watch watching monitor continuously constantly ongoing
        real-time realtime updates updated progress arrive arrives happens happen keep until while every refresh
        mitlesen laufend während verfolge jede direct suis suivre continu mesure vivo directo sigue medida -f"""
    ),
    "operable": word_set(
        """server container containers process port image images photo screenshot csv json zip pdf png archive backup
        cache disk cpu database website url endpoint bucket tests test build commit branch tag release deployment
        staging production script command tool calendar reminder appointment meeting email e-mail message ticket
        channel directory folder files lines rows git docker pip npm make grep curl ls python"""
    ),
}
"""Words by subject: possessions of the asker, things said before, materials, general knowledge, length, brevity, kinds
of writing, following along, and objects of tools."""

_LENGTHS = ((4, "tiny"), (8, "short"), (14, "middle"), (22, "long"))


class Scorer(Protocol):
    """The interface of scorers. Called once per request that no rule decides; it must not wait."""

    def scores(self, request: Request) -> Mapping[RequestType, float]:
        """Return a share of 0.0 or more per type. A type left out has none. The shares need not sum to 1."""


class Example(BaseModel):
    """A text and the type it belongs to. Examples of the split `test` are not for training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: Annotated[str, Field(min_length=1, max_length=100_000)]
    type: RequestType
    split: Literal["train", "test"] = "train"


class _Stored(BaseModel):
    """A scorer as JSON; counts are in the order of `types`."""

    model_config = ConfigDict(extra="forbid")

    version: Literal[1]
    types: tuple[RequestType, ...]
    texts: tuple[Annotated[int, Field(ge=1)], ...]
    smoothing: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    counts: dict[str, tuple[Annotated[int, Field(ge=0)], ...]]


@dataclass(frozen=True, slots=True)
class NaiveBayes:
    """Multinomial naive Bayes with Laplace smoothing, in log space, over features that count once per text.

    Source: Manning, Raghavan, Schütze, "Introduction to Information Retrieval", 2008, chapter 13; counting a
    feature once: Wang and Manning, "Baselines and Bigrams", ACL 2012.
    """

    texts: tuple[int, ...]
    """The number of examples per type, in the order of REQUEST_TYPES."""
    counts: Mapping[str, tuple[int, ...]]
    """The number of examples per type that have a feature, by feature."""
    smoothing: float
    """The amount added to every count."""
    temperature: float
    """Divisor of the sum of logarithms: naive Bayes assumes independent features, and would be far too sure."""
    bottoms: tuple[float, ...]
    """The logarithm of all counts of a type together, smoothing included."""

    @classmethod
    def train(
        cls, examples: Iterable[Example], smoothing: float = SMOOTHING, temperature: float = TEMPERATURE
    ) -> NaiveBayes:
        """Train a scorer from all examples, whatever their split: filter them before.

        Raises:
            InvalidInput: a type has no example, or smoothing or temperature is not above 0.
        """
        if not (smoothing > 0.0 and temperature > 0.0):
            raise InvalidInput(problem=f"{smoothing:g} and {temperature:g}: both must be above 0", path="training")
        return _trained(((_features(each.text), each.type) for each in examples), smoothing, temperature)

    @classmethod
    def from_json(cls, text: str) -> NaiveBayes:
        """Read the scorer that `to_json` wrote. It gives the same scores to the last bit.

        Raises:
            InvalidInput: no JSON, another version, other types, or counts that do not fit.
        """
        try:
            stored = _Stored.model_validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise InvalidInput(problem=first["msg"], path=".".join(["scorer", *map(str, first["loc"])])) from error
        if stored.types != REQUEST_TYPES:
            raise InvalidInput(problem=f"it must list {', '.join(REQUEST_TYPES)}", path="scorer.types")
        if {len(REQUEST_TYPES)} != {len(stored.texts), *map(len, stored.counts.values())}:
            raise InvalidInput(problem="a list of counts is not as long as that of types", path="scorer.counts")
        return _built(stored.texts, stored.counts, stored.smoothing, stored.temperature)

    def to_json(self) -> str:
        """Version, types, counts and the two numbers of training; keys are sorted, so equal scorers are equal text."""
        stored = _Stored(
            version=SCORER_VERSION,
            types=REQUEST_TYPES,
            texts=self.texts,
            smoothing=self.smoothing,
            temperature=self.temperature,
            counts=dict(sorted(self.counts.items())),
        )
        return stored.model_dump_json()

    def scores(self, request: Request) -> dict[RequestType, float]:
        """Return the probabilities per type; they sum to 1."""
        return self._scores_of(_features(request.text))

    def _scores_of(self, features: Iterable[str]) -> dict[RequestType, float]:
        return dict(zip(REQUEST_TYPES, self._shares(self._rows(features).values()), strict=True))

    def explain(self, request: Request) -> list[tuple[str, float]]:
        """Return the features of a request, and what each adds to the winner against the mean of the other types.

        Contributions are logarithms over the temperature, largest amount first; features never seen are left out,
        and `prior` is the share of the type among the examples.
        """
        rows = self._rows(_features(request.text))
        shares = self._shares(rows.values())
        winner = shares.index(max(shares))
        means = {name: (math.fsum(row) - row[winner]) / (len(row) - 1) for name, row in rows.items()}
        parts = [(name, (row[winner] - means[name]) / self.temperature) for name, row in rows.items()]
        return sorted(parts, key=lambda part: (-abs(part[1]), part[0]))

    def _rows(self, features: Iterable[str]) -> dict[str, list[float]]:
        """Return the logarithms of probabilities per type, by `prior` and each feature that was seen in training."""
        whole = math.log(sum(self.texts))
        rows = {"prior": [math.log(count) - whole for count in self.texts]}
        for feature in features:
            if counts := self.counts.get(feature):
                tops = (math.log(count + self.smoothing) for count in counts)
                rows[feature] = [top - bottom for top, bottom in zip(tops, self.bottoms, strict=True)]
        return rows

    def _shares(self, rows: Iterable[Iterable[float]]) -> list[float]:
        sums = [math.fsum(column) / self.temperature for column in zip(*rows, strict=True)]
        highest = max(sums)
        shares = [math.exp(each - highest) for each in sums]
        whole = math.fsum(shares)
        return [share / whole for share in shares]


def _trained(rows: Iterable[tuple[list[str], RequestType]], smoothing: float, temperature: float) -> NaiveBayes:
    texts: Counter[RequestType] = Counter()
    counts: dict[str, list[int]] = {}
    places = {kind: place for place, kind in enumerate(REQUEST_TYPES)}
    for features, kind in rows:
        texts[kind] += 1
        for feature in features:
            counts.setdefault(feature, [0] * len(places))[places[kind]] += 1
    missing = [kind for kind in REQUEST_TYPES if not texts[kind]]
    if missing:
        raise InvalidInput(problem=f"there is no example of {', '.join(missing)}", path="examples")
    frozen = {feature: tuple(row) for feature, row in counts.items() if " " not in feature or sum(row) > 1}
    return _built(tuple(texts[kind] for kind in REQUEST_TYPES), frozen, smoothing, temperature)


def _built(
    texts: tuple[int, ...], counts: Mapping[str, tuple[int, ...]], smoothing: float, temperature: float
) -> NaiveBayes:
    totals = [sum(column) for column in zip(*counts.values(), strict=True)] or [0] * len(texts)
    bottoms = tuple(math.log(total + smoothing * max(len(counts), 1)) for total in totals)
    return NaiveBayes(texts, counts, smoothing, temperature, bottoms)


def _features(text: str) -> list[str]:
    """Return the features of a text, each once, in the order found: words, pairs of neighbours, and the shape."""
    looked_at = text if len(text) <= HEAD_CHARS + TAIL_CHARS else f"{text[:HEAD_CHARS]}\n{text[-TAIL_CHARS:]}"
    tokens = _tokens(looked_at)
    pairs = [f"{one} {two}" for one, two in pairwise(tokens)]
    return list(dict.fromkeys([*tokens, *pairs, *_shape(looked_at, tokens)]))


def _tokens(text: str) -> list[str]:
    return [
        found.group() if found.lastgroup in ("word", "flag") else f"<{found.lastgroup}>"
        for found in _TOKENS.finditer(text.lower().replace("’", "'"))
    ]


def _shape(text: str, tokens: list[str]) -> list[str]:
    opening = next((token for token in tokens if token not in _OPENERS), "")
    signs = signs_of(text)
    way = "asks" if opening in _ASKING else "orders" if opening in WORK_VERBS else "?" if "?" in text else "tells"
    speaks_of = [name for name, lexicon in _LEXICONS.items() if not lexicon.isdisjoint(tokens)]
    if any(token in ("<path>", "<url>") or token.startswith("-") for token in tokens):
        speaks_of.append("names")
    return [
        f"length={next((name for limit, name in _LENGTHS if len(tokens) <= limit), 'longest')}",
        f"opens:{opening}",
        f"way={way}",
        f"question={'?' in text}",
        f"sentences={min(len(_SENTENCES.findall(text)), 3)}",
        f"commas={min(text.count(','), 4)}",
        f"verbs={min(signs.verbs, 4)}",
        f"complexity={int(complexity_of(signs) * 5)}",
        f"fence={'```' in text}",
        f"of:{'+'.join(speaks_of) or 'nothing'}",
        f"{way}+{'+'.join(speaks_of) or 'nothing'}",
        *(f"of:{name}" for name in speaks_of),
        *(f"{way} of:{name}" for name in speaks_of),
    ]


@cache
def shipped_examples() -> tuple[Example, ...]:
    """Return the examples that come with Podium, both splits, in the order of the file. Read once per process."""
    lines = files(__package__).joinpath("examples.jsonl").read_text(encoding="utf-8").strip().split("\n")
    version = json.loads(lines[0])["version"]
    if version != EXAMPLES_VERSION:
        raise InvalidInput(problem=f"version {version}, this Podium reads {EXAMPLES_VERSION}", path="examples.jsonl")
    return tuple(Example.model_validate_json(line) for line in lines[1:])


@cache
def shipped_scorer() -> NaiveBayes:
    """Return the scorer for routers without one: trained from the train split, once per process (about 40 ms).

    The test split stays out, so that `evaluate_held_out` speaks of exactly this scorer.
    """
    return NaiveBayes.train(each for each in shipped_examples() if each.split == "train")


class Report(BaseModel):
    """The figures of a scorer on examples that it was not trained on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    examples: int
    accuracy: float
    """The share of the examples that were given their own type."""
    precision: dict[RequestType, float]
    """By type: of the examples that were given the type, the share that belongs to it; 0 if there are none."""
    recall: dict[RequestType, float]
    """By type: of the examples that belong to the type, the share that was given it; 0 if there are none."""
    confusion: dict[RequestType, dict[RequestType, int]]
    """The numbers of examples, by the type that they belong to, then by the type that they were given."""


def evaluate(examples: Iterable[Example], folds: int = 5) -> Report:
    """Cross-validate naive Bayes: each example is judged once, by a scorer trained on the other folds.

    Folds are stratified by type and depend on nothing but the texts (their sha256), so two runs agree.

    Raises:
        InvalidInput: fewer than two folds, or a type with fewer examples than folds.
    """
    dealt = _dealt(examples, folds)
    rows = [[(_features(each.text), each.type) for each in fold] for fold in dealt]
    pairs: list[tuple[RequestType, RequestType]] = []
    for place, fold in enumerate(rows):
        others = [row for other in rows[:place] + rows[place + 1 :] for row in other]
        scorer = _trained(others, SMOOTHING, TEMPERATURE)
        pairs += [(kind, _highest(scorer._scores_of(features))) for features, kind in fold]
    return report_on(pairs)


def evaluate_held_out(examples: Iterable[Example]) -> Report:
    """Train on the split `train`, judge the split `test`."""
    known = tuple(examples)
    scorer = NaiveBayes.train(each for each in known if each.split == "train")
    tested = (each for each in known if each.split == "test")
    return report_on((each.type, _highest(scorer.scores(Request(text=each.text)))) for each in tested)


def report_on(pairs: Iterable[tuple[RequestType, RequestType]]) -> Report:
    """Return the report on pairs of (type the example belongs to, type it was given).

    Raises:
        InvalidInput: there is no pair.
    """
    seen = Counter(pairs)
    if not seen:
        raise InvalidInput(problem="there is nothing to judge", path="examples")
    belong = Counter(own for own, _ in seen.elements())
    given = Counter(guess for _, guess in seen.elements())
    return Report(
        examples=seen.total(),
        accuracy=sum(seen[kind, kind] for kind in REQUEST_TYPES) / seen.total(),
        precision={kind: seen[kind, kind] / max(given[kind], 1) for kind in REQUEST_TYPES},
        recall={kind: seen[kind, kind] / max(belong[kind], 1) for kind in REQUEST_TYPES},
        confusion={own: {guess: seen[own, guess] for guess in REQUEST_TYPES} for own in REQUEST_TYPES},
    )


def _dealt(examples: Iterable[Example], folds: int) -> list[list[Example]]:
    if folds < 2:
        raise InvalidInput(problem=f"{folds} is too few, it takes 2", path="folds")
    by_type: dict[RequestType, list[Example]] = {kind: [] for kind in REQUEST_TYPES}
    for each in examples:
        by_type[each.type].append(each)
    dealt: list[list[Example]] = [[] for _ in range(folds)]
    for kind, group in by_type.items():
        if len(group) < folds:
            raise InvalidInput(problem=f"{len(group)} of {kind}, {folds} folds need {folds}", path="examples")
        for place, each in enumerate(sorted(group, key=lambda each: sha256(each.text.encode()).digest())):
            dealt[place % folds].append(each)
    return dealt


def _highest(scores: Mapping[RequestType, float]) -> RequestType:
    return max(REQUEST_TYPES, key=lambda kind: scores[kind])
