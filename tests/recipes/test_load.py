"""Recipes: bases, overrides, and what is said about mistakes in them."""

from pathlib import Path

import pytest

from composer_copypaste.errors import RecipeError
from composer_copypaste.recipes import load
from composer_copypaste.recipes.load import load_recipe, recipe_to_yaml
from composer_copypaste.settings import CopyPasteSettings

MINIMAL = "data: {shapes: {}}\n"


@pytest.fixture
def recipe_file(tmp_path):
    """Writes a recipe into the folder of a test, and returns its path."""

    def write(text, name="mine.yaml"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def complaint(path, *overrides):
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    return str(caught.value)


# ---- what is loaded


def test_a_recipe_is_called_like_its_file_unless_it_says_otherwise(recipe_file):
    assert load_recipe(recipe_file(MINIMAL)).name == "mine"
    assert load_recipe(recipe_file(MINIMAL + "name: yours")).name == "yours"


def test_a_number_in_scientific_notation_is_a_number(recipe_file):
    path = recipe_file(MINIMAL + "optimizer: {lr: 1e-4}")
    assert load_recipe(path).optimizer.lr == 1e-4
    assert load_recipe(path, ["optimizer.lr=3e-4"]).optimizer.lr == 3e-4


def test_a_folder_called_no_stays_text(recipe_file):
    assert load_recipe(recipe_file(MINIMAL + "output: no")).output == Path("no")


def test_a_home_directory_is_expanded(recipe_file, monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    recipe = load_recipe(
        recipe_file(""), [f"data.{part}={{images: ~/x, annotations: ~/y}}" for part in ("train", "val")]
    )
    assert recipe.data.train.images == Path("/home/someone/x")


SCENE = """
copy_paste:
  placement: anywhere
  place_region: [[0, 0.5], [1, 0.5], [1, 1]]
  place_map: ~/maps/road.npy
  scale_map: [[1], [2.5]]
"""


def test_a_scene_in_a_recipe_is_written_and_read_again_as_it_was(recipe_file, monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    settings = load_recipe(recipe_file(MINIMAL + SCENE)).copy_paste
    assert settings.place_region == (((0, 0.5), (1, 0.5), (1, 1)),)
    assert settings.place_map.path == Path("/home/someone/maps/road.npy")
    assert settings.scale_map.values.tolist() == [[1], [2.5]]
    text = recipe_to_yaml(load_recipe(recipe_file(MINIMAL + SCENE)))
    assert load_recipe(recipe_file(text, "again.yaml")).copy_paste == settings


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("place_region=[[0, 0.5], [1, 2], [1, 1]]", "copy_paste.place_region: expected a polygon of at least 3 points"),
        ("place_map=map.jpg", "copy_paste.place_map: expected a map of numbers of 0 or more"),
        ("place_key=road", "copy_paste.place_key: expected null in a recipe, whose targets have no such key"),
    ],
)
def test_a_scene_that_cannot_be_used_is_named(recipe_file, override, message):
    text = complaint(recipe_file(MINIMAL), "copy_paste.placement=random", f"copy_paste.{override}")
    assert message in text


def test_environment_variables_can_be_named(recipe_file, monkeypatch):
    monkeypatch.setenv("PLACE", "/elsewhere")
    assert load_recipe(recipe_file(MINIMAL + "output: ${oc.env:PLACE}/runs")).output == Path("/elsewhere/runs")


def test_a_default_is_given_for_an_environment_variable(recipe_file, monkeypatch):
    monkeypatch.delenv("PLACE", raising=False)
    assert load_recipe(recipe_file(MINIMAL + "output: ${oc.env:PLACE,here}/runs")).output == Path("here/runs")
    assert load_recipe(recipe_file(MINIMAL + "output: '${oc.env:PLACE,null}'")).output is None


def test_a_key_can_refer_to_another(recipe_file):
    path = recipe_file("data: {shapes: {train: '${seed}', val: '${data.shapes.train}'}}\noutput: runs/${seed}")
    recipe = load_recipe(path, ["seed=7"])
    assert (recipe.output, recipe.data.shapes.train, recipe.data.shapes.val) == (Path("runs/7"), 7, 7)


def test_a_recipe_states_only_what_differs_from_its_base(recipe_file):
    recipe_file(MINIMAL + "optimizer: {lr: 0.5, momentum: 0.5}", "below.yaml")
    recipe = load_recipe(recipe_file("base: below.yaml\noptimizer: {lr: 0.1}"))
    assert (recipe.optimizer.lr, recipe.optimizer.momentum, recipe.name) == (0.1, 0.5, "mine")


def test_of_several_bases_the_later_wins_and_the_recipe_over_both(recipe_file):
    recipe_file(MINIMAL + "seed: 1\noptimizer: {lr: 0.1, momentum: 0.1}", "first.yaml")
    recipe_file("seed: 2\noptimizer: {lr: 0.2}", "second.yaml")
    recipe = load_recipe(recipe_file("base: [first.yaml, second.yaml]\nseed: 3"))
    assert (recipe.seed, recipe.optimizer.lr, recipe.optimizer.momentum) == (3, 0.2, 0.1)


def test_a_base_is_relative_to_the_file_that_names_it(recipe_file, tmp_path, monkeypatch):
    (tmp_path / "inner").mkdir()
    recipe_file(MINIMAL + "seed: 5", "inner/lowest.yaml")
    recipe_file("base: lowest.yaml", "inner/low.yaml")
    monkeypatch.chdir("/")
    assert load_recipe(recipe_file("base: inner/low.yaml")).seed == 5


def test_a_shipped_recipe_is_found_by_its_name_also_as_a_base(recipe_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_recipe("quickstart").name == "quickstart"
    assert load_recipe(recipe_file("base: quickstart")).model == load_recipe("quickstart").model


def test_shipped_recipes_are_found_in_an_installed_package(tmp_path, monkeypatch):
    (tmp_path / "wheel.yaml").write_text("# What for\n" + MINIMAL)
    monkeypatch.setattr(load, "_SHIPPED", (tmp_path, *load._SHIPPED))
    assert load_recipe("wheel").name == "wheel"


def test_two_recipes_may_share_a_base(recipe_file):
    recipe_file(MINIMAL, "lowest.yaml")
    recipe_file("base: lowest.yaml", "a.yaml")
    recipe_file("base: lowest.yaml", "b.yaml")
    assert load_recipe(recipe_file("base: [a.yaml, b.yaml]")).data.shapes is not None


def test_an_override_wins_over_the_file(recipe_file):
    assert load_recipe(recipe_file(MINIMAL + "seed: 1"), ["seed=2", "seed=3"]).seed == 3


def test_null_switches_a_section_off_and_a_key_inside_switches_it_on(recipe_file):
    on, off = (
        recipe_file(MINIMAL + "copy_paste: {p: 0.1}", "on.yaml"),
        recipe_file(MINIMAL + "copy_paste: null", "off.yaml"),
    )
    assert load_recipe(on, ["copy_paste=null"]).copy_paste is None
    assert load_recipe(off, ["copy_paste.p=0.3"]).copy_paste.p == 0.3


def test_a_list_replaces_the_bases_list(recipe_file):
    assert load_recipe(recipe_file(MINIMAL), ["evaluation.max_dets=[5]"]).evaluation.max_dets == (5,)


@pytest.mark.parametrize("name", ["plain", "with ${curly} braces", "1e-4", "no", "~", "a: b # c", "ümläut"])
def test_a_recipe_that_is_written_out_loads_to_an_equal_one(recipe_file, name):
    recipe = load_recipe(recipe_file(MINIMAL), ["copy_paste={labels: [1, 2]}", "optimizer.lr=1e-5", "seed=5"])
    recipe = type(recipe)(**{**vars(recipe), "name": name})
    assert load_recipe(recipe_file(recipe_to_yaml(recipe), "written.yaml")) == recipe


# ---- what is said about mistakes


def test_a_wrong_value_is_said_with_place_expectation_and_line(recipe_file):
    path = recipe_file(MINIMAL + "optimizer:\n  name: adm\n")
    assert complaint(path) == f"optimizer.name: expected one of 'sgd', 'adamw', got 'adm' ({path}:3)"


def test_what_is_missing_is_said_with_the_recipe_that_lacks_it(recipe_file):
    path = recipe_file("seed: 1")
    text = complaint(path)
    assert text.startswith("data: expected a section with some of the keys train, val, shapes")
    assert text.endswith(f"got nothing ({path})")


def test_all_problems_are_listed_together(recipe_file):
    path = recipe_file("optimizer: {name: adm, lr: -1}\nseed: x")
    heading, *lines = complaint(path, "training.precison=fp32").splitlines()
    assert heading == f"{path}: 5 problems"
    assert [line.partition(": ")[0] for line in lines] == [
        "  seed",
        "  data",
        "  optimizer.name",
        "  optimizer.lr",
        "  training.precison",
    ]


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("copy_paste.p=1.5", "copy_paste.p: expected at most 1, got 1.5 (command line)"),
        ("copy_paste.scale_range=[0,1]", "copy_paste.scale_range.0: expected at least 0.01, got 0 (command line)"),
        (
            "copy_paste.scale_range=[2,1]",
            "copy_paste.scale_range: expected (smallest, largest), got (2.0, 1.0) (command line)",
        ),
        (
            "copy_paste.area_range=[1, .inf]",
            "copy_paste.area_range.1: expected a finite number, got inf (command line)",
        ),
        (
            "copy_paste.area_range=[1, 1e10]",
            "copy_paste.area_range.1: expected at most 1000000000, got 10000000000.0 (command line)",
        ),
        (
            "copy_paste.category_weights=[5]",
            "copy_paste.category_weights: expected a mapping, {key: value} or one of 'inverse_frequency', "
            "'repeat_factor', got [5] (command line)",
        ),
        (
            "copy_paste.label_weights={cat: 5}",
            "copy_paste.label_weights: expected whole numbers as keys, got 'cat' (command line)",
        ),
        (
            "copy_paste.category_weights={1.5: 5}",
            "command line: copy_paste.category_weights: expected text or a whole number as key, got '1.5'; "
            "got '{1.5: 5}'",
        ),
        ("optimizer.lr=fast", "optimizer.lr: expected a number, got 'fast' (command line)"),
        ("optimizer.lr=.nan", "optimizer.lr: expected a finite number, got nan (command line)"),
        ("data.batch_size=true", "data.batch_size: expected a whole number, got true (command line)"),
        ("data.batch_size=2.5", "data.batch_size: expected a whole number, got 2.5 (command line)"),
        ("data.batch_size=null", "data.batch_size: expected a whole number, got null; its default is 2 (command line)"),
        ("seed.x=3", "seed: expected a whole number, got {'x': 3} (command line)"),
        ("training.microbatch=0", "training.microbatch: expected at least 1 or 'auto', got 0 (command line)"),
        (
            "training.duration=12",
            "training.duration: expected epochs or batches above 0, with the unit, such as '12ep' or '800ba', "
            "of at most 9 digits, got 12 (",
        ),
        (
            "training.duration=9999999999ep",
            "training.duration: expected epochs or batches above 0, with the unit, such as '12ep' or '800ba', "
            "of at most 9 digits, got '999",
        ),
        ("copy_paste.stop=9999999999ba", "copy_paste.stop: expected a time such as"),
        ("data.batch_size=1000000000000000000000", "data.batch_size: expected at most 65536, got 10000000000000000000"),
        ("data.eval_batch_size=100000", "data.eval_batch_size: expected at most 65536, got 100000 (command line)"),
        ("training.microbatch=100000", "training.microbatch: expected at most 65536 or 'auto', got 100000"),
        ("data.workers=100000", "data.workers: expected at most 256, got 100000 (command line)"),
        ("training.cpu_threads=1000000", "training.cpu_threads: expected at most 1024, got 1000000 (command line)"),
        ("optimizer.lr=1e300", "optimizer.lr: expected at most 1000, got 1e+300 (command line)"),
        ("optimizer.weight_decay=1e300", "optimizer.weight_decay: expected at most 1000, got 1e+300 (command line)"),
        ("optimizer.lr_batch_size=10000000", "optimizer.lr_batch_size: expected at most 1000000, got 10000000"),
        ("model.anchor_sizes=[1, 2, 3, 4, 10000]", "model.anchor_sizes.4: expected at most 8192, got 10000"),
        ("model.detections_per_image=1000000", "model.detections_per_image: expected at most 100000, got 1000000"),
        ("data.jitter.min_area=10000000000", "data.jitter.min_area: expected at most 1000000000, got 10000000000"),
        ('output="a\\0b"', "command line: output: holds a NUL character, which no path can have; leave it out"),
        (
            'name="a\\nb"',
            "name: expected a name of 1 to 100 characters, without '/', '\\' and line breaks, got 'a\\nb'",
        ),
        ("name=" + 101 * "x", "name: expected a name of 1 to 100 characters"),
        (
            "evaluation.max_dets=[10, 1]",
            "evaluation.max_dets: expected ascending numbers such as [1, 10, 100], got [10, 1]",
        ),
        ("schedule.name=multistep", "schedule.milestones: multistep needs at least one, such as ['8ep', '11ep']"),
        ("optimizer=[1]", "optimizer: expected a section with some of the keys name, lr, lr_batch_size, momentum"),
        ("data.train.images=x", "data.train.annotations: expected a value, got nothing (command line)"),
        ("name=a/b", r"name: expected a name of 1 to 100 characters, without '/', '\' and line breaks, got 'a/b'"),
        ("output=5", "output: expected text (put it in quotes), got 5 (command line)"),
    ],
)
def test_a_wrong_override_is_said_in_one_line(recipe_file, override, line):
    text = complaint(recipe_file(MINIMAL), override)
    assert text.startswith(line)
    assert "\n" not in text


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("p", 1.5),
        ("p", "fast"),
        ("min_area", 2.5),
        ("jitter", "none"),
        ("scale_range", [2, 1]),
        ("stop", "8x"),
        ("erosion", -1),
    ],
)
def test_a_constructor_says_the_same_of_a_wrong_value(recipe_file, key, value):
    with pytest.raises((ValueError, TypeError)) as raised:
        CopyPasteSettings(**{key: value})
    said = complaint(recipe_file(MINIMAL), f"copy_paste.{key}={value}")
    assert said == f"copy_paste.{raised.value} (command line)"


@pytest.mark.parametrize(
    ("override", "guess"),
    [
        ("optimiser.lr=1", "optimiser: unknown key; did you mean 'optimizer'? allowed: name, seed,"),
        (
            "data.train.image=x",
            "data.train.image: unknown key; did you mean 'data.train.images'? allowed: images, annotations, streaming",
        ),
        ("lr=1", "lr: unknown key; did you mean 'optimizer.lr'? allowed: name, seed,"),
        ("model.zzz=1", "model.zzz: unknown key; allowed: 20 keys, which 'copypaste recipe show quickstart' prints"),
    ],
)
def test_a_wrong_key_is_answered_with_the_likely_one_and_the_allowed_ones(recipe_file, override, guess):
    text = complaint(recipe_file(MINIMAL), override)
    assert text.startswith(guess)
    assert text.endswith(" (command line)")


def test_a_key_with_a_line_break_is_named_in_one_line(recipe_file):
    text = complaint(recipe_file(MINIMAL + '"two\\nlines": 1\n'))
    assert text.startswith("two\\nlines: unknown key; allowed: name, seed,")


@pytest.mark.parametrize("override", ["lr", "=1", "a..b=1", "a b=1"])
def test_an_override_that_is_no_assignment_is_said_so(recipe_file, override):
    expected = f"command line: expected KEY=VALUE such as optimizer.lr=0.001, got {override!r}"
    assert complaint(recipe_file(MINIMAL), override) == expected


def test_an_override_whose_value_is_broken_yaml_is_said_so(recipe_file):
    assert complaint(recipe_file(MINIMAL), "seed=[1").startswith("command line: seed: not valid YAML")


def test_a_repeated_key_is_an_error_with_file_and_line(recipe_file):
    path = recipe_file(MINIMAL + "seed: 1\nseed: 2\n")
    assert complaint(path) == f"{path}:3: key 'seed' is given twice, first in line 2; keep one"


def test_a_recipe_that_is_its_own_base_is_an_error_that_shows_the_circle(recipe_file):
    recipe_file("base: b.yaml", "a.yaml")
    assert "the recipe is its own base: " in complaint(recipe_file("base: a.yaml", "b.yaml"))


def test_a_missing_base_is_an_error_with_the_line_that_names_it(recipe_file):
    path = recipe_file("seed: 1\nbase: quickstrat\n")
    assert complaint(path).startswith(f"{path}:2: base: ")
    assert "did you mean the shipped 'quickstart'?" in complaint(path)


def test_a_base_that_is_no_name_is_an_error(recipe_file):
    path = recipe_file("base: [1]")
    assert complaint(path) == f"{path}:1: base: expected a recipe or a list of recipes, got [1]"


def test_a_missing_recipe_is_answered_with_the_shipped_ones(tmp_path):
    text = complaint(tmp_path / "recipes" / "quickstart.yaml")
    assert "no such recipe file; did you mean the shipped 'quickstart'? Shipped recipes: " in text


def test_a_recipe_without_its_ending_is_answered_with_the_file(recipe_file):
    path = recipe_file("seed: 1").rename(recipe_file("seed: 1").with_name("mine.yaml"))
    assert complaint(path.with_suffix("")) == f"{path.with_suffix('')}: no such recipe file; did you mean {path}?"


def test_a_base_whose_name_no_file_can_have_is_an_error_in_one_line(recipe_file):
    path = recipe_file(f"base: '{'9' * 400}'")
    assert complaint(path).startswith(f"{path}:1: base: '999")
    assert complaint(path).endswith("...: no such recipe file: File name too long")


def test_the_home_of_a_user_that_is_not_known_is_a_folder_that_is_not_there(recipe_file):
    path = recipe_file("base: ~nobody_of_this_name/mine.yaml\n")
    assert "~nobody_of_this_name/mine.yaml: no such recipe file" in complaint(path)
    keys = ["data.train.images=~nobody_of_this_name", "data.train.annotations=a.json", "data.val.images=."]
    recipe = load_recipe("finetune", [*keys, "data.val.annotations=a.json"])
    assert recipe.data.train.images == Path("~nobody_of_this_name")


@pytest.mark.parametrize("text", ["- a\n- b\n", "just text"])
def test_a_file_that_is_no_mapping_is_an_error(recipe_file, text):
    assert "expected a recipe, lines of 'key: value', got" in complaint(recipe_file(text))


def test_a_file_that_is_no_text_is_an_error(tmp_path):
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    assert "expected a YAML file, but it cannot be read" in complaint(tmp_path / "binary.yaml")


@pytest.mark.parametrize(
    ("output", "problem"),
    [
        ("${nowhere}", "${nowhere}: expected a key that the recipe gives, or oc.env:NAME"),
        ("${seed.x}", "${seed.x}: expected a key that the recipe gives, or oc.env:NAME"),
        ("${oc.decode:x}", "${oc.decode:x}: expected a key that the recipe gives, or oc.env:NAME"),
        ("${oc.env:NOWHERE_AT_ALL}", "${oc.env:NOWHERE_AT_ALL}: the environment variable NOWHERE_AT_ALL is not set"),
        ("a/${output}", "${output} refers to itself"),
        ("a/${seed", "expected a '}' after '${', got 'a/${seed'; a plain '${' is '\\${'"),
    ],
)
def test_a_reference_that_cannot_be_resolved_is_an_error_with_its_key(recipe_file, output, problem):
    path = recipe_file(MINIMAL + f"seed: 3\noutput: {output}")
    assert complaint(path) == f"{path}: output: {problem}"


def test_the_drawn_data_set_and_ones_own_exclude_each_other(recipe_file):
    text = complaint(recipe_file(MINIMAL), "data.train={images: x, annotations: y}")
    assert "data: expected either shapes (the drawn data set) or train and val, got both; data.shapes=null" in text


def test_a_place_for_the_jitter_needs_a_jitter():
    with pytest.raises(RecipeError) as raised:
        load_recipe("quickstart", ["data.jitter_on=device"])
    assert "data.jitter_on: expected 'loader' where there is no jitter, got 'device'" in str(raised.value)
    assert load_recipe("quickstart", ["data.jitter_on=device", "data.jitter={}"]).data.jitter_on == "device"


def test_a_recipe_without_data_is_told_how_to_name_it(recipe_file):
    assert "data: expected a section with some of the keys train, val, shapes" in complaint(recipe_file(""))
    text = complaint(recipe_file(""), "data.train={images: x, annotations: y}")
    assert "data.val: not given; name your own data with data.val.images=FOLDER data.val.annotations=FILE" in text


def test_copy_paste_needs_two_images_in_a_batch(recipe_file):
    text = complaint(recipe_file(MINIMAL), "data.batch_size=1", "copy_paste={}")
    assert "data.batch_size: copy-paste needs at least 2 images per batch" in text
    assert "copy_paste.bank_size=256" in text


def test_with_a_bank_one_image_in_a_batch_is_enough(recipe_file):
    recipe = load_recipe(recipe_file(MINIMAL), ["data.batch_size=1", "copy_paste.bank_size=256"])
    assert (recipe.data.batch_size, recipe.copy_paste.bank_size) == (1, 256)


def test_with_a_pool_one_image_in_a_batch_is_enough(recipe_file):
    recipe = load_recipe(recipe_file(MINIMAL), ["data.batch_size=1", "copy_paste={}", "data.pool.folder=cutouts"])
    assert recipe.data.pool.folder.name == "cutouts"


@pytest.mark.parametrize(
    "pool", ["{}", "{folder: x, images: y}", "{annotations: x}", "{folder: x, annotations: y, images: z}"]
)
def test_a_pool_is_a_folder_or_annotations_with_images(recipe_file, pool):
    text = complaint(recipe_file(MINIMAL), "copy_paste={}", f"data.pool={pool}")
    assert "data.pool: expected either folder, or annotations and images" in text


def test_a_pool_without_copy_paste_is_refused(recipe_file):
    text = complaint(recipe_file(MINIMAL), "copy_paste=null", "data.pool.folder=cutouts")
    assert "data.pool: expected null where there is no copy-paste; copy_paste={} switches it on" in text


@pytest.mark.parametrize(
    ("override", "key"), [("training.precision=amp_bf16", "precision"), ("training.microbatch=auto", "microbatch")]
)
def test_what_composer_refuses_on_a_cpu_is_refused_before_it_starts(recipe_file, override, key):
    load_recipe(recipe_file(MINIMAL), [override])
    assert f"training.{key}: " in complaint(recipe_file(MINIMAL), "training.device=cpu", override)


def test_weights_of_labels_are_read_from_a_recipe_and_from_the_command_line(recipe_file):
    file = recipe_file("data: {shapes: {}}\ncopy_paste:\n  label_weights: {3: 5}\n")
    assert load_recipe(file).copy_paste.label_weights == {3: 5}
    assert load_recipe(file, ["copy_paste.label_weights={7: 0.5}"]).copy_paste.label_weights[7] == 0.5


# ---- shards


@pytest.mark.parametrize(
    ("train", "line"),
    [
        ("{}", "data.train: expected images and annotations, or streaming, a folder of shards, got neither"),
        ("{streaming: x, images: y}", "data.train: expected either images and annotations, or streaming, got both"),
        ("{images: y}", "data.train.annotations: expected a value, got nothing"),
        (
            "{streaming: s3://b/x}",
            "data.train.cache: expected a folder on this machine's disk, for shards of an",
        ),
        ("{images: x, annotations: y, cache: z}", "data.train.cache: expected null where there is no streaming"),
        ("{streaming: x, cache_gigabytes: 1}", "data.train.cache_gigabytes: expected null where there is no cache"),
        ("{streaming: x, cache: y, cache_gigabytes: 0}", "data.train.cache_gigabytes: expected more than 0, got 0"),
    ],
)
def test_images_are_files_or_shards(recipe_file, train, line):
    assert complaint(recipe_file(f"data: {{train: {train}, val: {{streaming: v}}}}")).startswith(line)


@pytest.mark.parametrize("source", ["shards", "file:///disk/shards"])
def test_a_folder_of_shards_needs_no_cache(recipe_file, source):
    recipe = load_recipe(recipe_file(f"data: {{train: {{streaming: '{source}'}}, val: {{streaming: v}}}}"))
    assert recipe.data.train.streaming == source


def test_shards_take_the_place_of_the_bases_files_and_files_that_of_shards(recipe_file):
    path = recipe_file("data: {train: {images: a, annotations: b}, val: {images: a, annotations: b}}")
    shards = ["data.train.cache=c", "data.train.streaming=s", "data.val={streaming: t, images: null}"]
    recipe = load_recipe(path, shards)
    assert (recipe.data.train.streaming, recipe.data.train.images) == ("s", None)
    assert (str(recipe.data.train.cache), recipe.data.val.streaming) == ("c", "t")
    files = load_recipe(path, [*shards, "data.train.images=x", "data.train.annotations=y"]).data.train
    assert (str(files.images), str(files.annotations), files.streaming, files.cache) == ("x", "y", None, None)


def test_a_folder_is_no_recipe(tmp_path):
    with pytest.raises(RecipeError, match="expected a recipe, a YAML file, found a folder"):
        load_recipe(tmp_path)


def test_labels_replace_the_names_of_a_base_and_names_its_labels(recipe_file):
    file = recipe_file("data: {shapes: {}}\ncopy_paste:\n  categories: [star]\n  label_weights: {3: 5}\n")
    settings = load_recipe(file, ["copy_paste.labels=[1]", "copy_paste.category_weights={disc: 2}"]).copy_paste
    assert (settings.categories, settings.labels) == (None, (1,))
    assert (settings.category_weights, settings.label_weights) == ({"disc": 2}, None)
