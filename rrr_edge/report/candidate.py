"""The bundles of a report, with the profiles of each of their engines."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rrr_edge.bundle.commands import compiling_first, profiling, profiling_named
from rrr_edge.bundle.evaluation import sha256_of
from rrr_edge.bundle.files import sha256
from rrr_edge.bundle.folder import ENGINE, MANIFEST, Bundle
from rrr_edge.bundle.profile import Profile
from rrr_edge.bundle.recipe import FineTune, LinearProbe
from rrr_edge.bundle.sources import AnyBackbone
from rrr_edge.bundle.spec import source_spec
from rrr_edge.errors import CorruptArtifact, UsageError


@dataclass(frozen=True)
class Candidate:
    bundle: Bundle
    profile: Profile

    @property
    def device(self) -> Literal["CPU", "GPU"]:
        return "GPU" if "gpu" in self.profile.target.device.lower() else "CPU"

    @property
    def median_ms(self) -> float:
        return self.profile.engine.summary.median_ms

    @property
    def task(self) -> tuple[tuple[str, ...], AnyBackbone]:
        """The classes, and the source network that was to learn them."""
        return self.bundle.manifest.labels, self.bundle.manifest.recipe.backbone

    @property
    def is_whole(self) -> bool:
        """Whether it is the source network of the paper's baselines, from which nothing was taken."""
        manifest = self.bundle.manifest
        whole = manifest.spec == source_spec(len(manifest.labels), manifest.recipe.backbone)
        return whole and isinstance(manifest.recipe, FineTune | LinearProbe)


def candidates_of(paths: Sequence[Path], *, allow_cross_machine: bool) -> list[Candidate]:
    """Every profile of the bundles at `paths`: bundles in the order given, each bundle's fastest engine first.

    Raises BadInput (no bundle, unreadable profile), UsageError (nothing profiled; several machines, unless allowed)
    and CorruptArtifact (profiled before the bundle was changed, or the engine replaced).
    """
    found = [candidate for path in dict.fromkeys(paths) for candidate in _profiled(Bundle.open(path))]
    machines = {c.profile.environment.machine_id: c.profile.environment.cpu for c in found}
    if len(machines) > 1 and not allow_cross_machine:
        named = " and ".join(f"{cpu} ({machine_id})" for machine_id, cpu in machines.items())
        raise UsageError(
            f"These profiles come from different machines, {named}, and their times cannot share a column.",
            advice="Profile all on one machine, or say --allow-cross-machine.",
        )
    return found


def _unprofiled(bundle: Bundle) -> UsageError:
    engines = [name for name in bundle.engine_folders() if (bundle.engine_folder(name) / ENGINE).is_file()]
    if not engines:
        return UsageError(
            f"{bundle.path} has no engine yet, so it has not been profiled.",
            advice=f"Run: {compiling_first(bundle.path)}",
        )
    target, _, precision = engines[0].rpartition("-")
    return UsageError(
        f"{bundle.path} has not been profiled.", advice=f"Run: {profiling_named(bundle.path, target, precision)}"
    )


def _profiled(bundle: Bundle) -> list[Candidate]:
    found = [Candidate(bundle, Profile.read(bundle.profile_folder(name))) for name in bundle.profile_names()]
    if not found:
        raise _unprofiled(bundle)
    for profile in (candidate.profile for candidate in found):
        name = profile.target.engine_name
        card = sha256_of(bundle, name)
        if profile.manifest_sha256 != sha256(bundle.path / MANIFEST):
            changed = f"{bundle.path} has changed since its {name} engine was profiled."
        elif card and profile.engine_sha256 not in ("", card):
            changed = f"The {name} engine of {bundle.path} has been compiled anew since it was profiled."
        else:
            continue
        raise CorruptArtifact(changed, advice=f"Run: {profiling(bundle.path, profile.target)}")
    return sorted(found, key=lambda candidate: candidate.median_ms)
