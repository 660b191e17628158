"""The best run of each data set, among runs that can be compared."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from models.evaluation.measure_names import kind_of
from models.report.evaluations import Evaluated
from models.report.views import Entry


@dataclass(frozen=True)
class Best:
    """The best run of a data set. reason: why it is the best. caution: limits of the comparison, may be empty."""

    dataset: str
    entry: Entry
    reason: str
    caution: str = ""


def best_of(entries: Sequence[Entry]) -> list[Best]:
    """Return the best run of each data set: by its ratio of distance to floor, else by its test loss.

    Ratios are compared among runs with the same protocol, losses among runs with the same loss function.
    """
    datasets = dict.fromkeys(entry.data for entry in entries if entry.dataset)
    found = (_best([entry for entry in entries if entry.data == data]) for data in datasets)
    return [best for best in found if best is not None]


def _best(entries: Sequence[Entry]) -> Best | None:
    protocols = Counter(name for entry in entries for name in dict.fromkeys(one.comparable for one in entry.measured))
    if not protocols:
        return _by_loss(entries)
    protocol, _ = protocols.most_common(1)[0]
    group: list[tuple[Evaluated, Entry]] = []
    for entry in entries:
        same = [evaluated for evaluated in entry.measured if evaluated.comparable == protocol]
        group += [(min(same, key=_ratio), entry)] if same else []
    group.sort(key=lambda row: _ratio(row[0]))
    evaluated, best = group[0]
    recognised = f", {evaluated.recognised.shown} recognised" if evaluated.recognised else ""
    reason = f"distance {_ratio(evaluated):g} times that of real images{recognised}. {evaluated.title}"
    others = len(entries) - len(group)
    cautions = []
    if len(group) > 1 and _overlap(evaluated, group[1][0]):
        cautions.append(f"the interval of its distance overlaps that of {group[1][1].name}")
    if others:
        cautions.append(f"{others} of {len(entries)} runs are not measured with the same protocol")
    return Best(best.dataset, best, reason, "; ".join(cautions))


def _by_loss(entries: Sequence[Entry]) -> Best | None:
    """Return the run with the lowest test loss among those with the most common loss function; None without losses."""
    with_loss = [entry for entry in entries if entry.best_test_loss is not None and entry.loss]
    if not with_loss:
        return None
    loss, _ = Counter(entry.loss for entry in with_loss).most_common(1)[0]
    group = [entry for entry in with_loss if entry.loss == loss]
    best = min(group, key=lambda entry: entry.best_test_loss or 0)
    runs = f"{len(group)} runs" if len(group) > 1 else "one run"
    reason = f"lowest test loss, {best.best_test_loss:.4g}, of {runs} with the loss {loss}"
    caution = "its evaluation has no value for distance / floor" if best.evaluated else "not evaluated yet"
    return Best(best.dataset, best, reason, caution)


def _ratio(evaluated: Evaluated) -> float:
    """Return the ratio of distance to floor of an evaluation that has one."""
    assert evaluated.over_floor is not None
    return evaluated.over_floor


def _overlap(one: Evaluated, other: Evaluated) -> bool:
    """Return whether the intervals of two distances overlap. False if an interval is missing."""
    first, second = _interval(one), _interval(other)
    return first is not None and second is not None and first[0] <= second[1] and second[0] <= first[1]


def _interval(evaluated: Evaluated) -> tuple[float, float] | None:
    """Return the interval of the first Frechet distance, None if there is none."""
    distances = (measure for measure in evaluated.measures if kind_of(measure.name) == "fd")
    distance = next(distances, None)
    if distance is None or distance.low is None or distance.high is None:
        return None
    return distance.low, distance.high
