"""The built-in demo data: a small synthetic shop, generated from a recipe with a seed. Nothing in it is real.

A user has a few departments and one style to their taste. A purchase mostly comes from a category that goes with the
last one (``next`` of the recipe), of the same brand and style; otherwise from a category to the user's taste. So the
order of purchases and the item texts both tell what comes next. Some items arrive late and end histories: they are
cold under leave-one-out.
"""

import datetime
import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from pipeline_lib.interactions.raw import RawData
from pipeline_lib.params_file import read_tree
from pipeline_lib.parsing import parse
from pipeline_lib.ranges import NonNegativeInt, PositiveFloat, PositiveInt, ShareBelowOne
from pipeline_lib.seeding import numpy_generator

DAY = 24 * 3600


@dataclass(frozen=True)
class History:
    least: PositiveInt
    mean: PositiveFloat
    most: PositiveInt


@dataclass(frozen=True)
class Behaviour:
    """Shares and weights, each explained in the recipe."""

    follow: float
    same_brand: float
    same_style: float
    popularity: float
    repeat: float
    tastes: float


@dataclass(frozen=True)
class Style:
    name: str
    adjectives: tuple[str, ...]
    sentence: str


@dataclass(frozen=True)
class Category:
    name: str
    noun: str
    kinds: tuple[str, ...]
    words: str
    next: tuple[str, ...]


@dataclass(frozen=True)
class Department:
    name: str
    brands: tuple[str, ...]
    categories: tuple[Category, ...]


@dataclass(frozen=True)
class Recipe:
    seed: NonNegativeInt
    users: PositiveInt
    items: PositiveInt
    late_items: ShareBelowOne
    first_day: str
    days: PositiveInt
    history: History
    behaviour: Behaviour
    styles: tuple[Style, ...]
    departments: tuple[Department, ...]


@dataclass(frozen=True)
class _Shelves:
    """Items as arrays, all ``(N,)``: category, brand and style numbers, popularity weight, and who arrives late.

    For each of C categories: its item numbers (``shelf``), ``department (C,)``, and ``followers (C, 2)``, the
    categories that go with it.
    """

    category: np.ndarray
    brand: np.ndarray
    style: np.ndarray
    weight: np.ndarray
    late: np.ndarray
    shelf: list[np.ndarray]
    department: np.ndarray
    followers: np.ndarray


def generate(recipe_path: Path) -> RawData:
    """Generate the shop: the same recipe gives the same data.

    Args:
        recipe_path: a ``shop.yaml``, or the folder that holds one.

    Returns:
        Interactions by user, then time, without ratings; items with ``title``, ``brand``, ``categories`` (list) and
        ``description``.

    Raises:
        FileNotFoundError: if there is no recipe.
        ValueError: naming the key of the recipe that is wrong.
    """
    recipe = _read_recipe(recipe_path / "shop.yaml" if recipe_path.is_dir() else recipe_path)
    shelves, items = _stock(recipe, numpy_generator(recipe.seed, "items"))
    rng = numpy_generator(recipe.seed, "users")
    start = int(datetime.datetime.fromisoformat(recipe.first_day).replace(tzinfo=datetime.UTC).timestamp())
    users, bought, times = [], [], []
    for user in range(recipe.users):
        visits = _visits(recipe, rng)
        users.append(np.full(len(visits), user))
        bought.append(_purchases(shelves, recipe, len(visits), visits[-1] > 0.85 * recipe.days * DAY, rng))
        times.append(start + visits)
    item_ids = items["item_id"].to_numpy()
    interactions = pl.DataFrame({
        "user_id": [f"u{user:04d}" for user in np.concatenate(users)],
        "item_id": item_ids[np.concatenate(bought)],
        "timestamp": np.concatenate(times),
        "rating": None,
    }, schema={"user_id": pl.String, "item_id": pl.String, "timestamp": pl.Int64, "rating": pl.Float32})
    return RawData(interactions, items)


def _read_recipe(path: Path) -> Recipe:
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; restore it from git, or set ingest.path to a folder that has "
                                "a shop.yaml")
    tree = dict(read_tree(path))
    if "first_day" in tree:
        tree["first_day"] = str(tree["first_day"])  # YAML reads a bare day as a date
    recipe = parse(Recipe, tree, path.name)
    names = [category.name for department in recipe.departments for category in department.categories]
    for name in itertools.chain(*(category.next for dep in recipe.departments for category in dep.categories)):
        if name not in names:
            raise ValueError(f"{path}: next names the category {name}, which there is not; known: {', '.join(names)}")
    return recipe


def _stock(recipe: Recipe, rng: np.random.Generator) -> tuple[_Shelves, pl.DataFrame]:
    """Items spread evenly over categories: distinct pairs of brand and kind, a style each."""
    pairs = [(department, category) for department in recipe.departments for category in department.categories]
    places = {category.name: place for place, (_, category) in enumerate(pairs)}
    columns = {name: [] for name in ("category", "brand", "style", "weight")}
    rows = []
    for place, (department, category) in enumerate(pairs):
        wanted = (place + 1) * recipe.items // len(pairs) - place * recipe.items // len(pairs)
        offers = list(itertools.product(range(len(department.brands)), category.kinds))
        if wanted > len(offers):
            raise ValueError(f"recipe: {category.name} has {len(offers)} pairs of brand and kind, too few for {wanted} "
                             f"of {recipe.items} items; add kinds or lower items")
        for rank, offer in enumerate(rng.permutation(len(offers))[:wanted]):
            (brand, kind), style = offers[offer], int(rng.integers(len(recipe.styles)))
            for name, value in zip(columns, (place, brand, style, (rank + 1.0) ** -recipe.behaviour.popularity),
                                   strict=True):
                columns[name].append(value)
            rows.append(_describe(department, category, brand, kind, recipe.styles[style], rng))
    arrays = {name: np.array(values) for name, values in columns.items()}
    late = np.zeros(len(rows), dtype=bool)
    late[rng.permutation(len(rows))[: round(recipe.late_items * len(rows))]] = True
    departments = np.array([recipe.departments.index(department) for department, _ in pairs])
    followers = np.array([[places[name] for name in (category.next[0], category.next[-1])] for _, category in pairs])
    items = pl.DataFrame(rows).select(pl.Series("item_id", [f"P{number:04d}" for number in rng.permutation(len(rows))]),
                                      pl.all())
    shelf = [np.flatnonzero(arrays["category"] == place) for place in range(len(pairs))]
    return _Shelves(**arrays, late=late, shelf=shelf, department=departments, followers=followers), items


def _describe(department: Department, category: Category, brand: int, kind: str, style: Style,
              rng: np.random.Generator) -> dict[str, str | list[str]]:
    name = department.brands[brand]
    words = category.words.split(", ")
    features = ", ".join(words[place] for place in rng.permutation(len(words)))
    return {"title": f"{name} {rng.choice(style.adjectives)} {kind} {category.noun}", "brand": name,
            "categories": [department.name, category.name],
            "description": f"{kind} {category.noun.lower()} by {name}: {features}. {style.sentence}"}


def _visits(recipe: Recipe, rng: np.random.Generator) -> np.ndarray:
    """Seconds since the first day, strictly rising: short gaps within a session, days or weeks between sessions."""
    least, most = recipe.history.least, recipe.history.most
    length = min(least + rng.geometric(1 / (recipe.history.mean - least + 1)) - 1, most)
    within = rng.random(length) < 0.35
    gaps = np.where(within, rng.exponential(600, length) + 20, rng.lognormal(np.log(9), 0.9, length) * DAY)
    visits = np.cumsum(gaps)
    horizon = recipe.days * DAY
    visits *= min(1.0, 0.95 * horizon / visits[-1])
    return np.ceil(visits + rng.random() * (horizon - visits[-1])).astype(np.int64) + np.arange(length)


def _purchases(shelves: _Shelves, recipe: Recipe, length: int, ends_late: bool, rng: np.random.Generator) -> list[int]:
    """Item numbers of one user, ``length`` of them."""
    behaviour = recipe.behaviour
    tastes = rng.dirichlet(np.full(len(recipe.departments), behaviour.tastes))[shelves.department]  # (C,)
    liking = shelves.weight * np.where(shelves.style == rng.integers(len(recipe.styles)), behaviour.same_style, 1.0)
    bought: list[int] = []
    for step in range(length):
        last, at_end = bought[-1] if bought else None, step == length - 1
        if last is not None and not at_end and rng.random() < behaviour.repeat:
            bought.append(last)
            continue
        if last is not None and rng.random() < behaviour.follow:
            category = shelves.followers[shelves.category[last], int(rng.random() < 0.25)]
        else:
            category = _draw(tastes, rng)
        bought.append(_pick(shelves, category, last, liking, behaviour, ends_late and at_end, rng))
        liking[bought[-1]] *= 1e-3  # hardly ever the same again
    return bought


def _pick(shelves: _Shelves, category: int, last: int | None, liking: np.ndarray, behaviour: Behaviour, late: bool,
          rng: np.random.Generator) -> int:
    shelf = shelves.shelf[category]
    arrived = shelves.late[shelf]
    if late and arrived.any() and rng.random() < 0.5:
        shelf = shelf[arrived]
    elif not arrived.all():
        shelf = shelf[~arrived]
    weights = liking[shelf]
    if last is not None and shelves.department[shelves.category[last]] == shelves.department[category]:
        weights = weights * np.where(shelves.brand[shelf] == shelves.brand[last], behaviour.same_brand, 1.0)
    return int(shelf[_draw(weights, rng)])


def _draw(weights: np.ndarray, rng: np.random.Generator) -> int:
    """A place, as likely as its weight; much faster than ``rng.choice`` for short arrays."""
    sums = np.cumsum(weights)
    return min(int(np.searchsorted(sums, rng.random() * sums[-1], side="right")), len(sums) - 1)
