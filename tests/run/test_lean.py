"""Imports without the compiler: left out where nobody misses it, there at once where anybody does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from new_python import BEGIN, IMPORT, told_by
from tiny import make_tiny_base
from whole_run import Job, make_job, packtrain

#: What a training of one process, without torch.compile, has no use for.
LEFT_OUT = ("torch._dynamo.utils", "torch._inductor", "torch.distributed.tensor", "sympy")
SHOW_LOADED = f"print(json.dumps([name for name in {LEFT_OUT} if name in sys.modules]))"


def test_what_is_left_out_and_what_is_as_it_was_afterwards() -> None:
    told = told_by(
        f"{BEGIN}{IMPORT}"
        "import torch, transformers\n"
        f"out = [name for name in {LEFT_OUT} if name in sys.modules]\n"
        "here = '_dynamo' in vars(torch) or 'torch._dynamo' in sys.modules\n"
        "answer = transformers.utils.is_torch_distributed_available()\n"
        "names = [transformers.models.llama.LlamaConfig.__name__,"
        " transformers.models.mistral.modeling_mistral.MistralForCausalLM.__name__]\n"
        "compiled = torch.compile(lambda x: x * 2, backend='eager')(torch.ones(2)).tolist()\n"
        "marked = torch.compiler.disable(lambda x: x)(3)\n"
        "print(json.dumps([out, here, answer, torch.distributed.is_available(), names, compiled, marked]))"
    )
    names = ["LlamaConfig", "MistralForCausalLM"]
    assert told == [[], False, False, True, names, [2.0, 2.0], 3]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "environment"),
    [
        (BEGIN + IMPORT.replace("heavy_imports()", "heavy_imports(lean=False)"), {}),
        (BEGIN + IMPORT, {"WORLD_SIZE": "2"}),
        (BEGIN.replace("\nown_process()", "") + IMPORT, {}),
    ],
    ids=["compiling", "one of several", "somebody else's process"],
)
def test_all_is_there_where_it_may_be_missed(code: str, environment: Mapping[str, str]) -> None:
    assert told_by(code + SHOW_LOADED, environment) == list(LEFT_OUT)


@pytest.mark.slow
@pytest.mark.parametrize(
    "asked",
    ["import torch._dynamo; torch._dynamo.config.verbose", "from torch._dynamo.utils import counters"],
)
def test_a_question_for_more_brings_the_real_compiler(asked: str) -> None:
    told = told_by(
        f"{BEGIN}with heavy.heavy_imports():\n    {asked}\n    import packtrain.run.training\n"
        "import torch\n"
        "real = torch._dynamo is sys.modules['torch._dynamo'] and torch._dynamo.__file__ is not None\n"
        "print(json.dumps([real, torch.compile(lambda x: x + 1, backend='eager')(torch.ones(1)).tolist()]))"
    )
    assert told == [True, [2.0]]


def test_models_are_found_one_by_one_and_all_of_them_where_all_are_asked_for() -> None:
    told = told_by(
        f"{BEGIN}with heavy.heavy_imports():\n    import transformers\n"
        "from transformers.models import llama\n"
        "from transformers.models.qwen2 import Qwen2Config\n"
        "stand_in = type(transformers.models).__name__\n"
        "missing = hasattr(transformers.models, 'no_such_model')\n"
        "from transformers.models import LlamaConfig\n"
        "same = LlamaConfig is llama.LlamaConfig is transformers.LlamaConfig\n"
        "print(json.dumps([stand_in, missing, same, 'bert' in dir(transformers.models),"
        " type(transformers.models).__name__]))"
    )
    assert told == ["StandIn", False, True, True, "_LazyModule"]


def test_an_import_that_fails_leaves_nothing_behind() -> None:
    told = told_by(
        f"{BEGIN}import gc\n"
        "try:\n    with heavy.heavy_imports():\n        import not_there\n"
        "except ImportError as error:\n    import torch\n"
        "    print(json.dumps([error.name, gc.isenabled(), '_dynamo' in vars(torch),"
        " torch.distributed.is_available()]))"
    )
    assert told == ["not_there", True, False, True]


@pytest.mark.slow
def test_a_training_brings_none_of_it_until_its_first_step_is_done(job: Job) -> None:
    told = told_by(
        f"{BEGIN}import os\n"
        "from packtrain.cli.main import main\n"
        "from packtrain.rundir import EventWriter\n"
        "write = EventWriter.write\n"
        "def written(self, kind, step, **fields):\n"
        "    if kind == 'step':\n"
        f"        {SHOW_LOADED}\n"
        "        sys.stdout.flush()\n"
        "        os._exit(0)\n"
        "    return write(self, kind, step, **fields)\n"
        "EventWriter.write = written\n"
        f"main({job.arguments()!r})"
    )
    assert told == []


@pytest.mark.slow
def test_what_comes_of_it_is_the_same_to_the_bit(job: Job, base: Path, tmp_path: Path) -> None:
    with job.process() as process:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
    assert "Fine-tuning complete!" in out
    here = make_job(tmp_path / "here", base)
    here.done()
    assert job.weights() == here.weights() and job.losses() == here.losses()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama3", "gemma"])
def test_data_is_shown_without_torch_and_as_with_it(kind: str, tmp_path: Path) -> None:
    job = make_job(tmp_path, make_tiny_base(tmp_path / "base", kind))
    arguments = ["data", str(job.run_file), "--json", "--preview", "1"]
    told = told_by(
        f"{BEGIN}import contextlib, io\n"
        "from packtrain.cli.main import main\n"
        "out, err = io.StringIO(), io.StringIO()\n"
        "with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):\n"
        f"    code = main({arguments!r})\n"
        "print(json.dumps([code, out.getvalue(), err.getvalue(), 'torch' in sys.modules]))"
    )
    assert told == [0, packtrain(*arguments).out, "", False]


def test_a_tokenizer_with_code_of_its_own_finds_torch() -> None:
    told = told_by(
        f"{BEGIN}with heavy.tokenizer_imports(own_code=True):\n    import transformers\n"
        "print(json.dumps([transformers.utils.is_torch_available(), 'torch' in sys.modules]))"
    )
    assert told == [True, True]
