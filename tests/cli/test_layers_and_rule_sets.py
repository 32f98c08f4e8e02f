"""`eval pointing --layers`, and rule sets by name in `eval` and `compare`."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import excitation_jax as ej
from excitation_jax import cli, digits, methods
from excitation_jax.cli import evaluation_setup, rule_sets
from excitation_jax.cli.parser import _parser as parser_of_all

RUN = "eval pointing --data digits --model digits --limit 4 --batch 4 --gallery 0".split()


def run(capsys, *arguments):
    code = cli.main([*RUN, *map(str, arguments)])
    out, err = capsys.readouterr()
    assert code == 0, err
    return out


def refusal(capsys, *arguments):
    assert cli.main([*map(str, arguments)]) == 2
    return capsys.readouterr().err


def test_each_method_at_each_layer_has_the_score_of_the_game(capsys, tmp_path):
    layers = "input,stage3_block2"
    names = "gradient,c-mwp,grad-cam@stage3_block1"
    out = run(capsys, "--methods", names, "--layers", layers, "--out", tmp_path)
    game = json.loads((tmp_path / "pointing.json").read_text())["methods"]
    found = json.loads((tmp_path / "layers.json").read_text())
    assert found["layers"] == layers.split(",") and list(found["methods"]) == ["gradient", "c-mwp"]
    assert list(game) == [
        *(f"{name}@{layer}" for name in ("gradient", "c-mwp") for layer in layers.split(",")),
        "grad-cam@stage3_block1",  # which says its own, and stays out of the table of layers
        "centre",
    ]
    for name, own in found["methods"].items():
        for layer in found["layers"]:
            for subset in ("all", "difficult"):
                assert own[subset][layer] == game[f"{name}@{layer}"][subset]
    # The slope of a sum over positions is the same at each of them (IJCV18, 6.1.2).
    gradient, excitation = (found["methods"][name]["all"] for name in ("gradient", "c-mwp"))
    assert gradient["stage3_block2"] < 0.3 < 0.7 < gradient["input"]
    assert excitation["stage3_block2"] > 0.7
    (row,) = [line for line in out[out.index("by layer") :].splitlines() if "gradient" in line][:1]
    assert row.split()[1] == f"{100 * gradient['input']:.1f}"
    with Image.open(tmp_path / "layers.png") as picture:
        assert picture.width > picture.height > 300


def test_a_rule_set_is_that_of_the_name_and_methods_with_their_own_are_there_once():
    names = "mwp,gradient,c-mwp@stage3_block2"
    call = [*RUN, "--methods", names, "--rules-set", "residual,excitation", "--out", "x"]
    arguments = parser_of_all().parse_args(call)
    network, variables = digits.load()
    model = evaluation_setup.Model(
        "digits", network.apply, variables, evaluation_setup._DIGITS_INPUT, {"mwp": "stage3_block1"}
    )
    made = evaluation_setup.map_functions(arguments, model)
    assert list(made.titles.items()) == [
        ("mwp:residual", "MWP (residual)"),
        ("mwp", "MWP"),
        ("gradient", "gradient"),
        ("c-mwp:residual@stage3_block2", "c-MWP (residual) at stage3_block2"),
        ("c-mwp@stage3_block2", "c-MWP at stage3_block2"),
    ]
    images = jnp.asarray(digits.make_scenes(0, 1, "test").images)
    asked = jnp.array([[2, 4]])
    options = {"layer": "stage3_block1", "rules": ej.EXCITATION_RESIDUAL}

    @jax.jit
    def three(variables, images):
        wanted = methods.mwp(network.apply, variables, images, asked, **options)
        return *(
            made.functions[k](variables, images, asked) for k in ("mwp:residual", "mwp")
        ), wanted

    residual, plain, wanted = three(variables, images)
    np.testing.assert_allclose(residual, wanted, atol=1e-6)
    assert jnp.abs(plain - wanted).max() > 1e-3


@pytest.mark.parametrize("name", rule_sets.NAMES)
def test_every_name_is_of_a_rule_set(name):
    ((ending, _, options),) = rule_sets.variants(methods.get("mwp"), [name])
    rules = options.get("rules", ej.EXCITATION)
    assert rules.name == ("EXCITATION" if not ending else f"EXCITATION_{ending[1:].upper()}")


def test_every_method_that_is_flagged_takes_rules_and_no_other_one_does_by_default():
    for name in methods.names():
        method = methods.get(name)
        defaults = getattr(method.function, "__kwdefaults__", None) or {}
        assert method.ruled == (defaults.get("rules") is ej.EXCITATION), name


def test_compare_shows_rule_sets_side_by_side(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scene = digits.make_scenes(3, 1, "test").images[0]
    Image.fromarray((scene * 255).astype(np.uint8)).save("scene.png")
    call = "compare scene.png --model digits --methods mwp,grad-cam --layer stage3_block2".split()
    assert cli.main([*call, "--rules-set", "excitation,residual", "--out", "found.png"]) == 0
    lines = capsys.readouterr().out.splitlines()
    titles = [line.split("  ")[0] for line in lines if line.endswith(" s")]
    assert titles == ["MWP", "MWP (residual)", "Grad-CAM"]
    with Image.open("found.png") as picture:
        assert picture.width > 4 * 300  # the scene and three maps


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*RUN, "--out", "x", "--rules-set", "residul"], "set 'residul': did you mean residual?"),
        ([*RUN, "--out", "x", "--rules-set", "q"], "no rule set 'q': there are excitation, resid"),
        ([*RUN, "--out", "x", "--rules-set", ","], "--rules-set names none: excitation, "),
        ([*RUN, "--out", "x", "--layers", ","], "--layers names none: `excitation-jax layers`"),
        ([*RUN, "--out", "x", "--layers", "nowhere"], "mwp@nowhere on digits: no layer named"),
        ([*RUN, "--out", "x", "--methods", "rise", "--layers", "stem"], "no method was read at st"),
        (
            [*RUN, "--out", "x", "--methods", "mwp@stem", "--layers", "input"],
            "no method was read at input",
        ),
        ("compare p.jpg --model digits --rules-set q".split(), "no rule set 'q'"),
    ],
)
def test_refusals(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert message in refusal(capsys, *arguments)
    assert list(tmp_path.iterdir()) == []
