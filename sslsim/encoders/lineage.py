"""What checkpoints are to each other, as their lineup tells: their *relation*.

- other step: two moments of one training (`series`);
- counterpart: one was finetuned from the other, both from the same one, or from steps of one training;
- other seed: pretrained by the same recipe with other random numbers (`seed_of`), the ceiling for two separate models;
- same family, other family: anything else of one family or of two; other model: where a family is not named;
- untrained: at least one has random weights, the floor;
- spectrogram: one is the log-mel spectrogram, the input of all of them;
- arrays: one is a folder of arrays without a family, so that it is no model among others (brain data, codes);
- given: one is no model, but what is known of every frame, such as its phone.
"""

import itertools
from dataclasses import dataclass

from sslsim.encoders.lineup import GIVEN, Checkpoint, ends_of_series
from sslsim.errors import Unanswered
from sslsim.parallel import once

SEPARATE = ["other seed", "same family", "other family", "other model"]  # trained, and not from one another
RELATIONS = ["same model", "other step", "counterpart", *SEPARATE, "untrained", "spectrogram", "arrays"]


@dataclass(frozen=True)
class Lineage:
    """Relations of some checkpoints; all go by name, and all lists are in the order of the checkpoints."""

    checkpoints: tuple[Checkpoint, ...]

    @once
    def _named(self) -> dict[str, Checkpoint]:
        return {checkpoint.name: checkpoint for checkpoint in self.checkpoints}

    def _origin(self, name: str, field: str) -> str:
        """Start of a chain of parents; a checkpoint that is not among these is one all the same."""
        chain = [name]
        while chain[-1] in self._named and (parent := getattr(self._named[chain[-1]], field)) and parent not in chain:
            chain.append(parent)
        return chain[-1]

    def relation(self, x: str, y: str) -> str:
        """Return what two checkpoints are to each other, one of `RELATIONS`."""
        a, b = self._named[x], self._named[y]
        if x == y:
            return "same model"
        if GIVEN in (a.source, b.source):
            return GIVEN
        if a.series and a.series == b.series:
            return "counterpart" if None in (a.step, b.step) else "other step"
        if "none" in (a.weights, b.weights):
            return "arrays" if any(each.times and each.weights == "none" for each in (a, b)) else "spectrogram"
        if a.untrained_seed is not None or b.untrained_seed is not None:
            return "untrained"
        for field, relation in (("finetuned_from", "counterpart"), ("seed_of", "other seed")):
            if self._origin(x, field) == self._origin(y, field):
                return relation
        if not a.family or not b.family:
            return "other model"
        return "same family" if a.family == b.family else "other family"

    def trained(self, name: str) -> bool:
        """Return whether the weights of a checkpoint were trained."""
        return self._named[name].weights == "trained"

    def trained_apart(self) -> list[str]:
        """Return all models but those finetuned from another one and earlier steps of a training.

        It is Unanswered if no two of them were trained apart.
        """
        ends = ends_of_series(self.checkpoints)
        trainings = {each.series for each in ends if each.step is not None}  # what is finetuned from them is not apart
        apart = [each for each in ends if each.step is not None or each.series not in trainings]
        kept = [each.name for each in apart if each.finetuned_from not in self._named]
        pairs = itertools.combinations(filter(self.trained, kept), 2)
        if not any(self.relation(*pair) in SEPARATE for pair in pairs):
            advice = "choose two trained checkpoints, neither of them finetuned from the other or from the same model"
            raise Unanswered(f"no two models trained apart among {', '.join(self._named)}; {advice}")
        return kept

    def with_trained(self) -> list[tuple[str, str]]:
        """Return the pairs of which one at least was trained: baselines among themselves need no controls."""
        pairs = itertools.combinations(self._named, 2)
        return [(x, y) for x, y in pairs if self.trained(x) or self.trained(y)]

    def typical_pairs(self) -> list[tuple[str, str]]:
        """Return the first pair of each relation between models trained apart, one of no training, one with arrays."""
        first: dict[str, tuple[str, str]] = {}
        for x, y in itertools.combinations(self._named, 2):
            first.setdefault(self.relation(x, y), (x, y))
        return [first[relation] for relation in [*SEPARATE, "untrained", "arrays"] if relation in first]

    def finetuned_pairs(self) -> list[tuple[str, str]]:
        """Return each finetuned checkpoint behind the pretrained one that it comes from; Unanswered if none is."""
        parents = {name: checkpoint.finetuned_from for name, checkpoint in self._named.items()}
        pairs = [(parent, name) for name, parent in parents.items() if parent is not None and parent in parents]
        if not pairs:
            advice = "choose checkpoints of which one is finetuned_from another"
            raise Unanswered(f"no finetuned counterpart among {', '.join(self._named)}; {advice}")
        return pairs

    def finetuned_family(self) -> list[str]:
        """Return those that say how far finetuning went: pretrained models, their counterparts and other seeds."""
        chosen = {name for pair in self.finetuned_pairs() for name in pair}
        return [name for name, checkpoint in self._named.items() if name in chosen or checkpoint.seed_of in chosen]

    def finetuning_pairs(self) -> list[tuple[str, str]]:
        """Return each pretrained model with its counterparts and yardsticks: other seeds, other families."""
        pretrained = {parent for parent, _ in self.finetuned_pairs()}
        wanted = ("counterpart", "other seed", "other family")
        pairs = itertools.product(self._named, self._named)
        return [(x, y) for x, y in pairs if x in pretrained and self.relation(x, y) in wanted]
