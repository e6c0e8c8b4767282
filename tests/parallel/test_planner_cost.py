"""Seconds: links, collectives, rates and work against cases worked out by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.core.errors import ConfigError, UsageError
from weft.models.presets import Size
from weft.parallel.plan import Plan
from weft.parallel.planner import work
from weft.parallel.planner.collectives import Fit, Group, Network, group
from weft.parallel.planner.estimate import TIMES, World, estimate
from weft.parallel.planner.hardware import Cluster, Device, Link
from weft.parallel.planner.job import Job
from weft.parallel.planner.local import Local
from weft.parallel.planner.machines import cluster_on, clusters_on
from weft.parallel.planner.overlap import exposed
from weft.parallel.planner.profiles import PROFILES
from weft.parallel.planner.rates import Fitted, Published

SMALL = Size(4, 128, 32).config(512, 64)
PLAIN = Device("plain", 1e9, 1e9, (("bf16", 1e12),), matrix_share=1.0, launch=0.0, stream_share=1.0)
# Two nodes of four; a second a message of 100 bytes inside, of 10 bytes between.
TOY = Cluster("toy", 2, 4, PLAIN, Link(0.001, 100.0), Link(0.01, 10.0), overlap=0.5, slowdown=1.1)


def test_on_is_read():
    assert cluster_on("8 x h100").size == 8
    assert (cluster_on("64 x (8 x h100)").nodes, cluster_on("64 × (8 × H100)").size) == (64, 512)
    assert (cluster_on("16*a100").nodes, cluster_on("16*a100").per_node) == (2, 8)
    assert (cluster_on("4xmi300x").nodes, cluster_on("4xmi300x").per_node) == (1, 4)
    assert cluster_on("3 x cpu").size == 3
    assert {cluster.size for cluster in clusters_on("auto")} >= {1}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("8 x h1000", "did you mean 'h100'"),
        ("0 x h100", "at least 1"),
        ("12 x h100", "whole number of nodes of 8"),
        ("8 of h100", "cannot be read"),
    ],
)
def test_what_cannot_be_read_is_said(text, words):
    with pytest.raises(UsageError, match=words):
        cluster_on(text)


def test_a_hardware_file(tmp_path):
    file = tmp_path / "ours.toml"
    file.write_text(
        'nodes = 2\nper_node = 4\n[device]\nname = "ours"\nmemory_gib = 32\nbandwidth_gb_s = 1000\n'
        "bf16_tflops = 100\nprice_per_hour = 1.5\n[between]\nlatency_us = 20\nbandwidth_gb_s = 5\n"
    )
    found = cluster_on(str(file))
    assert (found.size, found.device.memory, found.price) == (8, 32 * 2**30, 12.0)
    assert (found.between.latency, found.between.bandwidth) == (pytest.approx(20e-6), 5e9)
    file.write_text('[device]\nlike = "a100"\nmemory_gib = 40\n')
    assert cluster_on(str(file)).device.rate("bf16") == 312e12
    file.write_text("[device]\nmemory_gib = 40\n")
    with pytest.raises(ConfigError, match="needs memory_gib, bandwidth_gb_s and bf16_tflops"):
        cluster_on(str(file))


def test_every_profile_says_its_source_and_can_be_planned_for():
    makers = "".join(profile.device.source for profile in PROFILES.values())
    assert all(maker in makers for maker in ("NVIDIA", "AMD", "Huawei", "Intel"))
    job = Job(SMALL, 8, 64)
    for name, profile in PROFILES.items():
        assert profile.device.name == name
        found = estimate(job, Plan(fsdp=8), 1, World.published(profile.cluster(1, 8), job))
        assert 0 < found.peak_share < 1
    with pytest.raises(ConfigError, match="no fp8"):
        PROFILES["a100"].device.rate("fp8")


def test_groups_lie_on_nodes_as_the_mesh_does():
    plan = Plan(pp=2, fsdp=2, tp=2)
    assert group(plan, TOY, ("tp",)) == Group(2, 2)
    assert group(plan, TOY, ("fsdp",)) == Group(2, 2)
    assert group(plan, TOY, ("pp",)) == Group(2, 1)
    assert group(Plan(fsdp=8), TOY, ("fsdp",)) == Group(8, 4)
    assert group(Plan(dp=2, fsdp=2, cp=2), TOY, ("dp", "cp")) == Group(8, 4)


def test_collectives_by_hand():
    net = Network(TOY)
    inside = Group(4, 4)
    assert net.seconds("all_gather", 400.0, inside) == pytest.approx(300 / 100 + 3 * 0.001)
    assert net.seconds("all_reduce", 400.0, inside) == pytest.approx(2 * 300 / 100 + 4 * 0.001)
    # Two nodes: half of the bytes cross, on four adapters at a time.
    both = Group(8, 4)
    assert net.seconds("all_gather", 400.0, both) == pytest.approx(200 / 40 + 3 * 0.001 + 0.01)
    assert net.seconds("exchange", 50.0, Group(2, 1)) == pytest.approx(0.01 + 5.0)
    assert net.seconds("all_to_all", 400.0, inside) == pytest.approx(300 / 100 + 0.001)
    assert net.seconds("all_reduce", 400.0, Group(1, 1)) == 0.0


def test_measured_fits_take_the_place_of_formulas():
    net = Network(TOY, (Fit("all_gather", 2, 0.5, 0.01),))
    assert net.seconds("all_gather", 100.0, Group(2, 2)) == pytest.approx(1.5)
    assert net.seconds("all_gather", 100.0, Group(4, 4)) == pytest.approx(3.0)


def test_overlap_by_hand():
    assert exposed(3.0, 4.0, TOY) == pytest.approx(1.0 + 0.1 * 2.0)
    assert exposed(1.0, 4.0, TOY) == pytest.approx(0.1)


def test_published_rates_are_a_roofline():
    rates = Published(TOY, "bf16")
    # 2e6 operations at 1 TFLOP/s would take 2 us, but 60 kB take 60 us.
    assert rates.seconds("forward", work.Work(((100, 100, 100),))) == pytest.approx(60e-6)
    assert rates.seconds("clip", work.Work(stream=5e8)) == pytest.approx(0.5)


def test_processes_of_a_cpu_host_share_its_cores():
    def step(processes):
        cluster = Cluster("c", 1, processes, PLAIN, TOY.inside, TOY.inside, cores=2, overlap=0.0)
        return Published(cluster, "bf16")

    amount = work.Work(stream=1e9)
    assert step(4).seconds("clip", amount) == pytest.approx(2 * step(2).seconds("clip", amount))
    assert step(4).speed(2) == pytest.approx(2.0)
    assert step(4).speed(4) == pytest.approx(1.0)


def test_fitted_rates_are_the_fitted_sum():
    fitted = Fitted(2, {"forward": (1e-12, 0.0, 0.0, 1e-9, 0.5)}, {1: 2.0, 2: 1.0}, scale=2.0)
    amount = work.Work(((10, 10, 10),), stream=1e9, calls=3.0)
    assert fitted.seconds("forward", amount) == pytest.approx(2 * (2e-9 + 1.0 + 1.5))
    assert fitted.speed(1) == 2.0


def test_operations_of_a_step_are_the_decoders():
    """Blocks and output matrix, forward and backward, are what flops_per_token counts."""
    place = Local(Job(SMALL, 1, 64), Plan(), 1)
    blocks = work.block_forward(place).flops + work.block_backward(place).flops
    attention = place.attention_flops * 3
    total = 4 * (blocks + attention) + work.loss(place).flops
    assert total == pytest.approx(64 * SMALL.flops_per_token(64))


def test_tensor_parallel_divides_the_operations():
    whole, half = (Local(Job(SMALL, 4, 64), Plan(tp=tp), 1) for tp in (1, 2))
    assert work.block_forward(half).flops == work.block_forward(whole).flops / 2
    assert half.attention_flops == whole.attention_flops / 2
    # Two tp ranks do not look at fewer positions, two cp ranks do.
    assert Local(Job(SMALL, 4, 64), Plan(cp=2), 1).N == whole.N / 2 == half.N / 2


@pytest.mark.parametrize("schedule", [("1f1b", 1), ("interleaved", 2), ("zero-bubble", 2)])
def test_kinds_add_up_to_the_step(schedule):
    job = Job(Size(8, 512, 64).config(4096, 512), 64, 512)
    world = World.published(cluster_on("8 x h100"), job)
    plan = Plan(pp=2, fsdp=2, tp=2, schedule=schedule[0], stages_per_rank=schedule[1])
    found = estimate(job, plan, 1, world)
    assert found.step.total == pytest.approx(sum(found.step.kinds().values()))
    assert set(found.step.kinds()) == set(TIMES)
    assert found.step.bubble > 0 and found.step.communication > 0
    closed = estimate(job, plan, 1, world, simulate=False)
    assert closed.step.total == pytest.approx(found.step.total, rel=0.25)


@given(rows=st.sampled_from([8, 16, 32, 64]), bandwidth=st.floats(1e9, 1e12))
def test_more_work_takes_longer_and_faster_links_shorter(rows, bandwidth):
    config = Size(4, 512, 64).config(4096, 512)

    def seconds(rows, bandwidth):
        job = Job(config, rows, 512)
        cluster = Cluster("c", 1, 8, PROFILES["h100"].device, Link(1e-6, bandwidth), Link(1e-6, bandwidth))
        return estimate(job, Plan(tp=8), rows, World.published(cluster, job)).step.total

    assert seconds(2 * rows, bandwidth) > seconds(rows, bandwidth)
    assert seconds(rows, 2 * bandwidth) <= seconds(rows, bandwidth)
