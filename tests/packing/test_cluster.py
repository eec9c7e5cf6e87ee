"""Analyses on a Ray cluster: the same skill, whatever becomes of the machines, and clear words when it cannot be."""

import math
import os
import socket
import sys
import threading
import types

import numpy as np
import pytest

from skillpack import pack
from skillpack.codecs.lowrank import LowRank
from skillpack.errors import SkillPackError, UsageError
from skillpack.packing import cluster as clusters
from skillpack.packing.analysis import Offer, analysed
from skillpack.packing.cluster import Cluster, connected
from tests.packing.models import base_values, normal, tuned_values, write

pytestmark = pytest.mark.xdist_group("ray")


def test_a_cluster_without_ray_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match="not installed") as caught, connected("auto"):
        pass
    assert "skillpack[ray]" in caught.value.hint


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9", "[::1]:9", "127.0.0.1:x", "nobody.invalid:80"])
def test_a_cluster_that_does_not_answer_is_refused(address):
    with pytest.raises(UsageError, match="does not answer"), connected(address):
        pass


@pytest.mark.parametrize("answer", [None, b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"-ERR unknown command\r\n"])
def test_what_answers_but_is_no_cluster_is_refused(monkeypatch, answer):
    monkeypatch.setattr(clusters, "_PATIENCE", 0.2)

    def serve():
        connection, _ = server.accept()
        with connection:
            if answer is None:
                left.wait(10)
            else:
                connection.recv(100)
                connection.sendall(answer)

    left = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(UsageError, match="does not answer"), connected(f"127.0.0.1:{server.getsockname()[1]}"):
            pass
        left.set()
        thread.join()


@pytest.mark.parametrize("address", ["nonsense", "", "local"])
def test_what_is_no_address_is_refused(address):
    with pytest.raises(UsageError, match="no address"), connected(address):
        pass


def test_a_cluster_chooses_its_devices(tmp_path):
    with pytest.raises(UsageError, match="cuda:1"):
        pack(tmp_path, tmp_path, "s", ray="127.0.0.1:9", device="cuda:1")


def stub(cores=2, memory=10**9):
    """What `Cluster` asks of Ray when nothing is sent."""
    node = {"Alive": True, "Resources": {"CPU": cores, "object_store_memory": memory}}
    return types.SimpleNamespace(nodes=lambda: [node])


def test_results_come_in_order_and_what_is_under_way_is_bounded():
    lock, running, most = threading.Lock(), [0, 0], [0, 0]
    sizes = [10**6, 10**6, 10**9, 10**7, 10**7, 10**7, *[10] * 30]

    def work(at):
        with lock:
            running[0] += 1
            running[1] += sizes[at]
            most[:] = [max(pair) for pair in zip(most, running, strict=True)]
        threading.Event().wait(0.01)
        with lock:
            running[0] -= 1
            running[1] -= sizes[at]
        return at

    found = Cluster(stub(), "cpu").for_each(work, range(len(sizes)), sizes.__getitem__)
    assert list(found) == list(range(len(sizes)))
    assert 1 < most[0] <= 4
    assert most[1] == 10**9


def test_an_error_ends_what_is_under_way():
    def work(at):
        if at == 3:
            raise ValueError("three")
        return at

    with pytest.raises(ValueError, match="three"):
        list(Cluster(stub(), "cpu").for_each(work, range(100), lambda at: 1))


@pytest.fixture(scope="module")
def nodes():
    """A cluster of two nodes on this machine, with a core each; the second one may be lost."""
    from ray.cluster_utils import Cluster as Machines

    with pytest.MonkeyPatch.context() as patch:
        # Workers are nice by default, which on a busy machine means that they take minutes to start.
        patch.setenv("RAY_worker_niceness", "0")
        patch.setenv("RAY_health_check_period_ms", "500")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        size = {"num_cpus": 1, "object_store_memory": 100 << 20}
        machines = Machines(initialize_head=True, head_node_args={**size, "include_dashboard": False})
        try:
            yield machines, machines.add_node(**size)
        finally:
            machines.shutdown()


def test_a_cluster_analyses_as_this_process_does(nodes, monkeypatch):
    delta = normal(90, 60)
    offers = [Offer(LowRank(), delta.shape, math.inf)]
    with connected(nodes[0].address) as cluster:
        (found,) = cluster.run(analysed, delta, offers, 0.01)
        pids = set(cluster.for_each(lambda _: cluster.run(os.getpid), range(4), lambda _: 1))
        monkeypatch.setitem(sys.modules, "only_here", types.ModuleType("only_here"))
        sys.modules["only_here"].work = types.FunctionType((lambda: 1).__code__, {}, "work")
        sys.modules["only_here"].work.__module__ = "only_here"
        sys.modules["only_here"].work.__qualname__ = "work"
        with pytest.raises(SkillPackError, match="only_here") as caught:
            cluster.run(sys.modules["only_here"].work)
        assert "Install the same version" in caught.value.hint
        with pytest.raises(ZeroDivisionError):
            cluster.run(divmod, 1, 0)
    (wanted,) = analysed(delta, offers, 0.01)
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array)
    assert os.getpid() not in pids


def test_work_that_is_lost_again_and_again_is_an_error(nodes, monkeypatch):
    monkeypatch.setattr(clusters, "_RETRIES", 1)
    with connected(nodes[0].address) as cluster, pytest.raises(SkillPackError, match="lost the same work 2 times"):
        cluster.run(os._exit, 1)


def test_a_device_that_a_cluster_lacks_is_refused(nodes):
    with pytest.raises(UsageError, match="no GPU"), connected(nodes[0].address, "cuda"):
        pass


def test_a_pack_survives_the_loss_of_a_node(nodes, tmp_path):
    base = base_values(width=256, blocks=6)
    models = write(tmp_path / "base", base), write(tmp_path / "tuned", tuned_values(base))
    wanted = pack(*models, "s", store=tmp_path / "store").digest
    lost = []

    def progress(done, total, what):
        if what == "analysing tensors" and done > 0.2 * total and not lost:
            lost.append(done / total)
            nodes[0].remove_node(nodes[1], allow_graceful=False)

    found = pack(*models, "s", store=tmp_path / "store", ray=nodes[0].address, progress=progress)
    assert found.digest == wanted
    assert 0 < lost[0] < 0.5
