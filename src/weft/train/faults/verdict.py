"""Which rank is to blame, from the heartbeats of all. Pure, so that every case can be tested."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from weft.train.faults.beat import Beat


@dataclass(frozen=True)
class Verdict:
    """``ranks``: those to blame; ``collective``: what the others waited in; ``sentence``: for people."""

    kind: str
    ranks: tuple[int, ...]
    step: int
    collective: str
    sentence: str


def judge(own: Beat, size: int, first: Mapping[int, Beat], second: Mapping[int, Beat]) -> Verdict:
    """The verdict of the rank of ``own`` among ``size`` ranks, from two looks at the heartbeats.

    A dead rank comes before a silent one, that before one outside of a collective, that before ranks in
    different collectives; when all wait in the same one the network between them is to blame.
    """
    beats = {**first, **second, own.rank: own}
    missing = [rank for rank in range(size) if rank not in beats]
    dead = [rank for rank, beat in first.items() if rank != own.rank and not beat.alive(second.get(rank))]
    if missing or dead:
        ranks = sorted([*missing, *dead])
        how = "was lost" if dead else "never began"
        return _verdict("lost", ranks, own, beats, f"{_names(ranks, beats)} {how}")
    ended = [rank for rank, beat in beats.items() if beat.ended and rank != own.rank]
    if ended:
        words = beats[min(ended)].ended
        return _verdict("failed", sorted(ended), own, beats, f"{_names(sorted(ended), beats)} ended: {words}")
    outside = sorted(rank for rank, beat in beats.items() if not beat.collective)
    if outside and len(outside) < size:
        at = beats[outside[0]].where
        return _verdict("hung", outside, own, beats, f"{_names(outside, beats)} stands in {at}")
    places = {rank: (beat.step, beat.collective, beat.place) for rank, beat in beats.items()}
    if len(set(places.values())) > 1:
        common = max(set(places.values()), key=list(places.values()).count)
        odd = sorted(rank for rank, place in places.items() if place != common)
        other = beats[odd[0]]
        return _verdict(
            "hung", odd, own, beats, f"{_names(odd, beats)} waits in {other.where} of step {other.step}"
        )
    return _verdict("hung", sorted(beats), own, beats, "all ranks wait for each other; look at the network")


def _verdict(kind: str, ranks: list[int], own: Beat, beats: Mapping[int, Beat], what: str) -> Verdict:
    waiting = sorted(rank for rank, beat in beats.items() if rank not in ranks and beat.collective)
    by = beats[waiting[0]] if waiting else own
    others = f" while {_names(waiting, {})} waited in {by.where}" if waiting else ""
    return Verdict(kind, tuple(ranks), own.step, by.collective, f"Step {own.step}: {what}{others}")


def _names(ranks: list[int], beats: Mapping[int, Beat]) -> str:
    shown = ", ".join(map(str, ranks[:8])) + (f" and {len(ranks) - 8} more" if len(ranks) > 8 else "")
    text = f"rank {shown}" if len(ranks) == 1 else f"ranks {shown}"
    known = [beats[rank] for rank in ranks if rank in beats]
    return f"{text} ({known[0].host}, process {known[0].process})" if len(known) == 1 else text
