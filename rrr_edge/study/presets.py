"""Studies that are known by a name: the paper's five models, and its figures 4 and 5."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import ValidationError

from rrr_edge.bundle.recipe import RRR, FineTune, LinearProbe, Recipe
from rrr_edge.bundle.settings import wrong_options
from rrr_edge.bundle.training import Selection, Training
from rrr_edge.errors import UsageError, choose
from rrr_edge.study.methods import Named
from rrr_edge.study.plan import Method

# Mean errors over the 40 data sets of Meta-Album micro (Sun et al. 2023, table of section 4).
PAPER_MEANS: Mapping[str, str] = {"A": "35.8", "B": "36.0", "C": "40.3", "D": "39.9", "E": "35.5"}
# Appendix C: the authors' weights are timm's; each branch has batches of its own.
_TRAINING = Training(epochs=300)
_REUSED: Mapping[str, Any] = {"weights": "timm", "image_size": 128, "fit": "squash"}


class Preset(NamedTuple):
    """Methods and seeds, as published."""

    methods: tuple[Named, ...]
    seeds: tuple[int, ...]


def _paper() -> Preset:
    """[A] only the classifier learns, [B] all, [C] the reduced network, [D] with dropout, [E] 8 branches as printed.

    These are figures 6 to 8. The dropout rate is the one that the paper reports, the best of seven on the data that it
    reports them on. The seeds are those of the authors' commands.
    """
    recipes: dict[str, Recipe] = {
        "A": LinearProbe(training=_TRAINING, **_REUSED),
        "B": FineTune(training=_TRAINING, **_REUSED),
        "C": RRR(branches=1, split="paper", training=_TRAINING, **_REUSED),
        "D": RRR(branches=1, split="paper", dropout=0.05, training=_TRAINING, **_REUSED),
        "E": RRR(branches=8, split="paper", training=_TRAINING, **_REUSED),
    }
    return Preset(_named(recipes), (21, 31, 51))


def _figure4() -> Preset:
    """Figure 4: block selection that never stops, and ResNet_1_1_1_1 trained for as many epochs."""
    selection = Selection(stop=False, control=True)
    training = Training(epochs=300, ema_fraction=0.0)
    recipe = RRR(depths="auto", branches=1, split="paper", selection=selection, training=training, **_REUSED)
    return Preset(_named({"blocks": recipe}), (21, 31, 41, 51, 61))


def _figure5() -> Preset:
    """Figure 5: 1, 2, 4, ... 128 branches."""
    recipes: dict[str, Recipe] = {
        f"rrr-{branches}": RRR(branches=branches, split="paper", training=_TRAINING, **_REUSED)
        for branches in (1, 2, 4, 8, 16, 32, 64, 128)
    }
    return Preset(_named(recipes), (21, 31, 41, 51, 61))


def _named(recipes: Mapping[str, Recipe]) -> tuple[Named, ...]:
    return tuple(Named(name, (recipe,)) for name, recipe in recipes.items())


PRESETS = {"paper": _paper, "figure4": _figure4, "figure5": _figure5}


def read_preset(name: str, options: Mapping[str, Any]) -> Preset:
    """The preset with every option that is not None in the place of the published setting. Raises UsageError."""
    preset = PRESETS[choose(name, PRESETS, "preset")]()
    changed = {key: value for key, value in options.items() if value is not None}
    for key in changed:
        if len({getattr(recipe, key, None) for _, recipes in preset.methods for recipe in recipes} - {None}) > 1:
            option = f"--{key.replace('_', '-')}"
            raise UsageError(f"{option} is what the preset {name} varies.", advice=f"Leave {option} or --preset out.")
    return preset._replace(methods=_with(preset.methods, changed))


def paper_mean(method: Method) -> str:
    """The paper's mean error of a method in %, where its recipe is the paper's; else ""."""
    published = dict(_paper().methods).get(method.name)
    return PAPER_MEANS[method.name] if published == method.recipes else ""


def _with(methods: Sequence[Named], changed: Mapping[str, Any]) -> tuple[Named, ...]:
    found = []
    for name, recipes in methods:
        own = []
        for recipe in recipes:
            data = recipe.model_dump()
            for key, value in changed.items():
                if key in Training.model_fields:
                    data["training"][key] = value
                elif key in data:
                    data[key] = value
                else:
                    raise UsageError(f"The preset's {name} has no --{key.replace('_', '-')}.", advice="Leave it out.")
            try:
                own.append(type(recipe).model_validate(data))
            except ValidationError as error:
                raise wrong_options(error) from error
        found.append(Named(name, tuple(own)))
    return tuple(found)
