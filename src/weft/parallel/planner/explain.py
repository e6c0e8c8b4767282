"""Why the winner wins and why every other family lost, in plain words, English and Chinese.

Words come from the figures: the kind of time or memory in which two layouts differ most is the reason.
"""

from __future__ import annotations

from weft.core.page import Words
from weft.parallel.planner.change import shortage
from weft.parallel.planner.estimate import TIMES, Prediction
from weft.parallel.planner.hardware import GIB
from weft.parallel.planner.memory import KINDS
from weft.parallel.planner.search import Found, Loss, family

TIME_NAMES = {
    "compute": Words("computation", "计算"),
    "communication": Words("communication that nothing hides", "无法掩盖的通信"),
    "bubble": Words("waiting in the pipeline", "流水线空泡"),
    "optimiser": Words("the optimiser's update", "优化器更新"),
    "data": Words("reading data", "读取数据"),
}
MEMORY_NAMES = {
    "weights": Words("weights", "权重"),
    "gradients": Words("gradients", "梯度"),
    "optimiser": Words("optimiser state", "优化器状态"),
    "activations": Words("activations", "激活值"),
    "temporary": Words("temporary tensors", "临时张量"),
    "communication": Words("communication buffers", "通信缓冲区"),
    "runtime": Words("the process itself", "进程自身"),
}
TECHNIQUES = {
    "dp": Words(
        "data parallel: every rank has the whole model and its own rows; one sum of gradients a step",
        "数据并行:每个进程都有完整模型,各读各的数据,每步只对梯度求和一次",
    ),
    "fsdp": Words(
        "fully sharded data parallel: weights, gradients and optimiser are cut over the ranks and gathered "
        "block by block while the block before computes",
        "全分片数据并行:权重、梯度和优化器状态分摊到各进程,前一层计算时收集下一层",
    ),
    "tp": Words(
        "tensor parallel: every matrix is cut, so every block waits for messages; only fast links bear that",
        "张量并行:每个矩阵都被切开,每层都要等通信,只有快速互联才合算",
    ),
    "pp": Words(
        "pipeline parallel: blocks are cut into stages that pass small messages, but wait at both ends",
        "流水线并行:按层切成若干段,消息很小,但开头和结尾要等待",
    ),
    "cp": Words(
        "context parallel: the positions of a row are cut, which long rows need",
        "上下文并行:把一行的位置切开,适合长序列",
    ),
    "ep": Words("expert parallel: experts are spread over the ranks", "专家并行:专家分布在各进程"),
}
RECOMPUTE = {
    "none": Words("no activations are made again", "不重算激活值"),
    "selective": Words(
        "the feed-forward half of each block is computed again in the backward pass",
        "反向时重算每层的前馈部分",
    ),
    "full": Words("every block is computed again in the backward pass", "反向时重算每一层"),
}


def winner(found: Found) -> list[Words]:
    """Sentences about the best layout; empty when nothing fits."""
    if not found.ranked:
        return []
    best = found.ranked[0]
    return [
        _headline(best),
        *(TECHNIQUES[name] for name in family(best.plan).split("+") if name in TECHNIQUES),
        _recompute(best),
        _where_time_goes(best),
        _against(found, best),
        _room(found, best),
    ]


def lost(found: Found, loss: Loss) -> Words:
    """The one reason that this family is not the winner."""
    if loss.kind == "memory" and loss.best is not None:
        largest = max(KINDS, key=lambda kind: getattr(loss.best.memory, kind) if loss.best else 0.0)
        name, size = MEMORY_NAMES[largest], getattr(loss.best.memory, largest) / GIB
        short = shortage(loss.best.memory.total, found.world)
        if loss.best.memory.total <= found.limit:
            return Words("its state does not fit the host's memory", "其状态放不进主机内存")
        return Words(
            f"does not fit: {short.en}; most of it {name.en} ({size:.1f} GiB)",
            f"放不下:{short.zh};其中{name.zh}最多({size:.1f} GiB)",
        )
    if loss.kind == "slower" and loss.best is not None and found.ranked:
        return _slower(found.ranked[0], loss.best)
    if loss.kind == "nodes":
        return Words(
            f"{loss.detail}; each block would wait for the slow link between nodes",
            "张量并行会跨节点,每层都要等节点间的慢速链路",
        )
    detail = loss.detail or "no micro-batch divides the rows of a rank as its schedule needs"
    return Words(f"cannot run: {detail}", f"无法运行:{detail}")


def _slower(best: Prediction, other: Prediction) -> Words:
    more = 100 * (other.step.total / best.step.total - 1)
    kind = max(TIMES, key=lambda name: getattr(other.step, name) - getattr(best.step, name))
    difference = getattr(other.step, kind) - getattr(best.step, kind)
    name = TIME_NAMES[kind]
    if other.plan.recompute != best.plan.recompute and kind == "compute" and other.plan.recompute != "none":
        again = RECOMPUTE[other.plan.recompute]
        return Words(
            f"{more:.1f} % slower: fits only when {again.en}",
            f"慢 {more:.1f} %:只有{again.zh}才放得下",
        )
    return Words(
        f"{more:.1f} % slower: {_time(difference)} more a step for {name.en}",
        f"慢 {more:.1f} %:每步{name.zh}多 {_time(difference)}",
    )


def _headline(best: Prediction) -> Words:
    return Words(
        f"Train with {best.plan}, micro-batches of {best.micro_rows} rows: {_time(best.step.total)} a step, "
        f"{best.tokens_per_second:,.0f} tokens/s, {100 * best.peak_share:.0f} % of the matrix peak.",
        f"建议使用 {best.plan},每个微批 {best.micro_rows} 行:每步 {_time(best.step.total)},"
        f"每秒 {best.tokens_per_second:,.0f} 个词元,达到矩阵峰值的 {100 * best.peak_share:.0f} %。",
    )


def _recompute(best: Prediction) -> Words:
    offload = best.plan.offload
    words = RECOMPUTE[best.plan.recompute]
    return Words(
        words.en + (", and state is kept in the host's memory" if offload else ""),
        words.zh + (",并把状态放在主机内存" if offload else ""),
    )


def _where_time_goes(best: Prediction) -> Words:
    kinds = best.step.kinds()
    shares = [
        (TIME_NAMES[k], 100 * v / best.step.total) for k, v in kinds.items() if v > 0.005 * best.step.total
    ]
    return Words(
        "time: " + ", ".join(f"{name.en} {share:.0f} %" for name, share in shares),
        "时间:" + ",".join(f"{name.zh} {share:.0f} %" for name, share in shares),
    )


def _against(found: Found, best: Prediction) -> Words:
    second = next((loss for loss in found.lost if loss.kind == "slower"), None)
    if second is None or second.best is None:
        return Words("no other family of layouts fits", "没有其他方案放得下")
    reason = _slower(best, second.best)
    return Words(
        f"the closest other family, {second.family}, is {reason.en}",
        f"最接近的其他方案 {second.family}:{reason.zh}",
    )


def _room(found: Found, best: Prediction) -> Words:
    used, have = best.memory.total / GIB, found.world.cluster.memory / GIB
    return Words(
        f"memory: {used:.1f} of {have:.1f} GiB on the fullest rank",
        f"内存:最满的进程用 {used:.1f} GiB,共 {have:.1f} GiB",
    )


def _time(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"
