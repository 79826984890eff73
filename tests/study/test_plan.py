"""What a study is made of: data sets, methods and their cells."""

from pathlib import Path

import pytest
from made_up_study import make_plan, write_data

from rrr_edge.bundle.recipe import RRR, FineTune, LinearProbe
from rrr_edge.errors import BadInput, UsageError
from rrr_edge.study.methods import read_methods
from rrr_edge.study.plan import find_data


def test_a_folder_of_data_sets_stands_for_all_of_them_the_broken_ones_too(tmp_path: Path) -> None:
    write_data(tmp_path / "many", "mugs", "cups")
    (tmp_path / "many" / "empty").mkdir()
    (tmp_path / "many" / "study").mkdir()
    (tmp_path / "many" / "study" / "study.json").touch()
    album = tmp_path / "many" / "album"
    album.mkdir()
    (album / "labels.csv").write_text("FILE_NAME,CATEGORY\n")
    plain = tmp_path / "plain" / "cup"
    plain.mkdir(parents=True)
    (plain / "1.png").touch()
    found = find_data([tmp_path / "many", tmp_path / "plain"])
    assert [data.name for data in found] == ["album", "cups", "empty", "mugs", "plain"]
    assert len({data.listing for data in found if data.listing}) >= 4
    with pytest.raises(UsageError, match="Two data sets have the name mugs"):
        find_data([tmp_path / "many", tmp_path / "many" / "mugs"])
    with pytest.raises(BadInput, match="There is no folder"):
        find_data([tmp_path / "nothing"])


def test_methods_are_names_networks_and_files_and_settings_hold_where_they_fit(tmp_path: Path) -> None:
    (tmp_path / "narrow.toml").write_text('method = "rrr"\nbranches = 4\n[training]\nepochs = 7\nbatch_size = 8\n')
    (tmp_path / "narrower.toml").write_text('method = "channel"\n')
    options = {"epochs": 3, "weights": None, "branches": None}
    words = ["rrr", "linear-probe", "resnet18", str(tmp_path / "narrow.toml")]
    found = {named.name: named.recipes for named in read_methods(words, options)}
    assert [type(recipe) for (recipe,) in found.values()] == [RRR, LinearProbe, FineTune, RRR]
    assert {recipe.training.epochs for (recipe,) in found.values()} == {3}
    assert found["resnet18"][0].backbone == "resnet18"
    (narrow,) = found["narrow"]
    assert isinstance(narrow, RRR)
    assert (narrow.branches, narrow.training.batch_size) == (4, 8)
    (branched, *_), (probe, *_) = (named.recipes for named in read_methods(["rrr", "linear-probe"], {"branches": 2}))
    assert isinstance(branched, RRR)
    assert branched.branches == 2
    assert isinstance(probe, LinearProbe)
    with pytest.raises(UsageError, match="None of these methods has --branches"):
        read_methods(["linear-probe"], {"branches": 2})
    (tmp_path / "slim+x.toml").write_text('method = "channel"\n')
    chains = read_methods([f"finetune+{tmp_path / 'narrower.toml'}", str(tmp_path / "slim+x.toml")], {})
    assert [(named.name, len(named.recipes)) for named in chains] == [("finetune+narrower", 2), ("slim+x", 1)]
    (tmp_path / "my recipe.toml").write_text('method = "rrr"\n')
    with pytest.raises(UsageError, match="cannot name a method"):
        read_methods([str(tmp_path / "my recipe.toml")], {})
    with pytest.raises(UsageError, match="Did you mean 'finetune'"):
        read_methods(["finetun"], {})


def test_cells_go_seed_by_seed_and_have_their_seeds_and_weights(tmp_path: Path) -> None:
    plan = make_plan(write_data(tmp_path / "data", "mugs", "cups"), seeds=(3, 1))
    cells = plan.cells
    assert [cell.seed for cell in cells] == [3] * 4 + [1] * 4
    assert all(cell.recipes[0].seed == cell.seed for cell in cells)
    assert len({cell.words for cell in cells}) == 8
    weighed = plan.methods[0].recipes[0].model_copy(update={"weights": "own/{data}-{backbone}.pth"})
    method = plan.methods[0].model_copy(update={"recipes": (weighed,)})
    found = {cell.recipes[0].weights for cell in plan.model_copy(update={"methods": (method,)}).cells}
    assert found == {"own/cups-resnet152.pth", "own/mugs-resnet152.pth"}
    picking = plan.model_copy(update={"pick": True})
    assert [cell.purpose for cell in picking.cells].count("validation") == len(cells)


def test_chains_begin_anywhere_and_go_on_with_methods_that_can() -> None:
    (chain,) = read_methods(["rrr+basis"], {})
    assert [recipe.method for recipe in chain.recipes] == ["rrr", "basis"]
    with pytest.raises(UsageError, match="^rrr cannot go on from another method's bundle"):
        read_methods(["basis+rrr"], {})
