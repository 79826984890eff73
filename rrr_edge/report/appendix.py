"""The report's tables of verifications, layers, classes and machines."""

from collections.abc import Sequence

from rrr_edge.bundle.engine import Engine
from rrr_edge.bundle.environment import Environment
from rrr_edge.bundle.folder import ENGINE, Bundle
from rrr_edge.bundle.profile import Profile
from rrr_edge.bundle.verification import Verification, shares_of
from rrr_edge.errors import BadInput
from rrr_edge.report.candidate import Candidate
from rrr_edge.report.tables import Table, machine_words
from rrr_edge.report.words import title_of

_SLOWEST = 12


def slowest_layers(profile: Profile) -> Table:
    slowest = sorted(profile.layers, key=lambda layer: -layer.ms)[:_SLOWEST]
    rows = [
        (
            layer.name,
            layer.part,
            layer.kind,
            layer.precision,
            f"{layer.ms:.4f}",
            f"{layer.ms / profile.engine.summary.median_ms:.1%}",
            f"{profile.images_computed * layer.macs / layer.ms / 1e6:.1f}" if layer.ms and layer.macs else "",
        )
        for layer in slowest
    ]
    header = ("layer", "part", "kind", "precision", "ms", "of the run", "GMAC/s")
    return Table(f"The {len(rows)} slowest of {len(profile.layers)} layers", header, rows)


def verifications(bundles: Sequence[Bundle]) -> Table:
    """Of each bundle the ONNX graph and every engine; one that is no longer what was verified is refused."""
    rows = []
    for bundle in bundles:
        rows.append(_verified(f"{bundle.manifest.name}, model.onnx", bundle.manifest.verification, "fp32"))
        for name in bundle.engine_names():
            what = f"{bundle.manifest.name}, {name}"
            try:
                engine = bundle.engine(Engine.from_json_file(bundle.engine_folder(name) / ENGINE).target)
            except BadInput as error:
                why = str(error).replace(str(bundle.path), bundle.path.name)
                rows.append((what, f"refused: {why}", *[""] * 7))
                continue
            record = bundle.verified(engine)
            if record is not None:
                what = f"{what}, on {record.versions.get('gpu', record.machine)}"
            elif engine.verified_by == "graph":
                what = f"{what}: its graph, on the CPU; it has not run on a GPU"
            rows.append(_verified(what, (record or engine).verification, shares_of(engine.precision_found)))
    header = (
        "what",
        "verdict",
        "against",
        "images",
        "top-1 alike",
        "largest difference",
        "accuracy before",
        "after",
        "MACs run in",
    )
    return Table("Answers compared with those that were stored when the network was made", header, rows)


def _verified(what: str, proof: Verification, precision: str) -> tuple[str, ...]:
    return (
        what,
        "passed" if proof.passed else f"failed: {'; '.join(proof.failures)}",
        proof.against,
        f"{proof.images:,}",
        proof.agreement_words,
        f"{proof.max_abs_diff:.2g}",
        f"{proof.accuracy_reference:.2%}",
        f"{proof.accuracy:.2%}",
        precision,
    )


def per_class(candidate: Candidate) -> Table:
    accuracy = candidate.profile.accuracy
    rows = [(name, f"{share:.1%}") for name, share in accuracy.per_class.items()] if accuracy else []
    return Table("How often the network is right, by class (before it was compiled)", ("class", "right"), rows)


def environment(profile: Profile) -> Table:
    here = profile.environment
    rows = [
        ("machine", here.machine_id),
        ("CPU", here.cpu),
        ("cores, threads used", f"{here.cores}, {here.threads}"),
        ("instruction sets", ", ".join(here.isa)),
        ("governor", here.governor),
        ("quota of the container", f"{here.quota:g} cores" if here.quota else "none"),
        ("GPU", "; ".join(f"{gpu.name}, driver {gpu.driver}" for gpu in here.gpus) or "none"),
        ("system", here.os),
        ("Python", here.python),
        *here.versions.items(),
        ("measured", profile.created),
    ]
    return Table(f"Where {title_of(profile)} was measured", ("", ""), rows)


def environment_line(here: Environment) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in here.versions.items())
    return (
        f"{machine_words(here)}, {here.threads} of {here.cores} cores, governor {here.governor}, {here.os}, {versions}"
    )
