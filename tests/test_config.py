"""config: the paper's numbers, and no wrong value gets through; cli: a user's mistake is one line and code 2."""

import importlib.util
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from univar_jax import cli, config
from univar_jax.cli import UserError

ROOT = Path(__file__).parent.parent
PAPER = {"pairs": 64, "lr": 2e-4, "weight_decay": 0.01, "warmup_steps": 700, "clip_norm": 1.0, "epochs": 3}
PAPER |= {"scale": 50.0, "symmetric": False, "same_source": "keep", "disjoint_views": False, "holdout": 0.2}


@pytest.mark.parametrize("max_qas, max_tokens", [(1, 256), (5, 1024), (20, 2048), (80, 8192)])
def test_the_four_configs_are_the_papers(max_qas, max_tokens):
    spec = importlib.util.spec_from_file_location("paper", ROOT / "configs" / f"lambda{max_qas}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    full = config.complete(module.get_config())
    expected = PAPER | {"max_qas": max_qas, "max_tokens": max_tokens}
    assert {key: full[key] for key in expected} == expected


def test_what_a_config_leaves_out_is_the_default():
    full = config.complete(ConfigDict({"max_qas": 7}))
    assert full.to_dict() == config.defaults().to_dict() | {"max_qas": 7}
    with pytest.raises(AttributeError):
        full.something_new = 1  # locked: no later line of ours adds a key by a slip


@pytest.mark.parametrize("key, near", [("max_qa", "max_qas"), ("warmup_step", "warmup_steps"), ("zzz", "none")])
def test_an_unknown_key_of_a_config_file_is_named_with_near_spellings(key, near):
    with pytest.raises(UserError, match=f"unknown config key '{key}'; near: .*{near}"):
        config.complete(ConfigDict({key: 1}))


WRONG_TYPES = [("max_qas", "3"), ("max_qas", 2.5), ("disjoint_views", 1), ("lr", "fast"), ("same_source", 3)]
WRONG_TYPES += [("max_qas", None), ("lr", None), ("holdout", None), ("kernel", None)]  # ConfigDict lets None through


@pytest.mark.parametrize("key, value", WRONG_TYPES)
def test_a_wrong_type_is_named_with_the_right_one(key, value):
    kind = type(config.defaults()[key]).__name__
    with pytest.raises(UserError, match=rf"config\.{key}=.* should be a {kind}"):
        config.complete(ConfigDict({key: value}))


OUT_OF_RANGE = [("max_qas", 0), ("pairs", 1), ("max_tokens", 7), ("epochs", 0), ("keep", 0), ("mesh_fsdp", 0)]
OUT_OF_RANGE += [("seed", -1), ("seed", 2**64), ("steps", -5), ("holdout", -0.1), ("holdout", 1.0), ("scale", 0.0)]
OUT_OF_RANGE += [("lr", 0.0), ("lr", float("nan")), ("lr", float("inf")), ("clip_norm", 0.0), ("row_tokens", 255)]
OUT_OF_RANGE += [
    ("short_row_tokens", 100),
    ("short_row_tokens", 256),
    ("matryoshka_dims", (0,)),
    ("matryoshka_dims", (8, 8)),
]
OUT_OF_RANGE += [("spread", "wide")]
OUT_OF_RANGE += [("kernel", "flash"), ("same_source", "drop"), ("remat", "some"), ("matmul_dtype", "float16")]


@pytest.mark.parametrize("key, value", OUT_OF_RANGE)
def test_a_value_out_of_its_range_is_named(key, value):
    with pytest.raises(UserError, match=rf"config\.{key}='?{re.escape(str(value))}"):
        config.complete(ConfigDict({key: value}))


def test_row_tokens_are_0_or_hold_the_longest_view():
    for row_tokens in (0, 256, 4096):
        assert config.complete(ConfigDict({"row_tokens": row_tokens})).row_tokens == row_tokens


def test_a_digest_knows_values_not_their_order():
    assert config.digest({"a": 1, "b": [2]}) == config.digest({"b": [2], "a": 1}) != config.digest({"a": 1, "b": [3]})


# -- cli ---------------------------------------------------------------------------------------------------------

# A stage that imports nothing heavy; --do is what happens in it.
STAGE = """
from absl import flags
from ml_collections import config_flags
from univar_jax import cli, config
flags.DEFINE_string("do", "", "What to do.")
flags.DEFINE_integer("workers", 0, "Workers.", lower_bound=0)
CONFIG = config_flags.DEFINE_config_file("config", None, "The config.")
def main(f):
    if f.do == "mistake":
        raise cli.UserError("qa.csv row 3:\\n no model")
    if f.do == "fault":
        raise RuntimeError("ours")
    if f.do == "denied":
        raise PermissionError(13, "Permission denied", "/there")
    if f.do == "code":
        return 3
    if f.do == "need":
        cli.require(f, "config", "do")
    if f.do == "config":
        print(config.complete(CONFIG.value).max_qas)
cli.run(main)
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Runs STAGE with these words."""
    path = tmp_path_factory.mktemp("cli") / "stage.py"
    path.write_text(STAGE)

    def call(*words):
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        return subprocess.run([sys.executable, path, *words], cwd=ROOT, env=env, capture_output=True, text=True)

    return call


def assert_one_line(done, *words):
    """Code 2, nothing on stdout, and one line on stderr that holds the words."""
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert all(word in done.stderr for word in words), done.stderr


def test_done_is_0_and_a_stages_own_code_stays(run):
    assert [run().returncode, run("--do=code").returncode] == [0, 3]


def test_help_is_0_and_names_the_flags(run):
    done = run("--help")
    assert done.returncode == 0 and done.stderr == ""
    assert all(word in done.stdout for word in ("--do", "--workers", "--config"))


def test_a_fault_of_ours_is_1_with_its_traceback(run):
    done = run("--do=fault")
    assert done.returncode == 1 and "Traceback" in done.stderr and "RuntimeError: ours" in done.stderr


LAMBDA1 = ("--do=config", "--config=configs/lambda1.py")
MISTAKES = {
    "raised": (("--do=mistake",), ("qa.csv row 3: no model",)),
    "denied": (("--do=denied",), ("/there", "Permission denied")),
    "missing flag": (("--do=need",), ("--config", "missing")),
    "unknown flag": (("--doo=1",), ("doo",)),
    "no flag": (("prepare",), ("'prepare'", "--flag=value")),
    "bad number": (("--workers=x",), ("--workers", "x")),
    "below the bound": (("--workers=-1",), ("--workers", "-1")),
    "no config": (("--do=config",), ("--config is missing",)),
    "empty config": (("--do=config", "--config="), ("--config",)),
    "no such config": (("--do=config", "--config=configs/nope.py"), ("configs/nope.py", "No such file")),
    "unknown key": ((*LAMBDA1, "--config.max_qa=3"), ("unknown config key", "max_qa", "Did you mean", "max_qas")),
    "unknown nested key": ((*LAMBDA1, "--config.a.b=3"), ("unknown config key", "a")),
    "bad key value": ((*LAMBDA1, "--config.max_qas=2.5"), ("config.max_qas", "2.5")),
    "key out of range": ((*LAMBDA1, "--config.max_qas=0"), ("config.max_qas=0", "at least 1")),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_line(run, case):
    words, told = MISTAKES[case]
    assert_one_line(run(*words), *told)


CONFIG_FILES = {
    "syntax": ("def get_config(:\n", ("SyntaxError", "mine.py")),
    "import": ("x = 1\nimport nosuchmodule\n", ("mine.py:2", "nosuchmodule")),
    "no get_config": ("x = 1\n", ("no get_config()",)),
    "attribute": ("def get_config():\n  return 'text'.nothing\n", ("mine.py:2", "nothing")),
    "unknown key": ("def get_config():\n  return {'max_qa': 3}\n", ("unknown config key 'max_qa'", "max_qas")),
    "wrong type": ("def get_config():\n  return {'max_qas': '3'}\n", ("config.max_qas='3'", "int")),
}


@pytest.mark.parametrize("case", CONFIG_FILES)
def test_a_broken_config_file_is_one_line(run, tmp_path, case):
    text, told = CONFIG_FILES[case]
    (tmp_path / "mine.py").write_text(text)
    assert_one_line(run("--do=config", f"--config={tmp_path}/mine.py"), *told)


def test_a_key_on_the_command_line_overrides_the_file(run):
    done = run(*LAMBDA1, "--config.max_qas=9")
    assert (done.returncode, done.stdout, done.stderr) == (0, "9\n", "")


@pytest.mark.parametrize(
    ("stage", "package", "extra"), [("elicit", "openai", "elicit"), ("elicit", "langcodes", "elicit")]
)
def test_a_stage_without_its_extra_names_it(stage, package, extra):
    start = f"runpy.run_module('univar_jax.{stage}', run_name='__main__')"
    code = f"import runpy, sys; sys.modules[{package!r}] = None; {start}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert_one_line(done, package, f"'univar_jax[{extra}]'")


def test_no_stage_of_the_analysis_starts_without_its_extra():
    stages = ("analyze", "compare", "transfer", "values", "graph")
    code = f"""
        import importlib, sys
        sys.modules["scipy"] = None
        for stage in {stages}:
            try:
                importlib.import_module(f"univar_jax.{{stage}}")
            except SystemExit as error:
                assert error.code == 2
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, capture_output=True, text=True)
    told = "error: this stage needs the package scipy; pip install 'univar_jax[{}]'"
    assert done.stderr.splitlines() == [told.format("graph" if stage == "graph" else "analyze") for stage in stages]


def test_a_package_that_is_imported_late_is_missed_at_once(capsys):
    with pytest.raises(SystemExit) as error, cli.extra("graph", "json", "no_such_package"):
        pass
    assert error.value.code == 2
    said = "error: this stage needs the package no_such_package; pip install 'univar_jax[graph]'\n"
    assert capsys.readouterr().err == said
