"""The face of replicas, with a stand-in for Ray: what is left behind, and whose counts are told."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from functools import partial
from types import SimpleNamespace

import pytest

from weft.core.errors import ResourceError
from weft.server import host_vllm, replicas
from weft.server.admission import Admission
from weft.server.answer import EngineFault
from weft.server.engine import EngineOptions, Patience
from weft.server.limits import Limits
from weft.server.models import Models
from weft.server.replicas import Fleet


class Cluster:
    """Deploys when it is let, and answers each request as one replica."""

    def __init__(self):
        self.deployed, self.go, self.replica = set(), threading.Event(), "one"
        self.fault, self.status = None, ("RUNNING", "")

    def deployment(self, *arguments, **how):
        return self

    def bind(self, *arguments):
        return self

    def _run(self, application, _blocking, name, route_prefix):
        assert self.go.wait(30)
        self.deployed.add(name)
        return self

    def options(self, **how):
        return self

    @property
    def facts(self):
        return self

    def remote(self, *message):
        if self.fault is not None:
            raise self.fault
        return self.answer() if message else self.told()

    async def told(self):
        return {"context": 10, "vocabulary": 100, "sequences": 4}

    async def answer(self):
        stats = {"running": 0, "total_blocks": 100, "steps": 7, "restarts": 1}
        said = {"replica": self.replica, "stats": stats}
        yield {"taken": True, **said}
        yield {"piece": {"text": "x", "tokens": 1, "finish": "stop"}, **said}


@pytest.fixture
def cluster(monkeypatch):
    found = Cluster()
    monkeypatch.setattr(replicas, "_connected", lambda address: found)
    monkeypatch.setattr(replicas, "_undeploy", found.deployed.discard)
    monkeypatch.setattr(replicas, "_status", lambda name: found.status)
    monkeypatch.setattr(replicas, "_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(replicas, "_SEEK_SECONDS", 0.01)
    return found


async def asked(fleet):
    return [piece.text async for piece in fleet.submit([1], {}).pieces()]


def test_who_stops_while_replicas_start_leaves_none_behind(cluster):
    async def run():
        fleet = Fleet(EngineOptions("x"), replicas=1, address=None)
        fleet.start()
        await asyncio.sleep(0.05)
        stopping = asyncio.ensure_future(fleet.stop())
        await asyncio.sleep(0.05)
        cluster.go.set()
        await stopping
        assert not cluster.deployed and not fleet.up

    asyncio.run(run())


def test_replicas_that_no_node_has_room_for_are_told_and_hold_up_no_end(cluster, caplog):
    cluster.status = "DEPLOYING", "6 replicas have taken more than 30s to be scheduled."

    async def run():
        cluster.go.set()
        backend = partial(Fleet, replicas=8, address=None)
        models = Models({"m": EngineOptions("x")}, patience=Patience(load=2), backend=backend)
        with pytest.raises(ResourceError, match=r"'m' has not loaded within .* not loaded yet"):
            await models.start()
        assert cluster.deployed
        await models.stop()
        assert not cluster.deployed

    with caplog.at_level(logging.WARNING):
        asyncio.run(run())
    told = [record.message for record in caplog.records if "taken more than 30s" in record.message]
    assert len(told) == 1 and told[0].startswith("Not all 8 replicas have started")


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("ModuleNotFoundError: No module named 'weft'\nTraceback", "No module named 'weft'"),
        ("", "cannot start the replicas: RuntimeError"),
    ],
)
def test_replicas_that_ray_gives_up_are_one_sentence(cluster, message, said):
    cluster.status = "DEPLOY_FAILED", message

    async def run():
        cluster.go.set()
        fleet = Fleet(EngineOptions("x"), replicas=1, address=None)
        fleet.start()
        with pytest.raises(ResourceError, match=f"{said}$"):
            await fleet.ready()
        await fleet.stop()
        assert not cluster.deployed

    asyncio.run(run())


def test_counts_of_replicas_that_are_gone_are_told_no_more(cluster, monkeypatch):
    async def run():
        cluster.go.set()
        fleet = Fleet(EngineOptions("x"), replicas=1, address=None)
        for number in range(3):
            cluster.replica = f"replica {number}"
            fleet.start()
            await fleet.ready()
            assert await asked(fleet) == ["x"]
            assert fleet.stats["total_blocks"] == 100 and fleet.restarts == number + 1
            await fleet.stop()
            assert fleet.stats == {} and fleet.restarts == number + 1
        fleet.start()
        await fleet.ready()
        for name in ("left", "right"):
            cluster.replica = name
            await asked(fleet)
        assert fleet.stats["total_blocks"] == 200 and fleet.stats["steps"] == 14
        monkeypatch.setattr(replicas, "_SILENT", 0.0)
        await asked(fleet)
        assert fleet.stats["total_blocks"] == 100 and fleet.stats["steps"] == 14
        await fleet.stop()

    asyncio.run(run())


def test_a_call_that_fails_is_told_and_health_with_it(cluster):
    async def run():
        cluster.go.set()
        fleet = Fleet(EngineOptions("x"), replicas=1, address=None)
        fleet.start()
        await fleet.ready()
        assert fleet.up
        cluster.fault = RuntimeError("Router is not initialized")
        with pytest.raises(EngineFault, match="is gone"):
            await asked(fleet)
        assert fleet.active == 0 and not fleet.up
        # Who asks all the same finds that there is one again.
        cluster.fault = None
        fleet.start()
        await fleet.ready()
        assert await asked(fleet) == ["x"] and fleet.up
        await fleet.stop()

    asyncio.run(run())


def test_a_reason_without_words_is_named_by_its_kind(monkeypatch):
    def refuse(**settings):
        raise NotImplementedError

    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=refuse))
    order = {"checkpoint": "x", "dtype": None, "max_sequences": 1, "settings": {}}
    monkeypatch.setattr("os.environ", dict(os.environ))
    with pytest.raises(ResourceError, match="vLLM cannot load x: NotImplementedError"):
        host_vllm.open_worker(order)


@pytest.mark.parametrize(
    ("ray", "said"), [(None, "needs the ray package"), ("away", "There is no Ray cluster at here:1")]
)
def test_without_ray_or_its_cluster_it_is_one_sentence_and_none_is_started(monkeypatch, ray, said):
    deleted = []

    def away(**settings):
        raise ConnectionError("nobody there")

    serve = SimpleNamespace(delete=deleted.append)
    module = ray and SimpleNamespace(is_initialized=lambda: False, init=away, serve=serve)
    monkeypatch.setitem(sys.modules, "ray", module)

    async def run():
        models = Models({"m": EngineOptions("x")}, backend=partial(Fleet, replicas=1, address="here:1"))
        with pytest.raises(ResourceError, match=said):
            await models.start()
        await models.stop()

    asyncio.run(run())
    assert not deleted


def test_who_came_before_replicas_were_unloaded_is_told_to_come_again(cluster):
    """While its text was encoded an operator unloaded them: what comes next is the look for a place."""

    async def run():
        cluster.go.set()
        fleet = Fleet(EngineOptions("x"), replicas=2, address=None)
        fleet.start()
        await fleet.ready()
        await fleet.stop()
        assert not fleet.up
        Admission(Limits(), None).answers(fleet, 1, None)
        with pytest.raises(EngineFault) as refused:
            fleet.submit([1], {})
        assert refused.value.status == 503
        fleet.start()
        await fleet.ready()
        assert fleet.up and await asked(fleet) == ["x"]
        await fleet.stop()

    asyncio.run(run())


def test_health_comes_back_though_nobody_asks(cluster):
    async def run():
        cluster.go.set()
        fleet = Fleet(EngineOptions("x"), replicas=1, address=None)
        fleet.start()
        await fleet.ready()
        cluster.fault = RuntimeError("The actor died")
        with pytest.raises(EngineFault, match="is gone"):
            await asked(fleet)
        await asyncio.sleep(0.05)
        assert not fleet.up
        cluster.fault = None
        async with asyncio.timeout(30):
            while not fleet.up:
                await asyncio.sleep(0.01)
        await fleet.stop()

    asyncio.run(run())
