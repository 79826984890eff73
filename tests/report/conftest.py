import pytest
from made_up import full_profile, make_bundle, store

from rrr_edge.report.candidate import Candidate


@pytest.fixture(scope="session")
def full(tmp_path_factory: pytest.TempPathFactory) -> Candidate:
    """A candidate with everything that a profile can hold, on disk. Do not change it."""
    bundle = make_bundle(tmp_path_factory.mktemp("full") / "mugs.rrr")
    return store(bundle, full_profile(bundle))
