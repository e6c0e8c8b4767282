"""Pictures of what tuning measured: one HTML file in English and Chinese that opens offline."""

from __future__ import annotations

import math
from pathlib import Path

from weft.core.chart import Series, line_chart, number
from weft.core.page import Page, Words
from weft.recipes.tune.micro import MicroChoice
from weft.recipes.tune.noise import Noise
from weft.recipes.tune.rates import RateChoice


def batch_report(file: Path, micro: MicroChoice, noise: Noise, tokens: int) -> None:
    """Write what the sizes of a micro-batch give, the noise of the gradient, and both choices."""
    page = Page(Words("Weft: batch size", "Weft：批大小"))
    page.section(Words("Micro-batch: what fits, and what it gives", "微批：放得下多少，快多少"))
    page.table(
        [(f"{t.rows}", f"{t.tokens_per_second:,.0f}", f"{t.memory_bytes / 1e9:.2f}") for t in micro.trials],
        (Words("rows", "行"), Words("tokens/s", "词元/秒"), Words("memory, GB", "内存（GB）")),
        "nnn",
    )
    page.charts(*(_speed(micro, english) for english in (True, False)))
    page.paragraph(
        Words(
            f"Largest that fits: {micro.largest} rows ({micro.reason}). Chosen: {micro.chosen} rows, from "
            "which on twice the rows gain less than 3 %.",
            f"放得下的最大微批为 {micro.largest} 行。选用 {micro.chosen} 行：再加倍，速度提高不到 3 %。",
        )
    )
    page.section(Words("Critical batch size: noise of the gradient", "临界批大小：梯度噪声"))
    page.charts(*(_noise(noise, english) for english in (True, False)))
    scale = number(noise.last) if math.isfinite(noise.last) else "–"
    page.paragraph(
        Words(
            f"Noise scale at the end: {scale} targets; chosen train.batch_tokens = {tokens:,}. Below it "
            "twice the batch saves almost half of the steps, above it almost none. The noise grows as the "
            "loss falls, so a long run can use more.",
            f"结束时噪声尺度为 {scale} 个目标词元，选用 train.batch_tokens = {tokens:,}。"
            "小于它时，批加倍几乎可省一半步数；大于它则几乎不省。损失下降时噪声会变大，长时间的训练可用更大的批。",
        )
    )
    page.write(file)


def rate_report(file: Path, choice: RateChoice) -> None:
    """Write the range test, the short runs and the choice."""
    page = Page(Words("Weft: learning rate", "Weft：学习率"))
    page.section(Words("Range test", "学习率范围测试"))
    page.charts(*(_range(choice, english) for english in (True, False)))
    page.section(Words("Short runs with the run's schedule", "按正式日程的短程训练"))
    page.charts(*(_runs(choice, english) for english in (True, False)))
    page.table(
        [(f"{rate:g}", f"{loss:.4f}") for rate, loss in choice.runs.items()],
        (Words("learning rate", "学习率"), Words("validation loss", "验证损失")),
        "nn",
    )
    page.paragraph(
        Words(
            f"Chosen: {choice.chosen:g}, measured at width {choice.width} after {choice.steps} steps. A "
            "longer run may want a somewhat lower rate.",
            f"选用 {choice.chosen:g}：在宽度 {choice.width}、训练 {choice.steps} 步后测得。"
            "更长的训练可能需要略低的学习率。",
        )
    )
    page.write(file)


def _speed(micro: MicroChoice, english: bool) -> str:
    rows = [float(t.rows) for t in micro.trials]
    return line_chart(
        [Series("", rows, [t.tokens_per_second for t in micro.trials])],
        x_label="rows" if english else "行",
        y_label="tokens/s" if english else "词元/秒",
        log_x=True,
    )


def _noise(noise: Noise, english: bool) -> str:
    return line_chart(
        [Series("", [float(s) for s in noise.steps], list(noise.scales))],
        x_label="step" if english else "步",
        y_label="noise scale, targets" if english else "噪声尺度（目标词元）",
        log_y=True,
    )


def _range(choice: RateChoice, english: bool) -> str:
    test = choice.test
    return line_chart(
        [
            Series("", test.rates, test.losses, faint=True),
            Series("loss" if english else "损失", test.rates, test.smooth),
        ],
        x_label="learning rate" if english else "学习率",
        y_label="loss" if english else "损失",
        log_x=True,
    )


def _runs(choice: RateChoice, english: bool) -> str:
    return line_chart(
        [Series("", list(choice.runs), list(choice.runs.values()))],
        x_label="learning rate" if english else "学习率",
        y_label="validation loss" if english else "验证损失",
        log_x=True,
    )
