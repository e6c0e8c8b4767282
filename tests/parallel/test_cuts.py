"""How blocks are cut into stages, and plans of pipelines that cannot run."""

import pytest
from tests.parallel.parity import Case, decoder_config

from weft.core.errors import ConfigError
from weft.models import DecoderConfig
from weft.parallel.cuts import cut
from weft.parallel.plan import Plan
from weft.parallel.schedules import order


def _config(layers: int, vocabulary: int = 64) -> DecoderConfig:
    return decoder_config(Case(config={"num_hidden_layers": layers, "vocab_size": vocabulary}))


def _sizes(config: DecoderConfig, stages: int) -> list[int]:
    return [len(layers) for layers in cut(config, stages)]


@pytest.mark.parametrize("layers", [1, 4, 7, 12])
@pytest.mark.parametrize("stages", [1, 2, 3, 4])
@pytest.mark.parametrize("vocabulary", [64, 4096])
def test_every_block_is_on_one_stage_in_order(layers: int, stages: int, vocabulary: int) -> None:
    if stages <= layers:
        pieces = cut(_config(layers, vocabulary), stages)
        assert len(pieces) == stages and all(pieces)
        assert [layer for piece in pieces for layer in piece] == list(range(layers))


def test_the_stage_with_the_output_matrix_gets_fewer_blocks() -> None:
    # A block has 9,216 matrix parameters, and the output matrix 32 times the vocabulary.
    assert _sizes(_config(8, 64), 2) == [4, 4]
    assert _sizes(_config(8, 9216 * 2 // 32), 2) == [5, 3]
    assert _sizes(_config(8, 9216 * 4 // 32), 2) == [6, 2]
    assert _sizes(_config(8, 9216 * 50 // 32), 2) == [7, 1]


def test_what_does_not_come_out_even_goes_to_later_stages() -> None:
    assert _sizes(_config(9), 4) == [2, 2, 3, 2]
    assert _sizes(_config(11), 4) == [3, 3, 3, 2]
    assert _sizes(_config(10, 9216 // 32), 4) == [2, 3, 3, 2]


def test_more_stages_than_blocks_are_refused() -> None:
    with pytest.raises(ConfigError, match="3 blocks cannot be cut into 4 stages"):
        cut(_config(3), 4)
    plan = Plan.parse("pp=4,schedule=interleaved,stages_per_rank=2")
    with pytest.raises(ConfigError, match="8 stages need as many blocks"):
        plan.check(_config(4), rows=8, micro_rows=1, length=32)


@pytest.mark.parametrize("schedule", ["interleaved", "zero-bubble"])
def test_a_schedule_needs_its_stages(schedule: str) -> None:
    with pytest.raises(ConfigError, match="needs at least 2 stages a rank"):
        Plan.parse(f"pp=2,schedule={schedule}")


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b"])
def test_plain_schedules_have_one_stage_a_rank(schedule: str) -> None:
    with pytest.raises(ConfigError, match="needs 1 stage a rank"):
        Plan.parse(f"pp=2,schedule={schedule},stages_per_rank=2")


def test_too_few_micro_batches_are_refused() -> None:
    with pytest.raises(ConfigError, match="2 are fewer than 4"):
        Plan.parse("pp=4").check(_config(4), rows=8, micro_rows=4, length=32)
    Plan.parse("pp=4,schedule=gpipe").check(_config(4), rows=8, micro_rows=4, length=32)


def test_micro_batches_that_do_not_fill_rounds_are_refused() -> None:
    with pytest.raises(ConfigError, match="5 micro-batches in 2 rounds"):
        Plan.parse("pp=2,schedule=interleaved,stages_per_rank=2").check(
            _config(4), rows=5, micro_rows=1, length=32
        )


def test_micro_batches_of_two_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match="micro-batches of one size"):
        Plan.parse("pp=2").check(_config(4), rows=8, micro_rows=3, length=32)


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b", "interleaved", "zero-bubble"])
def test_every_action_runs_once_and_after_what_it_needs(schedule: str) -> None:
    stages = 2 if schedule in ("interleaved", "zero-bubble") else 1
    for actions in order(schedule, 4, stages, 8):
        assert len(set(actions)) == len(actions)
        place = {(a.kind, a.stage, a.micro): index for index, a in enumerate(actions)}
        for kind, stage, micro in place:
            before = {"B": "F", "I": "F", "W": "I"}.get(kind)
            if before is not None:
                assert place[before, stage, micro] < place[kind, stage, micro]
