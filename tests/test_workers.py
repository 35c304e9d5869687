"""One record, whoever does the work: workers here, workers of Ray, workers that die."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import sys
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from mdlbench.adapters.load import NamedCoder
from mdlbench.codes.rates import TreeCode
from mdlbench.errors import CheckpointError, CoderError, UsageError, WorkerError
from mdlbench.records.store import read_records
from mdlbench.scoring import cluster
from mdlbench.scoring.apart import MeasureApart, in_order
from mdlbench.scoring.bench import Bench
from mdlbench.scoring.cluster import RayEngine, Versions, Workers
from mdlbench.scoring.evaluation import evaluate_coder
from mdlbench.scoring.executor import InProcess
from mdlbench.scoring.repeat import Unverified, Verified, read_claim, verify
from mdlbench.scoring.rounds import Rounds
from mdlbench.scoring.suite_run import Failed, Scored, Shard, run
from mdlbench.scoring.targets import Target, in_modes, targets
from mdlbench.scoring.tasks import Distort
from mdlbench.scoring.worker import Worker
from mdlbench.sources import images
from mdlbench.sources.kinds.images import PIXELS
from mdlbench.sources.open import Opener, Setting
from mdlbench.suite.load import load_suite
from mdlbench.suite.site import Site
from tests.tiny import tiny_suite, write_sae

TIMES = ("environment", "provenance")


class Forgetful(InProcess):
    """Workers in a drawn order, some of which are replaced by empty ones before a task."""

    def __init__(self, opener, n_workers, seed, deaths):
        super().__init__(opener, n_workers)
        self._opener, self._draw, self._deaths = opener, random.Random(seed), deaths
        self.n_measured_apart = 0

    def as_done(self, tasks, on_stage=None):
        order = self._draw.sample(range(len(tasks)), len(tasks))
        self.n_measured_apart += sum(isinstance(task, MeasureApart) for task in tasks)
        for n, outcome in super().as_done([tasks[i] for i in order], print):
            yield order[n], outcome

    @contextmanager
    def workers(self, opener):
        """It is also an engine, of its own workers."""
        yield self

    def run(self, tasks):
        found = [None] * len(tasks)
        for i in self._draw.sample(range(len(tasks)), len(tasks)):
            place = self._draw.randrange(self.n_workers)
            if self._draw.random() < self._deaths:
                self._workers[place] = Worker(self._opener)
            found[i] = tasks[i](self._workers[place])
        return found


def measured(executor, site, sae, quantiser=None):
    """The record of an SAE, and the references, without times."""
    bench = Bench.open(executor, site, quantiser)
    named = NamedCoder(str(sae))
    identity = bench.identity(bench.identify(named), "sae")
    record = json.loads(evaluate_coder(bench, named, identity).record.to_json())
    references = json.loads(bench.references().model_dump_json())
    return {key: record[key] for key in record if key not in (*TIMES, "checksum")}, references


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Workers of Ray have one: products are rounded otherwise in several."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    """With few steps, one of which is searched for."""
    tolerances = [{"metric": "mse", "epsilons": [0.004]}, {"metric": "kl", "epsilons": [0.02]}]
    return tiny_suite(
        tmp_path_factory.mktemp("suite"),
        steps={"finest": 0.125, "octaves": 3},
        tolerances=tolerances,
        replicates=100,
    )


@pytest.fixture(scope="module")
def sae(tmp_path_factory):
    return write_sae(tmp_path_factory.mktemp("sae"))


@pytest.fixture
def blocks(monkeypatch):
    """Some blocks of each split."""
    monkeypatch.setattr(images, "BLOCK_IMAGES", 67)


@pytest.mark.parametrize("mode", [None, "per-feature", "tree"])
def test_a_record_is_the_same_for_any_number_of_workers(suite, sae, blocks, mode):
    site = Site(hook=PIXELS)
    one, two, three = (
        measured(InProcess(Opener(suite), n_workers), site, sae, mode) for n_workers in (1, 2, 3)
    )
    assert one == two == three


@pytest.mark.parametrize("seed", range(2))
def test_workers_that_die_and_tasks_in_any_order_change_nothing(suite, sae, blocks, seed):
    site = Site(hook=PIXELS)
    one = measured(InProcess(Opener(suite)), site, sae)
    executor = Forgetful(Opener(suite), n_workers=3, seed=seed, deaths=0.3)
    assert measured(executor, site, sae) == one


def kept_in(folder):
    """What a results folder holds, without times."""
    texts = {path: path.read_text() for path in folder.rglob("*.json")}
    contents = {path.relative_to(folder): json.loads(text) for path, text in texts.items()}
    for record in contents.values():
        for key in ("environment", "checksum"):
            record.pop(key, None)
        record.get("provenance", {}).pop("date", None)
    pictures = [path.relative_to(folder) for path in folder.rglob("*.png")]
    return contents, sorted(pictures)


def draw_nothing(path, name, rows, image_shape, bits):
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"{name} {rows.sum()} {image_shape} {bits.sum()}")


@pytest.fixture(scope="module")
def several(suite, tmp_path_factory):
    """SAEs of which one cannot be loaded, one is named twice, and two are called alike."""
    folder = tmp_path_factory.mktemp("several")
    for seed in range(2):
        write_sae(folder / f"{seed}" / "layer", seed=seed)
    (folder / "broken" / "layer").mkdir(parents=True)
    (folder / "broken" / "layer" / "cfg.json").write_text("{")
    words = [f"{folder}/0/layer", "mean", f"{folder}/broken/layer", f"saelens:{folder}/1/layer"]
    words.append("mean")
    return targets(suite, words, None)


def test_saes_measured_apart_are_what_they_are_one_by_one(suite, several, blocks, tmp_path):
    one = list(run(Opener(suite), several, tmp_path / "one", draw=draw_nothing))
    engine = Forgetful(Opener(suite), n_workers=2, seed=1, deaths=0.1)
    shared = run(Opener(suite), several, tmp_path / "shared", draw=draw_nothing, engine=engine)
    fates = [(type(outcome), outcome.target.label) for outcome in shared]
    assert fates == [(type(outcome), outcome.target.label) for outcome in one]
    assert [fate for fate, _ in fates].count(Failed) == 1
    assert engine.n_measured_apart == 2
    assert kept_in(tmp_path / "shared") == kept_in(tmp_path / "one")
    names = [outcome.record.name for outcome in one if isinstance(outcome, Scored)]
    assert len(names) == 4
    assert len(set(names)) == 3
    again = list(run(Opener(suite), several, tmp_path / "shared", engine=engine))
    assert [outcome.reused for outcome in again if isinstance(outcome, Scored)] == [True] * 4
    assert engine.n_measured_apart == 2


@pytest.fixture
def n_rounded(monkeypatch):
    """Into it goes by how many quantisers each block range of an SAE was rounded."""
    counted, measure = [], Distort._measured

    def counting(task, worker, quantisers):
        counted.append(len(quantisers))
        return measure(task, worker, quantisers)

    monkeypatch.setattr(Distort, "_measured", counting)
    return counted


@pytest.mark.parametrize("n_workers", [1, 2])
def test_modes_that_round_alike_share_their_losses(suite, sae, tmp_path, n_rounded, n_workers):
    wanted = targets(suite, [str(sae), "mean"], None)
    list(run(Opener(suite), wanted, tmp_path / "apart"))
    n_alone = sum(n_rounded)
    assert n_alone > 6
    list(run(Opener(suite), in_modes(suite, wanted, ["tree"]), tmp_path / "apart"))
    assert sum(n_rounded) == 2 * n_alone
    n_rounded.clear()
    engine = Forgetful(Opener(suite), n_workers, seed=0, deaths=0.0)
    both = in_modes(suite, wanted, ["normalised", "tree", "tree"])
    outcomes = list(run(Opener(suite), both, tmp_path / "shared", engine=engine))
    labels = [str(sae), f"{sae} [tree]", "mean", "mean [tree]"]
    assert [outcome.target.label for outcome in outcomes] == labels
    assert sum(n_rounded) == n_alone
    assert kept_in(tmp_path / "shared") == kept_in(tmp_path / "apart")


def test_modes_of_one_sae_are_measured_apart_by_one_worker(suite, several, blocks, tmp_path):
    wanted = in_modes(suite, several, ["tree", "normalised", "rdo"])
    one = list(run(Opener(suite), wanted, tmp_path / "one"))
    engine = Forgetful(Opener(suite), n_workers=2, seed=3, deaths=0.1)
    shared = list(run(Opener(suite), wanted, tmp_path / "shared", engine=engine))
    fates = [(type(outcome), outcome.target.label) for outcome in shared]
    assert fates == [(type(outcome), outcome.target.label) for outcome in one]
    assert [fate for fate, _ in fates].count(Failed) == 3
    assert engine.n_measured_apart == 2
    assert kept_in(tmp_path / "shared") == kept_in(tmp_path / "one")
    names = {outcome.record.label for outcome in one if isinstance(outcome, Scored)}
    assert len(names) == 9


def test_a_mode_that_fails_apart_leaves_the_others_their_records(
    suite, several, monkeypatch, tmp_path
):
    def refuse(*_):
        raise CoderError("no tree today")

    monkeypatch.setattr(TreeCode, "fit", refuse)
    engine = Forgetful(Opener(suite), n_workers=2, seed=0, deaths=0.0)
    wanted = in_modes(suite, several[:2], ["normalised", "tree"])
    outcomes = list(run(Opener(suite), wanted, tmp_path, engine=engine))
    assert engine.n_measured_apart == 2
    assert [type(outcome) for outcome in outcomes] == [Scored, Failed] * 2
    assert {str(outcome.error) for outcome in outcomes[1::2]} == {"no tree today"}


def test_records_are_verified_apart_and_together(suite, several, tmp_path):
    wanted = several[:2]
    scored = [outcome.record for outcome in run(Opener(suite), wanted, tmp_path)]
    paths = sorted((tmp_path / "records").glob("*.json"))
    specs = {record.name: target.sae.spec for record, target in zip(scored, wanted, strict=True)}
    claims = [read_claim(path, suite) for path in paths]
    claims = [
        read_claim(path, suite, specs[claim.record.name])
        for path, claim in zip(paths, claims, strict=True)
    ]
    wrong = read_claim(paths[0], suite, several[3].sae.spec)
    engine = Forgetful(Opener(suite), 2, seed=0, deaths=0.0)
    outcomes = list(verify([claims[0], wrong, claims[1]], engine=engine))
    assert [type(outcome) for outcome in outcomes] == [Verified, Unverified, Verified]
    assert "in the record" in str(outcomes[1].error)
    assert engine.n_measured_apart == 1
    assert {outcome.deviation for outcome in outcomes[::2]} == {(0.0, 0.0, 0)}


@given(st.permutations(range(6)))
def test_what_is_found_in_any_order_comes_in_order(order):
    assert list(in_order((i, str(i)) for i in order)) == [str(i) for i in range(6)]


def test_a_worker_that_reads_other_data_is_refused(suite, tmp_path):
    other = tiny_suite(tmp_path / "other")
    torch.manual_seed(4)
    save_file(images.Classifier(64, hidden=16).state_dict(), other.path("classifier.safetensors"))
    executor = InProcess(Opener(suite), 2)
    executor._workers[1] = Worker(Opener(other))
    with pytest.raises(WorkerError, match=r"^worker 2 of 2 reads other data than worker 1: data_"):
        Rounds.at(executor, Site(hook=PIXELS))


def test_more_workers_than_blocks(suite, sae):
    rounds = Rounds.at(InProcess(Opener(suite), 5), Site(hook=PIXELS))
    assert [(r.start, r.stop) for r in rounds.ranges("test")] == [(0, 1)]


def test_ranges_cover_a_split_once(suite, monkeypatch):
    monkeypatch.setattr(images, "BLOCK_IMAGES", 1)
    for n_workers in (1, 2, 3, 7):
        rounds = Rounds.at(InProcess(Opener(suite), n_workers), Site(hook=PIXELS))
        ranges = rounds.ranges("test")
        assert [i for r in ranges for i in range(r.start, r.stop)] == list(range(200))
        assert max(r.stop - r.start for r in ranges) <= -(-200 // n_workers)


@pytest.fixture(scope="module")
def toy():
    return load_suite("toy")


LIMITED = Setting(limit=3000)


@pytest.fixture(scope="module")
def truth(toy):
    """The record of toy's own dictionary by one worker, and its key there."""
    path = toy.folder / toy.entry("truth").spec.rpartition(":")[2]
    opener = Opener(toy, LIMITED)
    return path, measured(InProcess(opener), opener.site_of(), path)


@pytest.fixture(scope="module")
def engine():
    notices = []
    engine = RayEngine(Workers(2), notices.append)
    engine.notices = notices
    yield engine
    engine.close()


class TestRay:
    """Workers in processes of their own."""

    def test_the_record_is_that_of_one_process(self, engine, toy, truth):
        path, expected = truth
        opener = Opener(toy, LIMITED)
        with engine.workers(opener) as executor:
            assert executor.n_workers == 2
            assert measured(executor, opener.site_of(), path) == expected

    def test_workers_that_are_killed_change_nothing(self, engine, toy, truth):
        path, expected = truth
        opener, draw = Opener(toy, LIMITED), random.Random(0)
        engine.notices.clear()
        with engine.workers(opener) as executor:
            plain_run, killed = executor.run, []

            def run(tasks):
                if len(killed) < 2 and draw.random() < 0.3:
                    (pid,) = plain_run([ProcessId()])
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
                return plain_run(tasks)

            executor.run = run
            assert measured(executor, opener.site_of(), path) == expected
        assert len(killed) == len(engine.notices) == 2
        assert all("died (" in notice and "part again" in notice for notice in engine.notices)

    def test_a_worker_killed_amid_whole_saes_changes_nothing(
        self, engine, toy, tmp_path, monkeypatch
    ):
        wanted = targets(toy, [], None)[:3]
        list(run(Opener(toy, LIMITED), wanted, tmp_path / "one"))
        monkeypatch.setattr(cluster, "ASKED_SECONDS", 0.01)
        engine.notices.clear()
        opener, heard = Opener(toy, LIMITED), []
        with engine.workers(opener) as executor:
            pids = executor.run([ProcessId(), ProcessId()])

            def kill_at_first(stage):
                if stage.count(": ") and len(pids) == 2:
                    os.kill(pids.pop(), signal.SIGKILL)
                heard.append(stage.partition(": ")[0])

            held = Held(executor)
            outcomes = list(run(opener, wanted, tmp_path / "ray", kill_at_first, engine=held))
        assert len(engine.notices) == 1
        assert set(heard) >= {wanted[2].label, wanted[0].label}
        assert [outcome.target for outcome in outcomes] == wanted
        assert kept_in(tmp_path / "ray") == kept_in(tmp_path / "one")

    def test_what_a_task_raises_is_raised_here(self, engine, toy):
        with engine.workers(Opener(toy, LIMITED)) as executor:
            with pytest.raises(CoderError, match=r"^it looks at other tokens$"):
                executor.run([Raises(CoderError("it looks at other tokens"))])
            with pytest.raises(ZeroDivisionError):
                executor.run([Raises(ZeroDivisionError("by zero"))])
            assert sorted(executor.as_done([ProcessNumber(i) for i in range(5)])) == [
                (i, 10 * i) for i in range(5)
            ]

    def test_a_task_that_kills_every_worker_is_an_error(self, engine, toy, monkeypatch):
        engine.notices.clear()
        monkeypatch.setattr(cluster, "ATTEMPTS", 2)
        message = r"^2 workers died of one task \(.*memory"
        opener = Opener(toy, LIMITED)
        with engine.workers(opener) as executor, pytest.raises(WorkerError, match=message):
            executor.run([Dies()])
        assert len(engine.notices) == 1

    def test_an_sae_that_workers_cannot_load_fails_alone(self, engine, toy, truth, tmp_path):
        wanted = [Target(NamedCoder(str(tmp_path / "gone"))), Target(NamedCoder(str(truth[0])))]
        outcomes = list(run(Opener(toy, LIMITED), wanted, tmp_path / "out", engine=engine))
        assert isinstance(outcomes[0], Failed)
        assert isinstance(outcomes[0].error, (CheckpointError, UsageError))
        assert outcomes[1].record.environment.threads == 1

    def test_other_versions_are_refused(self, engine, toy, monkeypatch):
        here = Versions.here()
        older = Versions(here.python, here.libraries | {"torch": "1.0"}, threads=1)
        monkeypatch.setattr(Versions, "here", lambda: older)
        message = f"runs other versions: torch is 1.0 here, but {here.libraries['torch']} there"
        workers = engine.workers(Opener(toy, LIMITED))
        with pytest.raises(WorkerError, match=re.escape(message)):
            workers.__enter__()


class Held:
    """The engine of workers that there are already."""

    def __init__(self, executor):
        self._executor = executor

    @contextmanager
    def workers(self, opener):
        yield self._executor


class ProcessId:
    def __call__(self, worker):
        return os.getpid()


class ProcessNumber:
    def __init__(self, number):
        self.number = number

    def __call__(self, worker):
        return 10 * self.number


class Raises:
    def __init__(self, error):
        self.error = error

    def __call__(self, worker):
        raise self.error


class Dies:
    def __call__(self, worker):
        os.kill(os.getpid(), signal.SIGKILL)


def test_without_ray_there_is_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r'^workers need Ray: pip install "mdlbench\[ray\]"$'):
        RayEngine(Workers(2))


def test_an_address_that_does_not_answer_is_a_sentence():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        message = f"no Ray cluster answers at 127.0.0.1:{port}: "
        with pytest.raises(WorkerError, match=re.escape(message)):
            RayEngine(Workers(address=f"127.0.0.1:{port}"))
    for address in ("cluster", "ray://cluster", "10.0.0.1:none"):
        with pytest.raises(UsageError, match=r"write HOST:PORT, or auto"):
            RayEngine(Workers(address=address))


@pytest.mark.parametrize("text", ["5/4", "0/4", "a/b", "1", "1/0", "-1/2", "1/2/3", ""])
def test_a_shard_that_is_none_is_a_sentence(text):
    with pytest.raises(UsageError, match=re.escape(f"--shard {text}: write i/N")):
        Shard.parse(text)


def test_shards_have_each_sae_once_and_few_sites(toy, tmp_path):
    wanted = targets(toy, [], None)
    scored = []
    for i in range(1, 4):
        outcomes = list(run(Opener(toy, Setting(limit=60)), wanted, tmp_path, shard=Shard(i, 3)))
        assert abs(len(outcomes) - len(wanted) / 3) < 1
        scored += [outcome.target.label for outcome in outcomes]
    assert sorted(scored) == sorted(target.label for target in wanted)
    assert len(read_records(tmp_path)) == len(wanted)


def test_room_is_asked_for_before_workers_are():
    class Small:
        @staticmethod
        def cluster_resources():
            return {"CPU": 4.0, "GPU": 2.0}

    assert cluster._with_room(Small, Workers()) == 4
    assert cluster._with_room(Small, Workers(gpus=0.5)) == 4
    assert cluster._with_room(Small, Workers(gpus=1.0)) == 2
    with pytest.raises(UsageError, match="no room for 5 workers: the cluster has 4 CPUs; ask for"):
        cluster._with_room(Small, Workers(5))
    with pytest.raises(UsageError, match="for 3 workers: the cluster has 4 CPUs and 2 GPUs"):
        cluster._with_room(Small, Workers(3, gpus=1.0))
