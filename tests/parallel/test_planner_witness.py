"""The formulas against the real parallel model, traced on fake tensors in a fake process group."""

import pytest
import torch.distributed as dist

from weft.core.errors import ResourceError
from weft.models.presets import Size
from weft.parallel.plan import Plan
from weft.parallel.planner import activations
from weft.parallel.planner.job import Job
from weft.parallel.planner.local import Local
from weft.parallel.planner.witness import witness

CONFIG = Size(4, 128, 32).config(512, 128)

pytestmark = pytest.mark.filterwarnings("ignore:Slicing a flattened dim")


def local(text):
    return Local(Job(CONFIG, 64, 128, "bf16"), Plan.parse(text), 4)


def foretold(place, stage):
    numbers = activations.kept(place, True, False)
    last = stage == place.plan.stages - 1
    # What a stage hands on is alive too.
    handed = 0 if last else place.n * CONFIG.hidden_size * 2
    ends = (stage == 0) * numbers.first + (numbers.last if last else handed)
    return place.stages[stage] * numbers.block + numbers.shared + ends


@pytest.mark.parametrize(
    "text", ["", "dp=2", "tp=2", "tp=4", "cp=2", "cp=2,tp=2", "tp=2,recompute=selective", "recompute=full"]
)
def test_bytes_kept_are_the_formulas(text):
    place = local(text)
    (seen,) = witness(place)
    assert seen.kept == pytest.approx(foretold(place, 0), rel=0.03)
    assert seen.peak > seen.kept
    assert not dist.is_initialized()


@pytest.mark.parametrize("text", ["pp=2", "pp=2,tp=2", "pp=2,schedule=interleaved,stages_per_rank=2"])
def test_every_stage_of_a_pipeline(text):
    place = local(text)
    for rank in (0, place.plan.pp - 1):
        for seen in witness(place, rank):
            assert seen.kept == pytest.approx(foretold(place, seen.stage), rel=0.03)


@pytest.mark.parametrize("text", ["fsdp=2", "fsdp=2,recompute=selective"])
def test_shards_keep_no_casts_but_what_is_gathered(text):
    """Beside activations a rank holds what it gathered last: a block, and the embedding in fp32."""
    place = local(text)
    (seen,) = witness(place)
    gathered = 2 * CONFIG.block_matrices + 4 * CONFIG.vocab_size * CONFIG.hidden_size
    assert 0 <= seen.kept - 0.99 * foretold(place, 0) <= 3 * gathered


def test_collectives_are_those_that_are_counted():
    """tp: two gathers and two scatters a block each way, and one of each around the embedding."""
    (seen,) = witness(local("tp=2"))
    assert seen.collectives == {"all_gather_into_tensor": 4 * 4 + 1, "reduce_scatter_tensor": 4 * 4 + 1}
    # fsdp: every block gathered twice, the ends once, each scattered once.
    (seen,) = witness(local("fsdp=2"))
    assert seen.collectives == {"_allgather_base_": 2 * 4 + 1, "_reduce_scatter_base_": 4 + 1}
    # A ring of two passes keys once forward, keys and their gradients backward.
    (seen,) = witness(local("cp=2"))
    assert seen.collectives == {"send": 3 * 4}


def test_what_cannot_be_traced_is_said():
    with pytest.raises(ResourceError, match="cannot be traced on fake tensors"):
        witness(local("dp=2,fsdp=2,tp=2"))
    dist.init_process_group("fake", rank=0, world_size=2, store=dist.HashStore())
    try:
        with pytest.raises(ResourceError, match="inside a running distributed program"):
            witness(local("dp=2"))
    finally:
        dist.destroy_process_group()
