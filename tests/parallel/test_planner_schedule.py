"""Orders of work equal PyTorch's own; the simulator's bubble equals the formula."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.distributed.pipelining import schedules
from torch.distributed.pipelining.stage import _PipelineStageBase

from weft.core.errors import ConfigError
from weft.parallel.planner.in_flight import in_flight
from weft.parallel.planner.simulate import StageSeconds, run
from weft.parallel.schedules import order

CLASSES = {
    "gpipe": schedules.ScheduleGPipe,
    "1f1b": schedules.Schedule1F1B,
    "interleaved": schedules.ScheduleInterleaved1F1B,
    "zero-bubble": schedules.ScheduleInterleavedZeroBubble,
}


class Stage(_PipelineStageBase):
    """A stage that only knows its place."""

    def __init__(self, index, ranks, stages):
        self.num_stages, self.group_size, self.group_rank, self.stage_index = stages, ranks, 0, index
        self.group = self.submod = None
        self.stage_index_to_group_rank = {i: i % ranks for i in range(stages)}
        self.has_backward = True

    def _create_grad_recv_info(self, *arguments):
        raise NotImplementedError

    def _prepare_forward_infra(self, *arguments):
        raise NotImplementedError

    def _prepare_backward_infra(self, *arguments):
        raise NotImplementedError


def theirs(schedule, ranks, local, micros):
    stages = [Stage(k * ranks, ranks, ranks * local) for k in range(local)]
    made = CLASSES[schedule](stages if local > 1 else stages[0], micros)
    pipeline = made.pipeline_order if local > 1 else made._get_pipeline_order()
    return tuple(
        tuple(
            (action.stage_index, action.computation_type.value, action.microbatch_index)
            for action in pipeline[rank]
            if action is not None and action.microbatch_index is not None
        )
        for rank in range(ranks)
    )


@pytest.mark.parametrize("schedule", CLASSES)
def test_order_equals_pytorchs(schedule):
    locals_ = (2, 3) if schedule in ("interleaved", "zero-bubble") else (1,)
    for ranks, local, micros in itertools.product((2, 4), locals_, (4, 8, 12)):
        ours = tuple(tuple(map(tuple, actions)) for actions in order(schedule, ranks, local, micros))
        if schedule == "1f1b":
            # PyTorch's listing numbers some forwards one too high; the order of kinds is what it runs.
            ours, known = (
                tuple(tuple(kind for _, kind, _ in actions) for actions in listed)
                for listed in (ours, theirs(schedule, ranks, local, micros))
            )
        else:
            known = theirs(schedule, ranks, local, micros)
        assert ours == known, (ranks, local, micros)


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b"])
def test_bubble_of_equal_stages_is_the_formula(schedule):
    for ranks, micros in ((2, 4), (4, 8), (4, 4), (8, 32)):
        line = run(order(schedule, ranks, 1, micros), [StageSeconds(1.0, 1.2, 0.8)] * ranks)
        share = line.bubble / line.seconds
        assert share == pytest.approx((ranks - 1) / (micros + ranks - 1))


def test_interleaving_divides_the_bubble_and_zero_bubble_fills_it():
    ranks, micros = 4, 16
    whole = run(order("1f1b", ranks, 1, micros), [StageSeconds(2.0, 2.0, 2.0)] * ranks)
    half = [StageSeconds(1.0, 1.0, 1.0)] * (2 * ranks)
    interleaved = run(order("interleaved", ranks, 2, micros), half)
    zero = run(order("zero-bubble", ranks, 2, micros), half)
    assert interleaved.bubble == pytest.approx(whole.bubble / 2)
    assert zero.bubble < interleaved.bubble


def test_transfers_and_uneven_stages_cost_time():
    actions = order("1f1b", 2, 1, 2)
    even = [StageSeconds(1.0, 1.0, 1.0)] * 2
    assert run(actions, even).seconds == pytest.approx(9.0)
    # The first message and the last gradient are waited for.
    assert run(actions, even, transfer=0.5).seconds > 9.0
    uneven = run(actions, [StageSeconds(1.0, 1.0, 1.0), StageSeconds(2.0, 2.0, 2.0)])
    # F0, then two micro-batches of 6 s on the last stage, then the first stage's last backward pass.
    assert uneven.seconds == pytest.approx(1.0 + 12.0 + 2.0)


def test_ranks_that_share_cores_take_turns():
    """Two ranks on one core: all work in a row, and nobody waits for longer than that."""
    stages = [StageSeconds(1.0, 1.0, 1.0)] * 2
    both_at_half = run(order("1f1b", 2, 1, 4), stages, speed=lambda working: 1.0 / working)
    assert both_at_half.seconds == pytest.approx(24.0)
    alone = run(order("1f1b", 2, 1, 4), stages, speed=lambda working: 1.0)
    assert alone.seconds == pytest.approx(run(order("1f1b", 2, 1, 4), stages).seconds)


def test_in_flight_by_hand():
    assert in_flight("gpipe", 4, 1, 8) == ((8,), (8,), (8,), (8,))
    assert in_flight("1f1b", 4, 1, 8) == ((4,), (3,), (2,), (1,))
    # Capping many micro-batches changes nothing.
    assert in_flight("1f1b", 4, 1, 400) == in_flight("1f1b", 4, 1, 8)
    assert in_flight("interleaved", 2, 2, 64) == in_flight("interleaved", 2, 2, 8)


def test_what_a_schedule_cannot_run_is_said():
    with pytest.raises(ConfigError, match="at least as many micro-batches as stages"):
        order("1f1b", 4, 1, 2)
    with pytest.raises(ConfigError, match="multiple of 4"):
        order("interleaved", 4, 2, 9)


@given(
    ranks=st.sampled_from([2, 3, 4]),
    rounds=st.integers(1, 5),
    schedule=st.sampled_from(list(CLASSES)),
    times=st.tuples(st.floats(0.1, 5), st.floats(0.1, 5), st.floats(0.1, 5)),
    transfer=st.floats(0, 1),
)
def test_nobody_is_faster_than_its_work(ranks, rounds, schedule, times, transfer):
    local = 2 if schedule in ("interleaved", "zero-bubble") else 1
    actions = order(schedule, ranks, local, ranks * rounds)
    stages = [StageSeconds(*times)] * (ranks * local)
    line = run(actions, stages, transfer)
    assert line.seconds >= max(line.busy) - 1e-9
    assert run(actions, stages).seconds <= line.seconds + 1e-9
    assert len(line.spans) == sum(map(len, actions))
