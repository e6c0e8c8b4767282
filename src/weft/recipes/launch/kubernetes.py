"""A manifest for Kubernetes: a headless service, and an indexed Job with one pod a node. No operator."""

from __future__ import annotations

import json
import re

from weft.core.errors import UsageError
from weft.recipes.launch.job import PORT, Job


def manifest(
    job: Job, *, image: str, claim: str = "", gpus: bool = False, name: str = "weft", port: int = PORT
) -> str:
    """The YAML text.

    ``claim``: the persistent volume claim that all pods mount at ``job.directory``; ``gpus``: one a process.
    UsageError for a name that Kubernetes refuses, or without an image.
    """
    if not image:
        raise UsageError("--kubernetes needs --image, a container image in which weft is installed.")
    if not re.fullmatch(r"[a-z]([a-z0-9-]{0,50}[a-z0-9])?", name):
        raise UsageError(f"--name {name!r} must be lower-case letters, digits and dashes, at most 52.")
    line = job.torchrun(f"{name}-0.{name}:{port}", host="$host", settings={"is_host": "$first"})
    line[line.index("--rdzv-id") + 1] = name
    variables = {"host": f"$(hostname).{name}", "first": "$(( JOB_COMPLETION_INDEX == 0 ))"}
    shell = [
        job.threads(),
        *(f'{key}="{value}"' for key, value in variables.items()),
        f"exec {job.expanding(line)}",
    ]
    return "\n".join(
        [*_service(name, port), "---", *_head(job, name), *_pod(job, name, image, claim, gpus, shell), ""]
    )


def _service(name: str, port: int) -> list[str]:
    return [
        "# Written by weft launch: kubectl apply -f THIS. Applied again, the run continues.",
        "apiVersion: v1",
        "kind: Service",
        "metadata:",
        f"  name: {name}",
        "spec:",
        "  clusterIP: None",
        "  # The agents look for the first pod before any pod is ready.",
        "  publishNotReadyAddresses: true",
        "  selector:",
        f"    job-name: {name}",
        "  ports:",
        f"    - port: {port}",
    ]


def _head(job: Job, name: str) -> list[str]:
    return [
        "apiVersion: batch/v1",
        "kind: Job",
        "metadata:",
        f"  name: {name}",
        "spec:",
        "  completionMode: Indexed",
        f"  completions: {job.nodes}",
        f"  parallelism: {job.nodes}",
        f"  backoffLimit: {job.restarts * job.nodes}",
        "  template:",
        "    spec:",
        f"      subdomain: {name}",
        "      restartPolicy: Never",
        "      # Time to finish the step and save.",
        "      terminationGracePeriodSeconds: 120",
    ]


def _pod(job: Job, name: str, image: str, claim: str, gpus: bool, shell: list[str]) -> list[str]:
    variables = sorted(job.environment(elsewhere=True).items())
    lines = [
        "      containers:",
        "        - name: train",
        f"          image: {json.dumps(image)}",
        f"          workingDir: {json.dumps(str(job.directory))}",
        '          command: ["sh", "-c"]',
        "          args:",
        "            - |",
        *(f"              {line}" for line in shell),
        "          env:",
    ]
    for key, value in variables:
        lines += [f"            - name: {key}", f"              value: {_literal(value)}"]
    if gpus:
        lines += [
            "          resources:",
            "            limits:",
            f"              nvidia.com/gpu: {job.per_node}",
        ]
    mounts = [("shared-memory", "/dev/shm"), *([("runs", str(job.directory))] if claim else [])]
    lines += ["          volumeMounts:"]
    for volume, path in mounts:
        lines += [f"            - name: {volume}", f"              mountPath: {json.dumps(path)}"]
    lines += [
        "      volumes:",
        "        # What processes of a pod exchange; the default of 64 MB is too small.",
        "        - name: shared-memory",
        "          emptyDir: {medium: Memory}",
    ]
    if claim:
        lines += [
            "        - name: runs",
            "          persistentVolumeClaim:",
            f"            claimName: {json.dumps(claim)}",
        ]
    return lines


def _literal(value: str) -> str:
    # Kubernetes expands $(NAME); a doubled dollar is one.
    return json.dumps(value.replace("$", "$$"), ensure_ascii=False)
