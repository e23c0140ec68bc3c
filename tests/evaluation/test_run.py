"""One evaluation in this process: what is asked, what is refused, what its result holds."""

import json
from dataclasses import replace

import pytest
import torch

from baichuan2.checkpoints.load import load_model
from baichuan2.errors import DataError, GenerationError, SettingsError
from baichuan2.evaluation import candidate, processes, report
from baichuan2.evaluation.candidate import candidate_of, find_candidate, folder_name
from baichuan2.evaluation.plan import plan_suite, plan_suites
from baichuan2.evaluation.run import evaluate, evaluate_suite
from baichuan2.evaluation.task import load_task
from baichuan2.settings import EvaluationSettings, LoadSettings
from tests.checkpoints.folders import write_folder
from tests.evaluation.small_suite import LOAD, SUBJECTS, Listener, settings_for, write_ceval


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_folder(folder / "seven", "7b", "safetensors")
    write_folder(folder / "thirteen", "13b", "safetensors")
    return folder


LOADED: dict[LoadSettings, object] = {}


@pytest.fixture(autouse=True)
def _each_model_is_loaded_once(monkeypatch):
    """No test here changes a model, or looks at pictures, which tests/evaluation/test_reports.py does."""

    def load_once(settings):
        if settings not in LOADED:
            LOADED[settings] = load_model(settings=settings)
        return LOADED[settings]

    monkeypatch.setattr(candidate, "load_model", load_once)
    monkeypatch.setattr(report, "draw_scores", lambda _: b"")


@pytest.fixture(scope="module")
def load(models) -> LoadSettings:
    return replace(LOAD, model=str(models / "seven"))


@pytest.fixture
def data(tmp_path):
    return write_ceval(tmp_path / "data")


def test_a_result_holds_what_a_score_is_no_score_without(data, tmp_path, load):
    listener = Listener()
    (result,) = evaluate(settings_for(data, tmp_path / "out"), load, listener)
    kept = json.loads((tmp_path / "out" / "ceval" / "result.json").read_text(encoding="utf-8"))
    assert kept == result
    for name in ("recipe", "task_digest", "task_version", "shots", "split", "letters", "seed", "shortened_prompts"):
        assert result[name] is not None, name
    model = {"name": "seven", "dtype": "float32", "quantization": "none", "numerics": "exact", "positions": "rope"}
    assert {name: result["model"][name] for name in model} == model
    assert result["software"]["torch"] == torch.__version__
    assert result["hardware"]["cores"] >= 1
    assert result["chance"] == 0.25
    assert result["items"] == 8
    right = sum(found["right"] for found in result["subjects"].values())
    assert result["micro"] == right / 8
    assert result["macro"] == pytest.approx(sum(one["accuracy"] for one in result["subjects"].values()) / 2)
    assert result["score"] == result["macro"]  # the recipe's own average
    assert result["groups"]["Humanities"]["items"] == 8
    assert listener.started == [("ceval", 0)]
    assert listener.steps[0] == (0, 8)
    assert listener.steps[-1] == (8, 8)
    assert listener.pages == [tmp_path / "out" / "report.md"]


def test_a_finished_run_is_given_again_and_the_model_is_not_loaded(data, tmp_path, load):
    settings = settings_for(data, tmp_path / "out")
    (first,) = evaluate(settings, load, Listener())
    listener = Listener()
    (again,) = evaluate(settings, load, listener, lambda _: pytest.fail("the model was loaded"))
    assert again == first
    assert (listener.started, listener.finished) == ([], ["ceval"])


def test_more_items_are_added_and_fewer_are_refused(data, tmp_path, load):
    settings = settings_for(data, tmp_path / "out", subjects="law", limit=2)
    (few,) = evaluate(settings, load, Listener())
    assert (few["items"], few["is_partial"]) == (2, True)
    listener = Listener()
    more = settings_for(data, tmp_path / "out")
    assert evaluate(more, load, listener)[0]["items"] == 8
    assert listener.started == [("ceval", 2)]
    assert evaluate(more, load, Listener(), lambda _: pytest.fail("loaded"))[0]["items"] == 8
    with pytest.raises(SettingsError, match=r"answers to 6 items that this command does not ask"):
        evaluate(settings, load, Listener())


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"shots": 1}, "shots was 2, is 1"),
        ({"seed": 3}, "seed was 0, is 3"),
        ({"order": "file"}, "order was None, is file"),
        ({"letters": "spaced"}, "letters was None, is spaced"),
        ({"max_tokens": 300}, "max_tokens was None, is 300"),
        ({"chat_format": True}, "chat_format was False, is True"),
        ({"recipe": "lm-eval"}, "recipe was official, is lm-eval"),
    ],
)
def test_what_decides_the_answers_may_not_change(changes, named, data, tmp_path, load):
    evaluate(settings_for(data, tmp_path / "out", subjects="law", limit=1), load, Listener())
    other = settings_for(data, tmp_path / "out", subjects="law", limit=1, **changes)
    with pytest.raises(SettingsError, match="holds another run") as caught:
        evaluate(other, load, Listener())
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_change_that_is_taken_back_is_seen_too(data, tmp_path, load):
    settings = settings_for(data, tmp_path / "out", subjects="law", limit=1, order="file")
    evaluate(settings, load, Listener())
    with pytest.raises(SettingsError, match="order was file, is None"):
        evaluate(replace(settings, order=None), load, Listener())


def test_overwrite_starts_anew(data, tmp_path, load):
    evaluate(settings_for(data, tmp_path / "out"), load, Listener())
    listener = Listener()
    other = settings_for(data, tmp_path / "out", shots=1, limit=1, overwrite=True)
    assert evaluate(other, load, listener)[0]["items"] == 2
    assert listener.started == [("ceval", 0)]


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"dtype": "bfloat16"}, "dtype was float32, is bfloat16"),
        ({"quantize": "int8"}, "quantization was none, is int8"),
        ({"model": "thirteen"}, "the model differs"),
    ],
)
def test_another_model_may_not_go_on(other, named, data, tmp_path, load, models):
    settings = settings_for(data, tmp_path / "out", subjects="law", limit=1)
    evaluate(settings, load, Listener())
    if "model" in other:
        other = {"model": str(models / other["model"])}
    with pytest.raises(SettingsError, match=named):
        evaluate(settings, replace(load, **other), Listener())


def test_changed_data_are_seen_also_behind_the_limit(data, tmp_path, load):
    settings = settings_for(data, tmp_path / "out", subjects="law", limit=1)
    evaluate(settings, load, Listener())
    path = data / "ceval" / "val" / "law_val.csv"
    path.write_text(path.read_text(encoding="utf-8").replace("第3题", "第三题"), encoding="utf-8")
    with pytest.raises(SettingsError, match="data law differs"):
        evaluate(settings, load, Listener())


def test_weights_that_differ_in_one_place_are_another_model(models, tmp_path):
    import shutil

    copy = shutil.copytree(models / "seven", tmp_path / "seven")
    first, second = (find_candidate(replace(LOAD, model=str(path))).identity for path in (models / "seven", copy))
    assert first == second
    weights = next(copy.glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert find_candidate(replace(LOAD, model=str(copy))).identity != first


def test_only_a_limit_that_leaves_items_out_makes_a_result_partial(data):
    values = {"data": str(data), "subjects": ",".join(SUBJECTS), "shots": 2}
    everything = replace(load_task("ceval").recipe("official"), subjects=SUBJECTS)
    found = []
    for limit in (None, 3, 4, 9):
        plan = plan_suite("ceval", EvaluationSettings(**values, limit=limit))
        found.append((plan.num_left_out, replace(plan, recipe=everything).is_partial))
    assert found == [(0, False), (2, True), (0, False), (0, False)]


def test_the_split_without_answers_gives_a_submission(data, tmp_path, load):
    (result,) = evaluate(settings_for(data, tmp_path / "out", split="test"), load, Listener())
    assert (result["score"], result["interval"], result["chance"]) == (None, None, None)
    submission = json.loads((tmp_path / "out" / "ceval" / "submission.json").read_text(encoding="utf-8"))
    assert set(submission) == {"law", "logic"}
    assert list(submission["law"]) == ["0", "1", "2", "3"]
    assert set(submission["law"].values()) <= set("ABCD")
    assert "no answers" in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")


def test_no_item_is_its_own_example(data):
    plan = plan_suite("ceval", settings_for(data, None, split="dev", shots=1))
    for question in plan.questions:
        assert question.examples
        assert question.item.number not in {example.number for example in question.examples}
    with pytest.raises(DataError, match=r"law: the prompt needs 2 examples, the data hold 1: give --shots 1"):
        plan_suite("ceval", settings_for(data, None, split="dev"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"suite": "cevall"}, "did you mean ceval"),
        ({"subjects": "lawn"}, "law"),
        ({"letters": "bare", "recipe": "lm-eval"}, "--letters bare: ceval by the recipe lm-eval compares no letters"),
        ({"split": "train"}, "train"),
    ],
)
def test_wrong_names_are_told_in_one_line(changes, message, data):
    settings = settings_for(data, None, **changes)
    with pytest.raises((SettingsError, DataError), match=message) as caught:
        plan_suite(settings.suite_names[0], settings)
    assert "\n" not in str(caught.value)


def test_data_must_be_named_and_there(tmp_path, data):
    with pytest.raises(SettingsError, match="--data DIR is missing"):
        plan_suite("ceval", replace(settings_for(data, None), data=None))
    with pytest.raises(SettingsError, match="no such folder"):
        plan_suite("ceval", settings_for(tmp_path / "nowhere", None))


def test_of_all_suites_those_with_data_are_asked_and_the_others_are_named(data, tmp_path, load):
    listener = Listener()
    results = evaluate(settings_for(data, tmp_path / "out", suite="all"), load, listener)
    assert [result["suite"] for result in results] == ["ceval"]
    assert any(line.startswith("mmlu is left out: ") for line in listener.remarks)
    with pytest.raises(DataError, match="none of all suites"):
        evaluate(settings_for(tmp_path / "out", tmp_path / "out", suite="all"), load, listener)


def test_in_python_nothing_is_kept_where_no_folder_is_given(data, tmp_path, load, monkeypatch):
    monkeypatch.chdir(tmp_path)
    loaded = load_model(settings=load)
    steps = []
    result = evaluate_suite("ceval", settings_for(data, None), loaded, lambda *step: steps.append(step))
    assert steps[-1] == (8, 8)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    kept = evaluate_suite("ceval", settings_for(data, tmp_path / "out"), loaded, lambda *_: None)
    assert kept["subjects"] == result["subjects"]
    assert (tmp_path / "out" / "ceval" / "result.json").is_file()
    assert candidate_of(loaded).identity["dtype"] == "float32"


def test_a_model_that_gives_no_numbers_is_named(data, tmp_path, load):
    loaded = load_model(settings=load)
    with torch.no_grad():
        loaded.model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(GenerationError, match=r"no number|no finite number"):
        evaluate(settings_for(data, tmp_path / "out"), load, Listener(), lambda _: loaded)


def test_the_folder_says_how_the_model_differs_from_how_it_comes(load):
    found = find_candidate(load)
    load = replace(load, dtype="auto")
    assert folder_name(found, load, "official") == "seven"
    other = replace(load, quantize="int4", dtype="bfloat16", numerics="official")
    assert folder_name(found, other, "lm-eval") == "seven-int4-bfloat16-official-numerics-lm-eval"
    odd = replace(found, name="../../of/x y\n|*")
    assert folder_name(odd, load, "official") == "x-y"


def test_half_precision_with_the_released_rounding_is_warned_of_on_the_thirteen(models):
    thirteen = replace(LOAD, model=str(models / "thirteen"), numerics="official")
    (remark,) = find_candidate(replace(thirteen, dtype="bfloat16")).remarks
    assert "0.564" in remark
    assert find_candidate(thirteen).remarks == ()
    assert find_candidate(replace(thirteen, numerics="exact", dtype="bfloat16")).remarks == ()
    assert find_candidate(replace(thirteen, model=str(models / "seven"), dtype="bfloat16")).remarks == ()


def test_several_adapters_are_several_models(load):
    with pytest.raises(SettingsError, match="one adapter as --adapter PATH"):
        find_candidate(replace(load, adapter="a=one,b=two"))


@pytest.mark.parametrize("count", [1, 2, 3, 5, 40])
def test_shares_are_whole_neighbours_and_even(count, monkeypatch):
    parts = [("law", index % 7 + 1) for index in range(17)] + [("logic", 9)] * 13
    monkeypatch.setenv("WORLD_SIZE", str(count))
    shares = []
    for rank in range(count):
        monkeypatch.setenv("RANK", str(rank))
        shares.append(processes.share(parts, lambda part: part[1]))
    assert [part for one in shares for part in one] == parts  # nothing lost, nothing twice, neighbours together
    costs = [sum(cost for _, cost in one) for one in shares]
    assert max(costs) - min(costs) <= 2 * 9


def test_processes_of_one_machine_take_its_accelerators_in_turn(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    assert processes.own_device("auto") == "auto"  # one process alone takes what it likes
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert [processes.own_device(name) for name in ("auto", "cuda", "cpu", "cuda:1", "npu")] == [
        "cuda:0",
        "cuda:0",
        "cpu",
        "cuda:1",
        "npu",
    ]


def test_leave_to_run_programs_is_refused_where_none_are_written(tmp_path):
    settings = EvaluationSettings(suite="ceval,mmlu", data=str(tmp_path), generated_code="sandbox")
    with pytest.raises(SettingsError, match=r"--generated-code is for suites .*\(humaneval, mbpp\), got ceval, mmlu"):
        plan_suites(settings)
