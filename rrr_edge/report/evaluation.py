"""The tables of an evaluation, for the terminal and the page alike, and the pictures beside it."""

from collections.abc import Iterator

from rrr_edge.bundle.evaluation import NETWORK, ONNX, Evaluation, ReferenceComparison, sha256_of, worst_confusions
from rrr_edge.bundle.folder import Bundle
from rrr_edge.report.tables import Table
from rrr_edge.timing.statistics import wilson_interval

# Of more classes the matrix is a picture.
LARGEST_MATRIX = 20


def evaluation_of(bundle: Bundle, engine: str) -> Evaluation | None:
    """Of the engine, or else of the graph or the network; None where there is none of what the bundle holds now.

    Raises BadInput and CorruptArtifact.
    """
    names = bundle.evaluation_names()
    for what in (engine, ONNX, NETWORK):
        if what in names:
            found = Evaluation.read(bundle, what)
            if found.what_sha256 == sha256_of(bundle, what):
                return found
    return None


def evaluation_tables(evaluation: Evaluation) -> Iterator[Table]:
    """The whole, by class, the confusion matrix (the worst confusions where it is a picture), the mistakes."""
    yield whole(evaluation)
    yield by_class(evaluation)
    yield matrix(evaluation) if len(evaluation.labels) <= LARGEST_MATRIX else confusions(evaluation)
    if evaluation.mistakes:
        yield mistakes(evaluation)


def whole(evaluation: Evaluation) -> Table:
    accuracy, reference = evaluation.accuracy, evaluation.reference
    rows = [("right", f"{accuracy.accuracy:.1%}", _span(accuracy.interval))]
    if reference:
        rows += [
            (reference_name(reference), f"{reference.accuracy:.1%}", _span(reference.interval)),
            *difference_rows(reference),
        ]
    rows += [(f"class among the {k} likeliest", f"{share:.1%}", "") for k, share in evaluation.top_k.items() if k > 1]
    rows.append(("expected calibration error, 15 bins", f"{accuracy.calibration_error:.3f}", ""))
    caption = f"{evaluation.what} on {accuracy.images} photos ({evaluation.photos})"
    return Table(caption, ("", "found", "95% interval"), rows)


def reference_name(reference: ReferenceComparison) -> str:
    return f"reference: {reference.name} ({reference.network})"


def difference_rows(reference: ReferenceComparison) -> list[tuple[str, str, str]]:
    """The paired difference to the reference, and what it is made of."""
    paired = reference.paired
    low, high = (100 * edge for edge in paired.interval)
    return [
        ("difference, paired, in points", f"{100 * paired.difference:+.1f}", f"{low:+.1f} to {high:+.1f}"),
        ("right where the reference is wrong", f"{paired.only_own}", ""),
        ("wrong where the reference is right", f"{paired.only_reference}", ""),
        ("chance of that if both were equally good (exact McNemar)", f"{paired.p_value:.2g}", ""),
    ]


def by_class(evaluation: Evaluation) -> Table:
    """Classes without photos are left out."""
    worst = {label: f"{answer} ({count})" for label, answer, count, _ in reversed(worst_confusions(evaluation, 10**6))}
    rows = []
    for i, (label, row) in enumerate(zip(evaluation.labels, evaluation.confusion, strict=True)):
        if count := sum(row):
            interval = _span(wilson_interval(row[i], count))
            rows.append((label, f"{count}", f"{row[i] / count:.1%}", interval, worst.get(label, "")))
    return Table("By class", ("class", "photos", "right", "95% interval", "most often taken for"), rows)


def matrix(evaluation: Evaluation) -> Table:
    rows = [
        (label, *(str(count) for count in row))
        for label, row in zip(evaluation.labels, evaluation.confusion, strict=True)
    ]
    return Table("Confusion matrix: rows are classes, columns answers", ("", *evaluation.labels), rows)


def confusions(evaluation: Evaluation) -> Table:
    found = worst_confusions(evaluation)
    rows = [(label, answer, f"{count}", f"{of}", f"{count / of:.1%}") for label, answer, count, of in found]
    return Table("The most frequent confusions", ("class", "taken for", "photos", "of", "share"), rows)


def mistakes(evaluation: Evaluation) -> Table:
    rows = [
        (f"{number}", m.photo, m.label, m.answer, f"{m.probability:.1%}", f"{m.of_label:.1%}")
        for number, m in enumerate(evaluation.mistakes, 1)
    ]
    header = ("", "photo", "is", "taken for", "with probability", "its class had")
    return Table("The most confident mistakes", header, rows)


def _span(interval: tuple[float, float]) -> str:
    return f"{interval[0]:.1%} to {interval[1]:.1%}"
