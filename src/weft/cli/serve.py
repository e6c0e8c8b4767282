"""``weft serve``: checkpoints behind OpenAI-compatible HTTP and a page."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from weft.cli.command import Record, weft_command

if TYPE_CHECKING:
    from weft.server.backend import MakeBackend
    from weft.server.engine import EngineOptions


@weft_command("serve")
@click.argument("checkpoints", nargs=-1, required=True, metavar="[NAME=]CHECKPOINT...")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8000, show_default=True, help="Port to listen on; 0 takes a free one.")
@click.option("--name", help="The name of a single model; by default that of its folder.")
@click.option("--max-sequences", default=16, show_default=True, help="Answers worked on at once, per model.")
@click.option("--max-waiting", default=64, show_default=True, help="Answers in a model's queue before 429.")
@click.option("--max-loaded", type=int, help="Models in memory at once; by default all that were asked for.")
@click.option("--idle-unload", metavar="SECONDS", type=float, help="Unload a model that long unused.")
@click.option(
    "--stall-seconds", default=120.0, show_default=True, help="Restart an engine that hangs so long."
)
@click.option("--store", help="File or postgresql:// address for keys, usage and the audit log.")
@click.option("--tls-certificate", type=click.Path(path_type=Path), help="Certificate chain, PEM.")
@click.option("--tls-key", type=click.Path(path_type=Path), help="Its private key, PEM.")
@click.option(
    "--dtype",
    help="Weights: float32, bfloat16, int8 or int4 (on a GPU fp8, no int4), or auto-int8 or auto-int4, "
    "which take those only where they are measured to be faster; by default bfloat16 where the machine has "
    "it.",
)
@click.option("--device", help="cpu or cuda; by default the GPU when there is one.")
@click.option(
    "--adapter",
    "adapters",
    multiple=True,
    metavar="[MODEL:]NAME=FOLDER",
    help="A LoRA adapter (PEFT folder), asked for as model NAME; of the first model unless MODEL is named.",
)
@click.option(
    "--adapter-root",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Let /v1/load_lora_adapter load adapters below this folder.",
)
@click.option(
    "--engine",
    type=click.Choice(["weft", "vllm"]),
    default="weft",
    show_default=True,
    help="What computes: Weft's own engine, or vLLM behind the same front.",
)
@click.option("--replicas", type=click.IntRange(min=1), help="Engines of each model, under Ray Serve.")
@click.option("--ray", "ray_address", help="The Ray cluster for --replicas; by default one is started here.")
@click.option("--engine-python", metavar="PYTHON", help="The interpreter that has vLLM; by default this one.")
@click.option(
    "--engine-setting",
    "engine_settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="An argument of vLLM's engine, for instance tensor_parallel_size=4.",
)
@click.option("--draft", help="A small checkpoint that guesses ahead for the first model.")
@click.option(
    "--draft-layers", type=int, help="Let so many first layers of the first model itself guess ahead."
)
@click.option("--speculate/--no-speculate", default=True, help="Guess tokens ahead; answers are the same.")
@click.option("--cache-dtype", type=click.Choice(["int8"]), help="Keep keys and values in half the memory.")
def command(checkpoints: tuple[str, ...], **options: Any) -> Record:
    """Serve training runs or Hugging Face folders of any kind until Ctrl-C or SIGTERM.

    The first model is loaded at once, others when they are first asked for. As soon as the store has keys
    (`weft key add`), every request needs one.
    """
    asked = _Asked(**options)
    asked.check()
    engines = _engines(asked, _named(checkpoints, asked.name))
    started = time.monotonic()
    address = _serve(asked, engines)
    click.echo("Drained and stopped.", err=True)
    seconds = round(time.monotonic() - started, 3)
    return {"name": next(iter(engines)), "models": list(engines), "address": address, "seconds": seconds}


@dataclass(frozen=True)
class _Asked:
    """The options of the command."""

    host: str
    port: int
    name: str | None
    max_sequences: int
    max_waiting: int
    max_loaded: int | None
    idle_unload: float | None
    stall_seconds: float
    store: str | None
    tls_certificate: Path | None
    tls_key: Path | None
    dtype: str | None
    device: str | None
    adapters: tuple[str, ...]
    adapter_root: Path | None
    engine: Literal["weft", "vllm"]
    replicas: int | None
    ray_address: str | None
    engine_python: str | None
    engine_settings: tuple[str, ...]
    draft: str | None
    draft_layers: int | None
    speculate: bool
    cache_dtype: str | None

    def check(self) -> None:
        """UsageError for options that contradict each other or make no sense."""
        from weft.core.errors import UsageError

        loaded = 1 if self.max_loaded is None else self.max_loaded
        if min(self.max_sequences, loaded) < 1 or self.max_waiting < 0:
            raise UsageError("--max-sequences and --max-loaded must be at least 1, --max-waiting at least 0.")
        # Written so that NaN is refused too.
        if not self.stall_seconds > 0 or not (self.idle_unload is None or self.idle_unload > 0):
            raise UsageError("--stall-seconds and --idle-unload must be greater than 0.")
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise UsageError("TLS needs both --tls-certificate and --tls-key.")
        if self.engine == "weft" and (self.engine_python or self.engine_settings):
            raise UsageError("--engine-python and --engine-setting belong to --engine vllm.")
        own = (self.adapters or None, self.adapter_root, self.draft, self.draft_layers, self.cache_dtype)
        if self.engine == "vllm" and any(option is not None for option in own):
            raise UsageError(
                "--engine vllm takes no adapters, no draft or --draft-layers and no --cache-dtype; leave "
                "them out."
            )
        if self.ray_address is not None and self.replicas is None:
            raise UsageError("--ray belongs to --replicas; say how many.")
        if self.ray_address is not None and self.ray_address.startswith("ray://"):
            # Ray's client passes no streams on.
            raise UsageError(
                f"--ray {self.ray_address} is for clients, to whom answers cannot be streamed; start this on "
                "a machine of the cluster and write --ray auto, or --ray HOST:6379."
            )
        if self.adapter_root is not None and self.replicas is not None:
            raise UsageError("--replicas take adapters at the start alone; write --adapter NAME=FOLDER.")


def _engines(asked: _Asked, named: dict[str, str]) -> dict[str, EngineOptions]:
    """What the engine of each model loads."""
    from weft.checkpoint.safe_folder import resolve
    from weft.server.engine import EngineOptions

    shared = _adapters(asked.adapters, named)
    settings = _engine_settings(asked.engine_settings)
    if asked.engine == "vllm":
        # Another engine knows folders only, not training runs.
        named = {each: str(resolve(checkpoint)) for each, checkpoint in named.items()}
    first = next(iter(named))
    return {
        each: EngineOptions(
            checkpoint,
            asked.dtype,
            asked.device,
            asked.max_sequences,
            adapters=shared[each] or ({} if asked.adapter_root else None),
            draft=asked.draft if each == first else None,
            draft_layers=asked.draft_layers if each == first else None,
            speculation=asked.speculate,
            cache_dtype=asked.cache_dtype,
            kind=asked.engine,
            python=asked.engine_python,
            settings=settings,
        )
        for each, checkpoint in named.items()
    }


def _serve(asked: _Asked, engines: dict[str, EngineOptions]) -> str:
    """Serve until the end; the address that it was."""
    from weft.server.engine import Patience
    from weft.server.limits import Limits
    from weft.server.listen import Tls, bind
    from weft.server.models import Models
    from weft.server.run import Service, run

    tls = Tls(asked.tls_certificate, asked.tls_key) if asked.tls_certificate and asked.tls_key else None
    listener = bind(asked.host, asked.port)
    shown = f"[{asked.host}]" if ":" in asked.host else asked.host
    address = f"{'https' if tls else 'http'}://{shown}:{listener.getsockname()[1]}"

    def ready() -> None:
        served = f"{', '.join(engines)} is served on {address} (page) and {address}/v1 (API)"
        click.echo(f"{served}; Ctrl-C ends it.", err=True)

    def models() -> Models:
        return Models(
            engines,
            patience=Patience(stall=asked.stall_seconds),
            most=asked.max_loaded,
            idle_seconds=asked.idle_unload,
            adapter_root=asked.adapter_root,
            backend=_backend(asked),
        )

    with listener:
        if tls is not None:
            tls.check()
        run(Service(models, listener, Limits(waiting=asked.max_waiting), asked.store, tls), ready)
    return address


def _backend(asked: _Asked) -> MakeBackend:
    from weft.server.engine import Engine
    from weft.server.replicas import Fleet

    if asked.replicas is None:
        return Engine
    return partial(Fleet, replicas=asked.replicas, address=asked.ray_address)


def _named(checkpoints: tuple[str, ...], name: str | None) -> dict[str, str]:
    """Checkpoints by name: NAME=FOLDER, or a folder that gives its own name."""
    from weft.core.errors import UsageError

    if name is not None and len(checkpoints) > 1:
        raise UsageError("--name names a single model; with several write NAME=CHECKPOINT.")
    found: dict[str, str] = {}
    for argument in checkpoints:
        given, _, folder = ("", "", argument) if Path(argument).exists() else argument.rpartition("=")
        own = name or given or Path(folder).resolve().name
        _check_name(own)
        if own in found:
            raise UsageError(f"Two models are called {own!r}; name them with NAME=CHECKPOINT.")
        found[own] = folder
    return found


def _check_name(name: str) -> None:
    """UsageError for a name that no answer could hold, such as a folder's in another encoding."""
    from weft.core.errors import UsageError

    try:
        name.encode()
    except UnicodeEncodeError:
        raise UsageError(f"The name {name!r} is not UTF-8; write NAME=FOLDER with another one.") from None


def _adapters(arguments: tuple[str, ...], named: dict[str, str]) -> dict[str, dict[str, str]]:
    """The folders of the adapters of each model, by name."""
    from weft.core.errors import UsageError

    found: dict[str, dict[str, str]] = {model: {} for model in named}
    taken = set(named)
    for argument in arguments:
        name, separator, folder = argument.partition("=")
        model, colon, own = name.rpartition(":")
        model, name = (model, own) if colon else (next(iter(named)), name)
        if not (separator and name and folder) or model not in named:
            raise UsageError(f"--adapter {argument} is not NAME=FOLDER or MODEL:NAME=FOLDER of a model here.")
        _check_name(name)
        if name in taken:
            raise UsageError(f"Two models or adapters are called {name!r}; give another name.")
        taken.add(name)
        found[model][name] = folder
    return found


def _engine_settings(arguments: tuple[str, ...]) -> dict[str, Any]:
    """Arguments of another engine: numbers, true and false as such, all else as text."""
    from weft.core.errors import UsageError

    found: dict[str, Any] = {}
    for argument in arguments:
        key, separator, value = argument.partition("=")
        if not separator or not key:
            raise UsageError(f"--engine-setting {argument} is not KEY=VALUE.")
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = value
    return found
