from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_checkpoints import make_llava_checkpoint, make_llava_next_checkpoint
from transformers import GenerationConfig

import mmtok
from configuration_mmtok import MMTokLlavaConfig, PruningOptions
from mmtok.cli.arguments import budgets_of, writable_image
from mmtok.cli.main import COMMANDS, PUBLISHING, main, publishing_main
from mmtok.hub.options import PAPER_OPTIONS
from mmtok.publish import stage

QUESTION = "Is there a snowboard in the image?"
MISTYPED = [
    ["ask", "a.png", "?", "--preset", "best"],
    ["ask", "a.png", "?", "--text-temperature-unit", "kelvin"],
    ["stage", "base", "out", "--coverage-target", "1.5"],
    ["demo", "--web", "--port", "99999"],
    ["ask", "a.png", " "],
    ["ask", "a.png", "?", "--max-new-tokens", "0"],
    ["ask", "a.png", "?", "--device", "banana"],
    ["ask", "a.png", "?", "--device", "xla"],
    ["bench", "a.png", "?", "--repeats", "0"],
    ["bench", "a.png", "?", "--text-temperature", "0"],
    ["generate", "--model", "m", "--questions", "i", "--output", "o", "--budget-scope", "row"],
    ["eval", "--model", "m", "--questions", "q", "--images", "i", "--budget", "4", "--vision-temperature", "-1"],
]
OLD = [
    ("ask a.png ? --budgets all 16", "--budgets is not an option: give --budget."),
    ("bench a.png ? --new-tokens=4", "--new-tokens is not an option: give --max-new-tokens."),
    ("stage a b --vision-token-budget 64", "--vision-token-budget is not an option: give --budget."),
    ("generate --model m --questions q --output o --vision-token-share 0.1", "give --budget."),
    (
        "generate --model m --questions q --output o --input q --batches 3",
        "--input is not an option: give --questions.",
    ),
    ("doctor --budget 3", "--budget is not an option."),
    ("verify a b", "b: not understood."),
]
NO_WEIGHTS = ["--text-coverage-weight", "0", "--vision-coverage-weight", "0"]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("cli")
    return str(stage(make_llava_next_checkpoint(folder / "base"), folder / "cli_staged", check=False).path)


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("images") / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 40, 3), dtype=np.uint8)).save(path)
    return str(path)


def printed(capsys) -> object:
    return json.loads(capsys.readouterr().out)


def test_ask_gives_an_answer_for_each_budget(model, image, capsys) -> None:
    arguments = ["ask", image, QUESTION, "--budget", "all", "0.25", "2", "--max-new-tokens", "2", "--model", model]
    assert main([*arguments, "--json"]) == 0
    answers = printed(capsys)
    assert [answer["vision_token_budget"] for answer in answers] == [None, 0.25, 2]
    assert answers[0]["prompt_tokens"] == answers[0]["full_prompt_tokens"]
    text = answers[2]["prompt_tokens"] - answers[2]["vision_tokens"]
    assert answers[1]["prompt_tokens"] == text + answers[1]["vision_tokens"]
    assert main(arguments) == 0
    table = capsys.readouterr().out
    assert all(f"{answer['prompt_tokens']} of {answer['full_prompt_tokens']}" in table for answer in answers)


def test_show_draws_every_budget(model, image, capsys, tmp_path) -> None:
    output = tmp_path / "kept.png"
    arguments = ["show", image, QUESTION, "Where is the dog?", "--budget", "all", "2", "--output", str(output)]
    assert main([*arguments, "--model", model, "--json"]) == 0
    result = printed(capsys)
    assert [len(selection["kept"]) for selection in result["selections"]] == [
        selection["vision_tokens"] if selection["vision_token_budget"] else len(selection["kept"])
        for selection in result["selections"]
    ]
    assert len(result["selections"]) == 4
    assert Image.open(output).format == "PNG"


def test_bench_times_every_budget(model, image, capsys) -> None:
    arguments = ["bench", image, QUESTION, "--budget", "all", "2", "--repeats", "1", "--max-new-tokens", "2"]
    assert main([*arguments, "--model", model, "--json"]) == 0
    result = printed(capsys)
    assert result["setting"]["attention"] == "sdpa"
    assert result["setting"]["mmtok"] == mmtok.__version__
    lengths = [timing["prompt_tokens"] for timing in result["timings"]]
    assert lengths[0] > lengths[1]
    assert all(timing["first_token"] > 0 for timing in result["timings"])


def test_stage_and_verify_as_json(tmp_path, capsys) -> None:
    base, out = make_llava_next_checkpoint(tmp_path / "base"), tmp_path / "staged_here"
    assert main(["stage", str(base), str(out), "--no-check", "--budget", "3", "--json"]) == 0
    staged = printed(capsys)
    assert staged["vision_token_budget"] == 3
    assert sorted(staged["files"]) == sorted(path.name for path in out.iterdir())
    assert main(["verify", str(out), "--json"]) == 0
    assert isinstance(printed(capsys), dict)
    (out / "coverage.py").write_text("tampered = True\n")
    assert main(["verify", str(out)]) == 1


def test_a_preset_fills_in_what_is_not_given(tmp_path, capsys) -> None:
    base, out = make_llava_next_checkpoint(tmp_path / "base"), tmp_path / "preset_here"
    given = ["--text-temperature", "0.5", "--coverage-target", "0.9", "--budget-scope", "image"]
    assert main(["stage", str(base), str(out), "--no-check", "--preset", "paper", *given, "--json"]) == 0
    config = json.loads((out / "config.json").read_text())
    expected = {**PAPER_OPTIONS, "text_temperature": 0.5, "coverage_target": 0.9, "budget_scope": "image"}
    assert expected["padding"] == "include"
    assert {name: config[name] for name in expected} == expected
    assert config["vision_coverage_weight"] == 0.5


def test_options_of_a_call_count(model, image, capsys, tmp_path) -> None:
    output = ["--output", str(tmp_path / "kept.png"), "--overwrite"]
    show = ["show", image, QUESTION, "--budget", "4", *output, "--model", model, "--json"]
    gains = []
    for pruning_options in ([], ["--vision-coverage-weight", "0"], ["--text-temperature", "0.5"]):
        assert main([*show, *pruning_options]) == 0
        gains.append([[patch["text_gain"], patch["vision_gain"]] for patch in printed(capsys)["selections"][0]["kept"]])
    assert all(vision == 0 for _, vision in gains[1])
    assert gains[0] != gains[1]
    assert gains[0] != gains[2]


def test_bench_and_generate_take_options(model, image, capsys, tmp_path) -> None:
    preset = ["--preset", "paper", "--coverage-target", "0.5"]
    bench = ["bench", image, QUESTION, "--budget", "8", "--repeats", "1", "--max-new-tokens", "2", "--model", model]
    lengths = []
    for pruning_options in ([], preset):
        assert main([*bench, *pruning_options, "--json"]) == 0
        result = printed(capsys)
        lengths.append(result["timings"][0]["prompt_tokens"])
    assert result["options"] == {**PAPER_OPTIONS, "coverage_target": 0.5}
    assert lengths[1] < lengths[0]
    questions, output, own = (tmp_path / f"{name}.jsonl" for name in ("questions", "answers", "own"))
    questions.write_text(json.dumps({"image": image, "question": QUESTION}) + "\n")
    generate = ["generate", "--model", model, "--questions", str(questions), "--output", str(output), "--budget", "4"]
    assert main([*generate, "--max-new-tokens", "3", "--json", *preset]) == 0
    ask = ["ask", image, QUESTION, "--model", model, "--budget", "4", "--max-new-tokens", "3", "--json", *preset]
    assert printed(capsys)["lines"] == 1
    assert main(ask) == 0
    assert json.loads(output.read_text())["answer"] == printed(capsys)[0]["answer"]
    assert main(["generate", "--model", model, "--questions", str(questions), "--output", str(own)]) == 0, (
        "no budget given"
    )


@pytest.mark.parametrize("command", ["ask", "show", "bench", "generate", "eval", "compare", "stage", "push"])
def test_every_option_but_the_tables_is_one_of_the_command_line(command, capsys) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    told = re.sub(r"\s+", " ", capsys.readouterr().out)
    for field in fields(PruningOptions):
        expected = not field.name.startswith("vision_token_")  # which are `--budget`
        # The dash of a word that is broken at the end of a line is followed by a space.
        assert (f"--{field.name.replace('_', '-')}" in told.replace("- ", "-")) == expected, field.name
        assert " --budget " in told
        if expected:
            assert re.sub(r"\W", "", field.metadata["help"]) in re.sub(r"\W", "", told)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ask", "no-such.png", "?"], "mmtok ask: no-such.png cannot be read as an image"),
        (["ask", "https://a.b/c.png", "?"], "https://a.b/c.png is an address, and only files are read: download it"),
        (["show", "IMAGE", "?", "--output", "kept.xyz"], "kept.xyz names no image format"),
        (["show", "IMAGE", "?", "--output", "no/such/kept.png"], "is not there: make it first"),
        (["stage", "no such base", "out"], "mmtok stage: .no such base. is neither a folder nor a Hub id"),
        (["demo", "--output", "no/such/demo.png"], "is not there: make it first"),
        (["ask", "IMAGE", "?", "--model", "./no such"], "'./no such' is neither a folder nor a Hub id"),
        (["ask", "IMAGE", "?", "--model", "FOLDER"], "has no config.json: give the folder of a staged model"),
        (["generate", "--model", "FOLDER", "--questions", "IMAGE", "--output", "o"], "has no config.json"),
        (["generate", "--model", "MODEL", "--questions", "IMAGE", "--output", "o"], "cannot be read as text"),
        (["generate", "--model", "MODEL", "--questions", "no-such", "--output", "o"], "no-such cannot be read as text"),
        (["ask", "IMAGE", "?", "--model", "no-such-model", *NO_WEIGHTS], "are both 0, which leaves nothing to cover"),
    ],
)
def test_refusals_are_one_sentence(arguments, message, model, image, capsys) -> None:
    places = {"IMAGE": image, "MODEL": model, "FOLDER": str(Path(image).parent)}
    assert main([places.get(argument, argument) for argument in arguments]) == 1
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize(
    "arguments", [[], ["no-such"], ["show", "a.png"], ["ask", "a.png", "?", "--budget", "0"], *MISTYPED]
)
def test_wrong_usage_is_2(arguments, capsys) -> None:
    """Of a command with its usage, which fits on a line: the message is not lost behind the options."""
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    told = capsys.readouterr().err
    assert told.startswith("usage: mmtok")
    assert len(told.splitlines()) == 2 or not arguments


@pytest.mark.parametrize(("line", "message"), OLD)
def test_a_wrong_option_is_answered_with_the_right_one(line: str, message: str, capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(line.split())
    usage, told = capsys.readouterr().err.splitlines()
    assert usage.startswith(f"usage: mmtok {line.split()[0]} ")
    assert message in told


def test_budgets_are_all_and_the_models_own_unless_given(model, image, capsys) -> None:
    asked = ["ask", image, QUESTION, "--max-new-tokens", "1", "--model", model, "--json"]
    assert main(asked) == 0
    assert [answer["vision_token_budget"] for answer in printed(capsys)] == [None, 64]
    assert main([*asked, "--budget", "model", "2", "64", "2"]) == 0
    told = capsys.readouterr()
    assert [answer["vision_token_budget"] for answer in json.loads(told.out)] == [64, 2]
    assert "Budget 64: every vision token is kept, nothing was pruned." in told.err
    assert main([*asked, "--quiet"]) == 0
    assert capsys.readouterr().err == ""


def test_budgets_of_a_model_are_those_of_a_call_without_one() -> None:
    config, shared = MMTokLlavaConfig(vision_token_budget=8), MMTokLlavaConfig(vision_token_budget=0.5)
    assert budgets_of([None, "model", 1, 1.0, 8], config) == [None, 8, 1, 1.0]
    assert budgets_of(["model"], shared) == [0.5]
    assert budgets_of(["model"], config, GenerationConfig(vision_token_budget=None)) == [None]


def test_the_embedded_model_says_what_it_knows(image, capsys) -> None:
    assert main(["ask", image, "Is there a dog?", "--budget", "2", "--max-new-tokens", "1"]) == 0
    assert "What it answers about a photo means nothing" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "message"), [("generate", "interrupted: the same command"), ("ask", "interrupted.")]
)
def test_interrupted_is_130(command, message, image, capsys, monkeypatch) -> None:
    import mmtok.apps.batch_generate
    import mmtok.cli.ask

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(mmtok.apps.batch_generate, "generate_file", interrupt)
    monkeypatch.setattr(mmtok.cli.ask, "load_model", interrupt)
    given = {"generate": ["--model", "m", "--questions", "i", "--output", "o"], "ask": [image, "?"]}[command]
    assert main([command, *given]) == 130
    assert f"mmtok {command}: {message}" in capsys.readouterr().err


@pytest.mark.parametrize(("prog", "run"), [("mmtok", main), ("hub_upload.py", publishing_main)])
def test_every_command_has_its_help(prog, run, capsys) -> None:
    with pytest.raises(SystemExit, match="0"):
        run(["--help"])
    listed = capsys.readouterr().out
    for name in COMMANDS if run is main else PUBLISHING:
        assert re.search(rf"\n    {name}\s", listed)
        with pytest.raises(SystemExit, match="0"):
            run([name, "--help"])
        told = capsys.readouterr().out
        assert f"usage: {prog} {name}" in told
        assert "--traceback" in told
        assert "hub_upload.py" not in told.partition("\n")[2], "help names the command mmtok"


def test_hub_upload_is_the_publishing_part_of_the_command(capsys) -> None:
    import hub_upload

    assert hub_upload.main is publishing_main
    with pytest.raises(SystemExit, match="2"):
        hub_upload.main(["ask", "a.png", "?"])
    assert "invalid choice: 'ask'" in capsys.readouterr().err


def test_generate_takes_the_embedded_model_and_where_to_run_it(image, tmp_path, capsys) -> None:
    questions, output = tmp_path / "questions.jsonl", tmp_path / "answers.jsonl"
    questions.write_text(json.dumps({"image": image, "question": "Is there a dog in the image?"}) + "\n")
    generate = [
        "generate",
        "--model",
        "tiny",
        "--questions",
        str(questions),
        "--output",
        str(output),
        "--budget",
        "0.25",
    ]
    where = ["--device", "cpu", "--dtype", "float32", "--max-new-tokens", "2", "--json"]
    assert main([*generate, *where]) == 0
    assert printed(capsys) == {
        "lines": 1,
        "resumed": 0,
        "errors": 0,
        "cut_off": 1,
        "unpruned": 0,
        "output": str(output),
    }
    ask = ["ask", image, "Is there a dog in the image?", "--model", "tiny", "--budget", "0.25", *where]
    assert main(ask) == 0
    assert json.loads(output.read_text())["answer"] == printed(capsys)[0]["answer"]


@pytest.mark.parametrize("command", ["ask", "show", "bench", "generate", "eval", "compare"])
def test_commands_that_load_a_model_have_the_same_options(command, capsys) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    told = capsys.readouterr().out
    assert all(f"  --{name}" in told for name in ("model", "revision", "dtype", "device", "json", "quiet", "traceback"))
    assert "tiny is the embedded LLaVA" in re.sub(r"\s+", " ", told)
    assert "a number, a share such as 0.25, all, or model for the model's own" in re.sub(r"\s+", " ", told)


def test_nothing_is_drawn_over(tmp_path, monkeypatch, capsys) -> None:
    photo, drawn = tmp_path / "photo.png", tmp_path / "drawn.png"
    Image.new("RGB", (24, 24)).save(photo)
    before = photo.read_bytes()
    link = tmp_path / "link.png"
    link.symlink_to(photo)
    for output in (photo, link):
        assert main(["show", str(photo), "?", "-o", str(output), "--overwrite"]) == 1
        assert f"{output} is what is asked about: name another output." in capsys.readouterr().err
    assert photo.read_bytes() == before
    drawn.write_bytes(b"mine")
    for command in (["show", str(photo), "?"], ["demo"]):
        assert main([*command, "--output", str(drawn)]) == 1
        assert f"{drawn} is there already: give --overwrite, or name another output." in capsys.readouterr().err
    assert drawn.read_bytes() == b"mine"
    assert writable_image(drawn, "kept.png", overwrite=True) == drawn
    monkeypatch.chdir(tmp_path)
    for name in ("kept.png", "kept-2.png", "kept-3.png"):
        assert writable_image(None, "kept.png") == Path(name)
        Path(name).touch()


def test_a_question_that_is_no_utf_8_is_refused(image, capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["ask", image, "Is there a \udcff?"])
    assert "the question 'Is there a \\udcff?' is not UTF-8" in capsys.readouterr().err


def test_what_the_processor_cuts_off_is_said(tmp_path, capsys) -> None:
    model = str(stage(make_llava_checkpoint(tmp_path / "base"), tmp_path / "cutting_staged", check=False).path)
    photo, output = tmp_path / "panorama.png", tmp_path / "kept.png"
    Image.effect_noise((60, 24), 90).convert("RGB").save(photo)
    sentence = "The model sees the middle square of 24 x 24 pixels alone: 18 pixels are cut off on the left"
    asked = [str(photo), QUESTION, "--budget", "2", "--model", model]
    assert main(["ask", *asked, "--max-new-tokens", "1"]) == 0
    assert sentence in capsys.readouterr().out
    assert main(["show", *asked, "--output", str(output)]) == 0
    assert sentence in capsys.readouterr().out
