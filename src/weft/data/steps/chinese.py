"""Rules for Chinese text. Words are not counted, because no space shows them: characters are.

====================  ======================================================================
han                   number of Han characters (Gopher's number of words)
han_share             share of Han among what is no white space: a page in Chinese has text
punctuation           prose has some, symbol art has little else
runs                  characters repeated five times and more
sentence              mean letters a sentence: crumbs of navigation, text without an end
keywords              few function characters (的, 是, 之 ...) and hardly a sentence end: a list of
                      search words. Verse has few of the former, but ends its lines
template              stock phrases of web pages, in a thousand characters
damage                text broken beyond repair (锟斤拷, 烫烫烫, U+FFFD), in a thousand characters
====================  ======================================================================

Repetition in Chinese is Gopher's, with n-grams of characters and limits of its own
(``quality.zh_repetition``).
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from weft.data.config_quality import ChineseConfig
from weft.data.rules import Rule, at_least, at_most
from weft.data.textstats import TextStats

CHINESE = "chinese"
REPETITION = "chinese_repetition"

TEMPLATES = (
    "点击查看", "点击进入", "点击下载", "点击这里", "版权所有", "未经许可", "未经授权",
    "转载请注明", "免责声明", "扫码关注", "扫描二维码", "关注公众号", "加微信", "微信号",
    "免费领取", "立即购买", "立即注册", "立即下载", "在线客服", "联系客服", "上一篇",
    "下一篇", "返回顶部", "返回首页", "加入收藏", "设为首页", "网站地图", "友情链接",
    "相关推荐", "热门推荐", "猜你喜欢", "最新章节", "全文阅读", "手机阅读", "ICP备",
    "公网安备", "客服电话", "全国热线", "点击咨询", "在线咨询", "请登录", "网友评论",
    "发表评论", "分享到",
)  # fmt: skip
_TEMPLATE = "|".join(TEMPLATES)
_DAMAGE = "锟斤拷|烫烫烫|屯屯屯|\ufffd"
_PROSE = 200  # letters a sentence above which text without function characters is no verse


def chinese(texts: pa.Array, stats: TextStats, config: ChineseConfig) -> list[Rule]:
    """The rules for the large_string array [N] that ``stats`` measured."""
    han = stats["han"]
    sentence = stats.ratio("letters", "sentences")
    function = stats.ratio("function_chars", "han")
    ends = stats["marks"] / np.maximum(stats["letters"], 1)
    listing = (function < config.min_function) & ((sentence > _PROSE) | (ends < config.min_punctuation))
    per_thousand = 1000 / np.maximum(stats["chars"], 1)
    return [
        at_least(CHINESE, "han", han, config.min_han),
        at_most(CHINESE, "han", han, config.max_han),
        at_least(CHINESE, "han_share", stats.ratio("han", "visible"), config.min_han_share),
        at_most(CHINESE, "damage", _count(texts, _DAMAGE) * per_thousand, config.max_damage),
        at_most(CHINESE, "punctuation", stats.ratio("marks", "visible"), config.max_punctuation),
        at_most(CHINESE, "runs", stats.ratio("run_chars", "visible"), config.max_runs),
        Rule(CHINESE, "keywords", function, listing),
        at_least(CHINESE, "punctuation", stats.ratio("marks", "visible"), config.min_punctuation),
        at_least(CHINESE, "sentence", sentence, config.min_sentence),
        at_most(CHINESE, "sentence", sentence, config.max_sentence),
        at_most(CHINESE, "template", _count(texts, _TEMPLATE) * per_thousand, config.max_template),
    ]


def _count(texts: pa.Array, pattern: str) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    counts = pc.count_substring_regex(pc.fill_null(texts, ""), pattern)
    found: np.ndarray[tuple[int], np.dtype[np.int64]] = counts.to_numpy(zero_copy_only=False)
    return found
