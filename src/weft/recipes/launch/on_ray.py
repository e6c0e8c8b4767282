"""The agents of a run on a Ray cluster: a placement group with a bundle a node, an actor in each.

Ray finds the nodes and keeps them; the actors run torchrun, so that training itself is the same as anywhere.
The nodes need Weft installed and the shared folder mounted, as for every other form.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import warnings
from typing import Any

from weft.core.errors import Interrupted, ResourceError
from weft.recipes.launch import outcome
from weft.recipes.launch.agents import SHOWN
from weft.recipes.launch.job import Job

WAIT = 300.0
"""Seconds until the cluster must have room for all nodes."""


class Node:
    """What runs on a node: the agent's processes live and die with this actor."""

    def address(self) -> tuple[str, int]:
        """The node's address in the cluster, and a port that is free on it."""
        import ray

        with socket.socket() as probe:
            probe.bind(("", 0))
            return ray.util.get_node_ip_address(), probe.getsockname()[1]

    def run(self, script: str) -> int:
        """Run the agent to its end and return its exit code; what rank 0 says is said by the actor."""
        process = subprocess.Popen(
            ["sh", "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(SHOWN):
                sys.stderr.write(line.removeprefix(SHOWN))
                sys.stderr.flush()
        return process.wait()


def run(job: Job, address: str, *, gpus: bool, wait: float = WAIT) -> None:
    """Run ``job`` on the cluster at ``address`` (``auto``, ``HOST:PORT`` or ``ray://...``) to its end.

    Raises ResourceError without ray, a cluster or room on it, and what ended the run.
    """
    try:
        import ray
    except ImportError:
        raise ResourceError("--ray needs the ray package; install it with: pip install 'weft[ray]'") from None
    try:
        with warnings.catch_warnings():
            # What it warns of is what the error says.
            warnings.simplefilter("ignore")
            ray.init(address=address, log_to_driver=True, logging_level="warning")
    except (ConnectionError, ValueError, RuntimeError) as error:
        # To an address that is given Ray sends a token only when told to, and else just waits for an answer.
        said = str(error).strip().removesuffix(".")
        raise ResourceError(
            f"There is no Ray cluster at {address}: {said}. If it asks for a token, set RAY_AUTH_MODE=token."
        ) from error
    try:
        codes = _run(ray, job, gpus, wait)
    except KeyboardInterrupt:
        raise Interrupted("Interrupted; run the same command again to continue.") from None
    finally:
        ray.shutdown()
    if any(codes.values()):
        raise outcome.fault(job, codes)


def _run(ray: Any, job: Job, gpus: bool, wait: float) -> dict[str, int]:
    need = {"CPU": 1, **({"GPU": job.per_node} if gpus else {})}
    group = ray.util.placement_group([need] * job.nodes, strategy="STRICT_SPREAD")
    if not group.wait(wait):
        ray.util.remove_placement_group(group)
        raise ResourceError(
            f"The Ray cluster has no {job.nodes} nodes with {job.per_node if gpus else 'processors'}"
            f"{' GPUs each' if gpus else ''} free within {wait:g} s; add nodes, or give fewer with --nodes."
        )
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    remote = ray.remote(Node)
    nodes = [
        remote.options(
            num_cpus=need["CPU"],
            num_gpus=need.get("GPU", 0),
            scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index),
        ).remote()
        for index in range(job.nodes)
    ]
    try:
        places = ray.get([node.address.remote() for node in nodes])
        endpoint = f"{places[0][0]}:{places[0][1]}"
        running = {}
        for index, (node, (host, _)) in enumerate(zip(nodes, places, strict=True)):
            line = job.torchrun(endpoint, host=host, settings={"is_host": int(index == 0)})
            running[node.run.remote(job.watched(line))] = host
        return {host: _code(ray, reference) for reference, host in running.items()}
    finally:
        for node in nodes:
            ray.kill(node)
        ray.util.remove_placement_group(group)


def _code(ray: Any, reference: Any) -> int:
    try:
        return int(ray.get(reference))
    except ray.exceptions.RayActorError:
        # The node is gone; the others say how training went on.
        return 255
