"""Pages of attention: offline, safe, small."""

import inspect
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from inductionlens import InputError
from inductionlens.patterns_view import attention_html, show_attention


def random_pattern(heads=2, pos=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(heads, pos, pos, generator=generator)
    return scores.masked_fill(~torch.ones(pos, pos, dtype=torch.bool).tril(), -torch.inf).softmax(-1)


class Page(HTMLParser):
    """A page's tags and its scripts, split as a browser splits them."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.scripts = [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] == "script":
            self.scripts.append(data)


def given(html):
    """The values that the page hands to its script."""
    return json.loads(re.findall(r"CircuitsVis\.AttentionHeads,\n\s*(\{.*\})\n", html)[-1])


def words(n):
    return [f"w{index}" for index in range(n)]


def test_the_page_holds_the_pattern_rounded_with_its_words():
    pattern = random_pattern()
    for kind in (pattern, pattern.numpy(), pattern.half(), pattern.double().numpy()):
        found = given(attention_html(kind, words(5), ["2.2", "2.3"]))
        assert found["tokens"] == words(5)
        assert found["attentionHeadNames"] == ["2.2", "2.3"]
        assert np.allclose(found["attention"], pattern, atol=1.1e-3)
        assert all(round(value, 3) == value for value in np.ravel(found["attention"]).tolist())
    assert given(attention_html(pattern, words(5)))["attentionHeadNames"] == ["0", "1"]


def test_the_page_asks_nothing_of_the_network():
    html = attention_html(random_pattern(), words(5))
    page = Page(html)
    assert [tag for tag, _ in page.tags if tag not in ("div", "meta", "title")] == ["script"]
    assert not any({"src", "href"} & set(attrs) for _, attrs in page.tags)
    assert "unpkg" not in html
    assert not re.search(r"""(\bfrom|\bimport)\s*\(?["']https?:""", html)


NASTY = ["</script><b>", "<!--<script>", "</SCRIPT >", "\u2028'\"\\", "\n", "CircuitsVis.AttentionHeads,\n", "é�"]


def test_no_token_or_name_breaks_out():
    plain = Page(attention_html(random_pattern(pos=7), words(7)))
    for tokens, names in ((NASTY, None), (words(7), NASTY[:2])):
        html = attention_html(random_pattern(pos=7), tokens, names)
        page = Page(html)
        assert [tag for tag, _ in page.tags] == [tag for tag, _ in plain.tags]
        script = html[html.index("<script") :]
        assert script.lower().count("</script") == 1
        assert "<!--" not in script
        assert given(html)["tokens"] == tokens
        assert given(html)["attentionHeadNames"] == (names or ["0", "1"])


def test_the_first_heads_are_drawn_and_the_page_stays_small():
    pattern = random_pattern(heads=9, pos=200)
    html = attention_html(pattern, words(200))
    assert given(html)["attentionHeadNames"] == ["0", "1", "2", "3"]
    assert np.allclose(given(html)["attention"], pattern[:4], atol=6e-4)
    assert "4 of 9 heads are drawn" in html
    assert len(html) < 3e6
    assert "heads are drawn" not in attention_html(pattern, words(200), max_heads=9)


def test_the_pattern_is_left_alone():
    pattern = random_pattern().numpy()
    before = pattern.copy()
    attention_html(pattern, words(5))
    assert np.array_equal(pattern, before)


def test_a_notebook_gets_the_same_page():
    pytest.importorskip("IPython")
    shown = show_attention(random_pattern(), words(5))
    assert given(shown.data) == given(attention_html(random_pattern(), words(5)))


good = random_pattern()
BAD = {
    "not_square": (
        (good[:, :4], words(5)),
        r"pattern must be \[head, query, key\], as many keys as queries; got shape \(2, 4, 5\)",
    ),
    "no_head": ((good[:0], words(5)), r"got shape \(0, 5, 5\)"),
    "few_tokens": ((good, words(4)), "tokens must be the pattern's 5 tokens; got 4"),
    "one_string": ((good, "abcde"), "tokens must be a list of words"),
    "many_tokens": ((torch.eye(201)[None], words(201)), "At most 200 tokens can be drawn, got 201: cut the sequence"),
    "names": ((good, words(5), ["2.2"]), "heads must name each of the pattern's 2 heads; got 1 names"),
    "max_heads": ((good, words(5), None, 0), "max_heads must be at least 1; got 0"),
    "nan": ((good * torch.nan, words(5)), "pattern holds NaN or infinity"),
    "scores": ((good - 1, words(5)), r"pattern must be attention after the softmax, in \[0, 1\]; got -1 to 0"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("function", [attention_html, show_attention])
def test_bad_input_is_refused(function, case):
    args, said = BAD[case]
    with pytest.raises(InputError, match=said):
        function(*args)


def test_a_pattern_without_heads_is_refused_where_shapes_are_not_checked():
    with pytest.raises(InputError, match=r"pattern must be \[head, query, key\].* got shape \(5, 5\)"):
        inspect.unwrap(attention_html)(good[0], words(5))
