"""Grammars that would hold an engine up are stopped before they reach it, and nobody else is."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path

import pytest

from weft.core.errors import UsageError
from weft.server.errors import ApiError
from weft.server.trial import Trials


def schema(**fields):
    return {"kind": "json_schema", "text": json.dumps(fields)}


# The compiler takes some ten times as long for every two patterns more.
TOO_MUCH = schema(allOf=[{"type": "string", "pattern": f".*{number}.*"} for number in range(20)])
GOOD = schema(type="object", properties={"a": {"type": "string", "maxLength": 10}})


def test_what_takes_too_much_is_refused_and_the_next_is_built():
    async def run():
        trials = Trials()
        try:
            for constraint in (GOOD, {"kind": "regex", "text": "a+"}, GOOD):
                await trials.check(constraint, "", "response_format")
            first = trials._process.pid
            with pytest.raises(ApiError, match="too long or too much memory") as refused:
                await trials.check(TOO_MUCH, "", "tools")
            assert (refused.value.status, refused.value.param) == (400, "tools")
            # What is wrong is for the engine to say.
            assert await trials.check({"kind": "json_schema", "text": "{"}, "", "response_format")
            with pytest.raises(UsageError, match="characters"):
                await trials.check({"kind": "regex", "text": "a" * 100_000}, "", "response_format")
            await asyncio.gather(*(trials.check(schema(const=n), "", "response_format") for n in range(5)))
            assert trials._process.pid != first
        finally:
            await trials.close()

    asyncio.run(run())


def test_who_stops_waiting_leaves_no_answer_to_the_next():
    async def run():
        trials = Trials()
        try:
            await trials.check(GOOD, "", "response_format")
            waiting = asyncio.ensure_future(trials.check(TOO_MUCH, "", "response_format"))
            await asyncio.sleep(0.01)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            with pytest.raises(ApiError):
                await trials.check(TOO_MUCH, "", "response_format")
            await trials.check(schema(const=1), "", "response_format")
        finally:
            await trials.close()

    asyncio.run(run())


def test_the_end_comes_while_one_is_built_that_nobody_waits_for():
    async def run():
        trials = Trials()
        await trials.check(GOOD, "", "response_format")
        pid = trials._process.pid
        waiting = asyncio.ensure_future(trials.check(TOO_MUCH, "", "response_format"))
        await asyncio.sleep(0.01)
        waiting.cancel()
        await trials.close()
        assert not Path(f"/proc/{pid}").exists()
        with pytest.raises(ApiError):
            await trials.check(schema(const=1), "", "response_format")

    asyncio.run(run())


def test_a_process_that_stands_still_is_given_up(monkeypatch):
    async def run():
        trials = Trials()
        try:
            await trials.check(GOOD, "", "response_format")
            os.kill(trials._process.pid, signal.SIGSTOP)
            monkeypatch.setattr("weft.server.trial._SECONDS", 0.1)
            with pytest.raises(ApiError, match="too long"):
                await trials.check(schema(const=1), "", "response_format")
            monkeypatch.undo()
            await trials.check(schema(const=1), "", "response_format")
        finally:
            await trials.close()

    asyncio.run(asyncio.wait_for(run(), 30))


def test_the_end_comes_while_the_process_starts(monkeypatch):
    start, started = asyncio.create_subprocess_exec, []

    async def slow(*arguments, **how):
        started.append(await start(*arguments, **how))
        await asyncio.sleep(0.1)
        return started[0]

    async def run():
        monkeypatch.setattr(asyncio, "create_subprocess_exec", slow)
        trials = Trials()
        waiting = asyncio.ensure_future(trials.check(GOOD, "", "response_format"))
        while not started:
            await asyncio.sleep(0.01)
        await trials.close()
        assert started[0].returncode is not None
        with pytest.raises(ApiError):
            await waiting

    asyncio.run(run())


def test_a_line_of_grammars_is_bounded_and_no_key_fills_it():
    async def run():
        trials = Trials()
        try:
            asked = [
                trials.check(schema(const=n), owner, "tools")
                for n, owner in enumerate(["a"] * 6 + ["b"] * 2 + [""] * 4)
            ]
            found = await asyncio.gather(*asked, return_exceptions=True)
            refused = [isinstance(each, ApiError) and each.status == 429 for each in found]
            assert refused == [False] * 4 + [True] * 2 + [False] * 2 + [False] * 2 + [True] * 2
            assert await trials.check(schema(const=4), "a", "tools")
        finally:
            await trials.close()

    asyncio.run(run())
